"""Reading a text file that a user names: of bounded size, and a pipe that nobody writes into is an error."""

import errno
import io
import os
import select
import stat
from pathlib import Path

__all__ = ["read_text"]

MOST = 64 * 2**20
"""Bytes of a file."""
PATIENCE = 10.0
"""Seconds that a pipe may be silent."""


def read_text(path: str | Path) -> str:
    """Return the UTF-8 text of a file, without a byte order mark, every end of a line as a newline.

    A pipe is read to its end, such as `<(command)` of a shell; a device as far as `MOST`.

    Raises:
        OSError: it cannot be read, is too large, or is a pipe that stays silent; `strerror` says which.
        UnicodeDecodeError: it is not UTF-8.
    """
    # A pipe would make opening it wait for somebody who writes.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            content = _piped(file.fileno())
        else:
            os.set_blocking(file.fileno(), True)
            content = file.read(MOST + 1)
    if len(content) > MOST:
        raise OSError(errno.EFBIG, f"it is larger than {MOST // 2**20} MiB")
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read()


def _piped(handle: int) -> bytes:
    found, poll = bytearray(), select.poll()
    poll.register(handle, select.POLLIN)
    while len(found) <= MOST:
        if not poll.poll(PATIENCE * 1000):
            raise OSError(errno.ETIMEDOUT, f"it is a pipe, and nothing came out of it for {PATIENCE:g} s")
        part = os.read(handle, 2**16)
        if not part:
            break
        found += part
    return bytes(found)
