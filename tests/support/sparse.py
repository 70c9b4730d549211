"""Large weights that take no room on the disk."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_zeros(file: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """Write fp32 tensors of zeros as safetensors; return their bytes, and those of the largest."""
    begin, header = 0, {}
    for name, shape in shapes.items():
        end = begin + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    packed = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(packed).to_bytes(8, "little") + packed)
        opened.truncate(8 + len(packed) + begin)
    return begin, max(4 * math.prod(shape) for shape in shapes.values())
