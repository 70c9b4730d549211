"""An autoencoder of diffusers that encodes and decodes pictures and videos on many ranks, each some of the rows.

    vae = row_parallel(pipeline.codec.vae, mesh)  # on each rank

The middle of encoder and decoder, which attends over the whole picture at its smallest, runs whole on every rank; of
what comes before it in the encoder, and after it in the decoder, each rank computes its rows. Convolutions get rows of
each neighbour, group norms the statistics of all rows: the results are those of an undivided autoencoder, up to
rounding, without tiles and seams.
"""

import copy
import math
from typing import TypeVar

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from pure.checks import check_argument
from pure.distributed.mesh import Axis, neighbours
from pure.distributed.row_layers import AllRows, OwnRows, RowConvolution, RowDecoder, RowEncoder, RowGroupNorm

Module = TypeVar("Module", bound=nn.Module)

__all__ = ["row_parallel"]

ENDS = ("conv_in", "mid_block")
"""What a decoder runs whole, and divides what comes after; an encoder divides all that comes before its mid_block."""
PADS_FIRST = ("HunyuanVideoCausalConv3d", "Downsample2D")
"""Modules that pad, and whose `conv` then does not."""
PIXELWISE = (nn.SiLU, nn.ReLU, nn.GELU, nn.Mish, nn.Dropout, nn.Identity, nn.ModuleList)  # a list that is empty
PIXELWISE_NAMES = ("WanRMS_norm", "QwenImageRMS_norm", "DupUp3D", "AvgDown3D")
"""Modules that compute every pixel from itself, repeat it, or put those of a square together."""
ATTENDS = ("WanAttentionBlock", "QwenImageAttentionBlock")


def row_parallel(vae: Module, mesh: DeviceMesh) -> Module:
    """Return the autoencoder with an encoder and a decoder whose rows all ranks of a mesh share, whatever its axes.

    Every rank encodes the same pictures and decodes the same latents, and returns all of the result; all must do so
    together. The given autoencoder stays as it is, and has the same parameters, which are whole on every rank: what is
    divided is the work, and the memory of activations.

    Args:
        vae: an `AutoencoderKL`, `AutoencoderKLFlux2`, `AutoencoderKLQwenImage`, `AutoencoderKLWan` or
            `AutoencoderKLHunyuanVideo`, or another whose encoder and decoder are made as theirs. One without an
            encoder decodes only.
        mesh: as `make_mesh` gives it; every rank of it must call this.

    Raises:
        ValueError: encoder or decoder has a layer of which nothing is known here.
        TypeError: an argument is something else.
    """
    check_argument(vae, nn.Module, "an autoencoder of diffusers is divided")
    along = neighbours(mesh)
    decoder, encoder = _half(vae, "decoder"), _half(vae, "encoder") if getattr(vae, "encoder", None) else None
    middle = decoder.get_submodule("mid_block")
    changed: dict[int, nn.Module] = {id(middle): OwnRows(middle, along)}
    for name, child in decoder.named_children():
        changed |= {} if name in ENDS else _changed(child, f"{type(vae).__name__}.decoder.{name}", along, 1)
    divided = {} if encoder is None else _encoder_layers(encoder, f"{type(vae).__name__}.encoder", along)
    if along.size == 1:
        return vae
    # What the memo of a copy lists is taken in place of a copy: all parameters, and the layers that were changed.
    same = {id(tensor): tensor for tensor in (*vae.parameters(), *vae.buffers())}
    halves: dict[int, nn.Module] = {
        id(decoder): RowDecoder(copy.deepcopy(decoder, {**same, **changed}), decoder, along)
    }
    if encoder is not None:
        factor = math.prod(each.stride for each in divided.values() if isinstance(each, RowConvolution))
        halves[id(encoder)] = RowEncoder(copy.deepcopy(encoder, {**same, **divided}), encoder, along, factor)
    return copy.deepcopy(vae, {**same, **halves})


def _half(vae: nn.Module, name: str) -> nn.Module:
    """Return the encoder or the decoder.

    Raises:
        ValueError: it is not made as is known here.
    """
    half = getattr(vae, name, None)
    if not isinstance(half, nn.Module) or not all(hasattr(half, each) for each in ENDS):
        side = "before an encoder's" if name == "encoder" else "after a decoder's"
        raise ValueError(f"{type(vae).__name__}: rows are divided {side} mid_block, and it has none")
    return half


def _encoder_layers(encoder: nn.Module, name: str, along: Axis) -> dict[int, nn.Module]:
    """Return what stands in place of the layers of an encoder."""
    middle = encoder.get_submodule("mid_block")
    found: dict[int, nn.Module] = {id(middle): AllRows(middle, along)}
    for each in ("conv_in", "down_blocks"):
        found |= _changed(encoder.get_submodule(each), f"{name}.{each}", along, 2)
    return found


def _changed(module: nn.Module, name: str, along: Axis, stride: int) -> dict[int, nn.Module]:
    """Return what stands in place of the layers of a module that need rows of other ranks, by their identity.

    Args:
        module: a part of an encoder or a decoder.
        name: of the module.
        along: the ranks.
        stride: the largest that a convolution may have.
    """
    if isinstance(module, nn.GroupNorm):
        return {id(module): RowGroupNorm(module, along)}
    convolution = _convolution(module)
    if convolution is not None:
        _check(convolution, name, stride, pads=convolution is module and type(module) in (nn.Conv2d, nn.Conv3d))
        alone = convolution.kernel_size[-2] == 1
        return {} if alone else {id(module): RowConvolution(module, along, convolution.stride[-2])}
    children = dict(module.named_children())
    if (not children and not _pixelwise(module)) or type(module).__name__ in ATTENDS:
        raise ValueError(f"{name} is a {type(module).__name__}, whose rows cannot be divided; leave it whole")
    found: dict[int, nn.Module] = {}
    for each, child in children.items():
        found |= _changed(child, f"{name}.{each}", along, stride)
    return found


def _convolution(module: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    """Return the convolution that a module is, with or without a padding before it."""
    if type(module).__name__ in PADS_FIRST:
        module = module.get_submodule("conv")
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], nn.ZeroPad2d):
        module = module[1]
    return module if isinstance(module, nn.Conv2d | nn.Conv3d) else None


def _check(convolution: nn.Conv2d | nn.Conv3d, name: str, largest: int, pads: bool) -> None:
    """Refuse a convolution that returns other rows than one of each, or of two where it may, or reads from further."""
    rows, stride, dilation = (each[-2] for each in (convolution.kernel_size, convolution.stride, convolution.dilation))
    padding = convolution.padding[-2] if pads else rows // 2
    fits = stride <= (largest if rows == 3 else 1)
    if (rows, padding) not in ((1, 0), (3, 1)) or not fits or dilation != 1:
        strides = "stride 1" if largest == 1 else "stride 1, or 2 of 3 rows,"
        raise ValueError(
            f"{name} is a convolution of {rows} rows with padding {padding}, stride {stride} and dilation {dilation}; "
            f"rows are divided for 1 or 3 rows with padding 0 or 1, {strides} and dilation 1; leave it whole"
        )


def _pixelwise(module: nn.Module) -> bool:
    """Whether a layer computes every pixel from itself, or repeats it."""
    if isinstance(module, nn.Upsample):
        return module.mode in ("nearest", "nearest-exact")
    return isinstance(module, PIXELWISE) or type(module).__name__ in PIXELWISE_NAMES
