"""Decoders whose rows are divided among ranks: the pixels of an undivided decode, and counted collectives."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pure.distributed import Sizes, make_mesh, row_parallel
from pure.distributed.mesh import axis
from pure.distributed.row_layers import RowGroupNorm
from pure.models import embedded, load_pipeline
from pure.testing import toys
from tests.support import chat_pipelines, hunyuan_video_pipelines, qwen_image_pipelines, ranks, tiny, wan_pipelines
from tests.support.sharded import Collectives, difference

# Latents of one sample: channels, frames of a video, rows that do not divide evenly, columns.
MADE: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "AutoencoderKL": (functools.partial(tiny.vae, 4), (4, 7, 6)),
    "AutoencoderKL of the package": (lambda: load_pipeline(embedded()).codec.vae, (8, 7, 6)),
    "AutoencoderKLFlux2": (chat_pipelines.flux2_vae, (2, 7, 6)),
    "AutoencoderKLQwenImage": (qwen_image_pipelines.vae, (4, 1, 7, 6)),
    "AutoencoderKLWan": (wan_pipelines.vae, (wan_pipelines.CHANNELS, 3, 5, 4)),
    "AutoencoderKLWan 2.2": (functools.partial(wan_pipelines.vae, residual=True), (48, 3, 5, 4)),
    "AutoencoderKLHunyuanVideo": (hunyuan_video_pipelines.vae, (4, 2, 5, 4)),
    # More frames than a temporal tile of diffusers has: tiles are decoded one after the other, and blended.
    "AutoencoderKLHunyuanVideo in tiles of frames": (hunyuan_video_pipelines.vae, (4, 5, 3, 4)),
}


@functools.cache
def made(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = MADE[name][0]().eval().requires_grad_(False)
        for parameter in vae.parameters():  # a random decoder is faint, and its biases are small
            parameter.mul_(1.5).add_(0.1 * torch.randn_like(parameter))
        return vae


def decoded(vae: Any, name: str, count: int = 1) -> torch.Tensor:
    latents = torch.randn(count, *MADE[name][1], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return vae.decode(latents, return_dict=False)[0]


def on_a_rank(name: str, count: int, samples: int) -> tuple[torch.Tensor, dict[str, int], int]:
    vae = row_parallel(made(name), make_mesh(Sizes(ulysses=count)))
    assert all(one is other for one, other in zip(vae.parameters(), made(name).parameters(), strict=False))
    assert made(name).decoder is not vae.decoder
    decoded(vae, name, samples)  # caches of a decode leave nothing behind for the next one
    with Collectives() as watch:
        found = decoded(vae, name, samples)
    return found, dict(watch.counts), sum(parameter.nbytes for parameter in vae.parameters())


@pytest.mark.parametrize("name", MADE)
def test_ranks_decode_as_one_process_does(name):
    """Rounding apart: convolutions of fewer rows and statistics of several parts round differently."""
    whole = decoded(made(name), name)
    assert whole.std() > 0.05 and not torch.equal(whole[..., :1, :], whole[..., -1:, :])
    found = ranks.run(on_a_rank, 2, name, 2, 1)
    assert all(difference(pixels, whole) <= 1e-5 for pixels, _, _ in found)
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderKLWan"])
def test_four_ranks_and_several_samples(name):
    whole = decoded(made(name), name, 2)
    for pixels, _, _ in ranks.run(on_a_rank, 4, name, 4, 2):
        assert difference(pixels, whole) <= 1e-5


def layers(name: str) -> tuple[int, int]:
    """Convolutions of three rows, and group norms, behind the middle."""
    decoder = made(name).decoder
    after = [module for key, module in decoder.named_modules() if not key.startswith(("conv_in", "mid_block"))]
    wide = [each for each in after if isinstance(each, nn.Conv2d | nn.Conv3d) and each.kernel_size[-2] == 3]
    return len(wide), sum(isinstance(each, nn.GroupNorm) for each in after)


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderKLWan"])
def test_collectives_are_counted(name):
    """An exchange with the neighbours for a convolution, statistics for a norm, and in the end the rows of all."""
    wide, norms = layers(name)
    calls = MADE[name][1][1] if name == "AutoencoderKLWan" else 1  # Wan decodes frame by frame
    sent = {"all_to_all_single": calls * wide, "all_gather_into_tensor": calls * (norms + 1)}
    assert ranks.run(on_a_rank, 2, name, 2, 1)[0][1] == sent


def test_fewer_rows_than_ranks_are_decoded_whole():
    name = "AutoencoderKLHunyuanVideo in tiles of frames"  # three rows
    for pixels, sent, _ in ranks.run(on_a_rank, 4, name, 4, 1):
        assert torch.equal(pixels, decoded(made(name), name)) and not sent


class Largest(torch.overrides.TorchFunctionMode):
    """The most numbers that a convolution or an activation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.conv2d, nn.functional.silu):
            self.numbers = max(self.numbers, out.numel())
        return out


def _largest(count: int) -> int:
    vae = row_parallel(made("AutoencoderKL"), make_mesh(Sizes(tp=count)))
    with Largest() as watch:
        decoded(vae, "AutoencoderKL")
    return watch.numbers


def test_the_memory_of_activations_is_divided():
    whole = ranks.run(_largest, 1, 1)[0]
    # Of 14 rows 8 and 6, of which a convolution computes one more for each neighbour.
    assert [found * 14 for found in ranks.run(_largest, 2, 2)] == [whole * 9, whole * 7]


NORM = nn.GroupNorm(2, 4, eps=0.5)  # a large constant, which shows


def _normed(x: torch.Tensor) -> torch.Tensor:
    along = axis(make_mesh(Sizes(ulysses=2)), "ulysses")
    return RowGroupNorm(NORM, along)(x.split([4, 1], dim=-2)[along.index])


def test_a_group_norm_of_uneven_rows_is_that_of_all():
    x = toys.normal(2, 4, 5, 3, seed=1) + torch.arange(5.0)[:, None]  # each row has another mean
    with torch.no_grad():
        assert difference(torch.cat(ranks.run(_normed, 2, x), dim=-2), NORM(x)) <= 1e-6


WRONG = {
    "up_blocks.0.upsamplers.0.conv": (
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ),
    "conv_act": (nn.LayerNorm(4),),
}


def _refusals() -> list[str]:
    mesh, said = make_mesh(Sizes()), []
    assert row_parallel(alone := tiny.vae(), mesh) is alone, "nobody shares its rows"
    made: list[Any] = [tiny.clip()]
    for name, modules in WRONG.items():
        for module in modules:
            made.append(tiny.vae())
            made[-1].decoder.set_submodule(name, module)
    for each in made:
        try:
            row_parallel(each, mesh)
            said.append("nothing")
        except ValueError as error:
            said.append(str(error))
    return said


def test_what_cannot_be_divided_is_named():
    other, *convolutions, between, norm = ranks.run(_refusals, 1)[0]
    assert "CLIPTextModel: rows are divided after a decoder's mid_block, and it has none" in other
    name = "AutoencoderKL.decoder.up_blocks.0.upsamplers.0.conv is a"
    wrong = ((0, 1, 1), (1, 2, 1), (1, 1, 2))
    for said, (padding, stride, dilation) in zip(convolutions, wrong, strict=True):
        assert f"{name} convolution of 3 rows with padding {padding}, stride {stride} and dilation {dilation}" in said
    assert f"{name} Upsample, whose rows cannot be divided" in between
    assert "AutoencoderKL.decoder.conv_act is a LayerNorm, whose rows cannot be divided" in norm
