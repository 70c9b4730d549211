"""An autoencoder of diffusers that decodes pictures and videos on many ranks, each some of the rows.

    vae = row_parallel(pipeline.codec.vae, mesh)  # on each rank

The middle of the decoder, which attends over the whole picture at its smallest, runs whole on every rank; of
what follows each rank computes its rows. Convolutions get a row of each neighbour, group norms the statistics of
all rows: the pixels are those of an undivided decode, up to rounding, without tiles and seams.
"""

import copy
from typing import TypeVar

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from pure.checks import check_argument
from pure.distributed.mesh import Axis, neighbours
from pure.distributed.row_layers import OwnRows, RowConvolution, RowDecoder, RowGroupNorm

Module = TypeVar("Module", bound=nn.Module)

__all__ = ["row_parallel"]

FIRST = ("conv_in", "mid_block")
"""What runs whole; what comes after is divided."""
PADS_FIRST = ("HunyuanVideoCausalConv3d",)
"""Modules that pad, and whose `conv` then does not."""
PIXELWISE = (nn.SiLU, nn.ReLU, nn.GELU, nn.Mish, nn.Dropout, nn.Identity)
PIXELWISE_NAMES = ("WanRMS_norm", "QwenImageRMS_norm", "DupUp3D")


def row_parallel(vae: Module, mesh: DeviceMesh) -> Module:
    """Return the autoencoder with a decoder whose rows all ranks of a mesh share, whatever its axes.

    Every rank decodes the same latents and returns all pixels. The given autoencoder stays as it is, and has the same
    parameters, which are whole on every rank: what is divided is the work, and the memory of activations.
    Encoding is not divided.

    Args:
        vae: an `AutoencoderKL`, `AutoencoderKLFlux2`, `AutoencoderKLQwenImage`, `AutoencoderKLWan` or
            `AutoencoderKLHunyuanVideo`, or another whose decoder is made as theirs.
        mesh: as `make_mesh` gives it; every rank of it must call this.

    Raises:
        ValueError: the decoder has a layer of which nothing is known here.
        TypeError: an argument is something else.
    """
    check_argument(vae, nn.Module, "an autoencoder of diffusers is divided")
    along = neighbours(mesh)
    decoder, encoder = getattr(vae, "decoder", None), getattr(vae, "encoder", None)
    if not isinstance(decoder, nn.Module) or not all(hasattr(decoder, name) for name in FIRST):
        raise ValueError(f"{type(vae).__name__}: rows are divided after a decoder's mid_block, and it has none")
    middle = decoder.get_submodule("mid_block")
    changed: dict[int, nn.Module] = {id(middle): OwnRows(middle, along)}
    for name, child in decoder.named_children():
        changed |= {} if name in FIRST else _changed(child, f"{type(vae).__name__}.decoder.{name}", along)
    if along.size == 1:
        return vae
    # What the memo of a copy lists is taken in place of a copy: all parameters, and the layers that were changed.
    same = {id(tensor): tensor for tensor in (*vae.parameters(), *vae.buffers())}
    rows = RowDecoder(copy.deepcopy(decoder, {**same, **changed}), decoder, along)
    return copy.deepcopy(vae, {**same, id(decoder): rows, id(encoder): encoder})


def _changed(module: nn.Module, name: str, along: Axis) -> dict[int, nn.Module]:
    """Return what stands in place of the layers of a module that need rows of other ranks, by their identity."""
    if isinstance(module, nn.GroupNorm):
        return {id(module): RowGroupNorm(module, along)}
    convolution = module.conv if type(module).__name__ in PADS_FIRST else module
    if isinstance(convolution, nn.Conv2d | nn.Conv3d):
        _check(convolution, name, pads=convolution is module and type(module) in (nn.Conv2d, nn.Conv3d))
        return {} if convolution.kernel_size[-2] == 1 else {id(module): RowConvolution(module, along)}
    children = dict(module.named_children())
    if not children and not _pixelwise(module):
        raise ValueError(f"{name} is a {type(module).__name__}, whose rows cannot be divided; leave the decoder whole")
    found: dict[int, nn.Module] = {}
    for each, child in children.items():
        found |= _changed(child, f"{name}.{each}", along)
    return found


def _check(convolution: nn.Conv2d | nn.Conv3d, name: str, pads: bool) -> None:
    """Refuse a convolution that returns another number of rows than it is given, or reads further than one away."""
    rows, stride, dilation = (each[-2] for each in (convolution.kernel_size, convolution.stride, convolution.dilation))
    padding = convolution.padding[-2] if pads else rows // 2
    if (rows, padding) not in ((1, 0), (3, 1)) or stride != 1 or dilation != 1:
        raise ValueError(
            f"{name} is a convolution of {rows} rows with padding {padding}, stride {stride} and dilation {dilation}; "
            "rows are divided for 1 or 3 rows with padding 0 or 1, stride 1 and dilation 1; leave the decoder whole"
        )


def _pixelwise(module: nn.Module) -> bool:
    """Whether a layer computes every pixel from itself, or repeats it."""
    if isinstance(module, nn.Upsample):
        return module.mode in ("nearest", "nearest-exact")
    return isinstance(module, PIXELWISE) or type(module).__name__ in PIXELWISE_NAMES
