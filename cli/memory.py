"""What the process does with memory it has freed."""

import ctypes
import sys
from collections.abc import Mapping

__all__ = ["keep_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # their numbers in malloc.h
LARGEST_TRIM, LARGEST_MMAP = 2**31 - 1, 2**25  # the most that each of them takes
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_memory(environ: Mapping[str, str]) -> bool:
    """Have glibc keep what this process frees, and say whether that was done.

    A step frees and allocates the same tensors again and again. By default glibc gives pieces of more
    than 128 KiB back to the system and fetches them anew, page by page: up to a quarter of the time
    of a small model on a CPU. Only a program may decide that for its process, never a library.
    Nothing is done where the environment sets it, or where there is no glibc.
    """
    if sys.platform != "linux" or any(name in environ for name in SETTINGS):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(TRIM_THRESHOLD, LARGEST_TRIM) and libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP))
