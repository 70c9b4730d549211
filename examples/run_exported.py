"""Run a package of `puredit export` with torch and safetensors alone; nothing here imports puredit.

puredit export --steps 12 --prompt "a red apple" --decoder --output run.pt2
python examples/run_exported.py run.json run-start.safetensors latents.safetensors
"""

import json
import struct
import sys
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

layout_file, start_file, latents_file = map(Path, sys.argv[1:])
layout = json.loads(layout_file.read_text(encoding="utf-8"))
device = layout["device"]


def read(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors into aligned memory of their own: in a file they begin at any address."""
    return {name: each.clone().to(device) for name, each in load_file(path).items()}


def take(tensors: dict[str, torch.Tensor], part: str, prefix: str = "") -> list[torch.Tensor]:
    """Return the tensors of a part of the layout, in its order; a package checks neither shapes nor dtypes."""
    found = [tensors[prefix + each["name"]] for each in layout[part]]
    for each, tensor in zip(layout[part], found, strict=True):
        here = [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        assert here == [each["shape"], each["dtype"]], f"{each['name']} is {here}"
    return found


def png(pixels: torch.Tensor) -> bytes:
    """Return pixels (3, H, W) in 0 to 1 as a PNG file."""
    values = (pixels.float().cpu() * 255).round().to(torch.uint8).permute(1, 2, 0)
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


# The package is compiled for this processor's kind; the weights are in it, or in a file that several packages share.
step = torch._inductor.aoti_load_package(str(layout_file.parent / layout["package"]))
outside = layout["weights"]
weights = []
if outside is not None:
    stored = read(layout_file.parent / outside["file"])
    weights = [stored[name] for name in outside["names"]]

# A state has a fixed part, what the prompt became, and a moving one: latents, histories and counts.
start, inputs = read(start_file), read(layout_file.parent / layout["inputs_file"])
fixed, moving = take(start, "fixed"), take(start, "moving")
marks = ""
with torch.no_grad():
    for number in range(layout["steps"]):
        *moving, computed, change = step(weights, fixed, moving, take(inputs, "inputs", f"{number}."))
        marks += "#" if computed else "."
print(marks, "(# computed, . skipped)")

after = {each["name"]: tensor for each, tensor in zip(layout["moving"], moving, strict=True)}
latents = torch.stack([share * after[name] for name, share in layout["latents"].items()]).sum(0)
save_file({"latents": latents.cpu().contiguous()}, latents_file)
print("saved", latents_file)

if layout["decoder"] is not None:
    decode = torch._inductor.aoti_load_package(str(layout_file.parent / layout["decoder"]))
    frames = decode(latents)
    for number, frame in enumerate(frames.reshape(-1, *frames.shape[-3:])):
        picture = latents_file.with_name(f"{latents_file.stem}-{number}.png")
        picture.write_bytes(png(frame))
        print("saved", picture)
