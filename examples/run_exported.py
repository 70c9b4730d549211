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


def take(tensors: dict[str, torch.Tensor], listed: list[dict], prefix: str) -> list[torch.Tensor]:
    """Return tensors in the order of a list; a package checks neither shapes nor dtypes."""
    found = [tensors[prefix + each["name"]] for each in listed]
    for each, tensor in zip(listed, found, strict=True):
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


folder = layout_file.parent
start, inputs = read(start_file), read(folder / layout["inputs_file"])
stored = read(folder / layout["weights_file"]) if layout["weights_file"] else {}
carry: dict[str, torch.Tensor] = {}  # what the solver remembers, from which the latents are read
marks = ""
# One part, or one for each expert, which takes some of the steps. Packages are compiled for this processor's kind.
for part in layout["parts"]:
    step = torch._inductor.aoti_load_package(str(folder / part["package"]))
    weights = [stored[name] for name in part["weights"]]  # none where they are in the package
    # A state has a fixed part, what the prompt became, and a moving one: latents, histories and counts.
    fixed, moving = (take(start, part[each], part["prefix"]) for each in ("fixed", "moving"))
    moving = [carry.get(each["name"], tensor) for each, tensor in zip(part["moving"], moving, strict=True)]
    with torch.no_grad():
        for number in part["steps"]:
            *moving, computed, change = step(weights, fixed, moving, take(inputs, part["inputs"], f"{number}."))
            marks += "#" if computed else "."
    after = {each["name"]: tensor for each, tensor in zip(part["moving"], moving, strict=True)}
    carry = {name: after[name] for name in layout["latents"]}
print(marks, "(# computed, . skipped)")

latents = torch.stack([share * carry[name] for name, share in layout["latents"].items()]).sum(0)
save_file({"latents": latents.cpu().contiguous()}, latents_file)
print("saved", latents_file)

if layout["decoder"] is not None:
    decode = torch._inductor.aoti_load_package(str(folder / layout["decoder"]))
    frames = decode(latents)
    for number, frame in enumerate(frames.reshape(-1, *frames.shape[-3:])):
        picture = latents_file.with_name(f"{latents_file.stem}-{number}.png")
        picture.write_bytes(png(frame))
        print("saved", picture)
