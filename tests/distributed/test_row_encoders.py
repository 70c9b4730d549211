"""Encoders whose rows are divided among ranks: the latents of an undivided encode, and what a rank computes of it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pure.distributed import Sizes, make_mesh, row_parallel
from pure.engine.engine import Order, Recipe
from pure.engine.maker import Maker
from pure.models import Request, load_pipeline
from pure.models.components import with_autoencoder
from tests.distributed.test_decoders import Largest, made
from tests.support import ranks, wan_pipelines
from tests.support.sharded import Collectives, difference

# Pixels of one sample: channels, frames of a video, rows that become a number of latents' that is odd, columns.
PIXELS: dict[str, tuple[int, ...]] = {
    "AutoencoderKL": (3, 18, 8),
    "AutoencoderKL of the package": (3, 36, 16),
    "AutoencoderKLFlux2": (3, 14, 8),
    "AutoencoderKLQwenImage": (3, 1, 20, 16),
    "AutoencoderKLWan": (3, 9, 24, 16),
    "AutoencoderKLWan 2.2": (3, 5, 48, 32),
    "AutoencoderKLHunyuanVideo": (3, 5, 24, 16),
    # More frames than a temporal tile of diffusers has: tiles are encoded one after the other, and blended.
    "AutoencoderKLHunyuanVideo in tiles of frames": (3, 21, 24, 8),
}


def pixels(name: str, count: int = 1) -> torch.Tensor:
    return torch.randn(count, *PIXELS[name], generator=torch.Generator().manual_seed(1))


def encoded(vae: Any, given: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(given, return_dict=False)[0].parameters


def on_a_rank(name: str, count: int, given: torch.Tensor) -> tuple[torch.Tensor, dict[str, int]]:
    vae = row_parallel(made(name), make_mesh(Sizes(ulysses=count)))
    assert {id(one) for one in vae.parameters()} == {id(other) for other in made(name).parameters()}
    encoded(vae, given)  # caches of an encode leave nothing behind for the next one
    with Collectives() as watch:
        found = encoded(vae, given)
    return found, dict(watch.counts)


@pytest.mark.parametrize("name", PIXELS)
def test_ranks_encode_as_one_process_does(name):
    """Rounding apart: convolutions of fewer rows and statistics of several parts round differently."""
    whole = encoded(made(name), given := pixels(name))
    assert whole.std() > 0.02 and not torch.allclose(whole[..., :1, :], whole[..., -1:, :], atol=1e-3)
    assert whole.shape[-2] % 2, "ranks have different numbers of rows"
    found = ranks.run(on_a_rank, 2, name, 2, given)
    assert all(difference(latents, whole) <= 1e-5 and sent for latents, sent in found)
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_three_ranks_and_several_samples():
    whole = encoded(made("AutoencoderKLWan"), given := pixels("AutoencoderKLWan", 2))
    for latents, _ in ranks.run(on_a_rank, 3, "AutoencoderKLWan", 3, given):
        assert difference(latents, whole) <= 1e-5


def _beside(pipeline: Any, request: Any) -> torch.Tensor:
    pipeline = with_autoencoder(pipeline, row_parallel(pipeline.codec.vae, make_mesh(Sizes(ulysses=2))))
    return pipeline.encode(request).beside


def test_a_video_from_a_picture_begins_as_in_one_process(tmp_path):
    wan_pipelines.pipeline("i2v-2.2").save_pretrained(tmp_path)
    pipeline = load_pipeline(tmp_path)
    sizes: Any = {"images": [wan_pipelines.picture()], "frames": 5, "height": 32, "width": 32, "guidance_scale": 1.0}
    whole: Any = pipeline.encode(pipeline.request("a cat", **sizes))
    for beside in ranks.run(_beside, 2, pipeline, pipeline.request("a cat", **sizes)):
        assert difference(beside, whole.beside) <= 1e-5 and beside.std() > 0.1


@pytest.mark.parametrize("together", [False, True])
def test_processes_that_encode_pictures_together_do_so_in_every_batch(together):
    """Else one process would wait for another that knows the picture already."""
    rest: Any = {"denoiser": "cached", "plain": "plain", "caching": None, "fps": None, "notes": (), "idle": ()}
    given = Recipe(order=Order(), request=Request(prompts=("",)), **rest)
    engine: Any = SimpleNamespace(together=together)
    maker = Maker(engine)
    maker.read(given).request.once("picture", lambda: 1)
    assert maker.read(given).request.once("picture", lambda: 2) == (2 if together else 1)
    assert given.request.memo == ({} if together else {("picture", ()): ((), 1)})
    assert maker.read(given).request == given.request


def test_collectives_are_counted():
    """An exchange with the neighbours for a convolution of three rows, statistics for a norm, once the rows of all."""
    name = "AutoencoderKL"
    before = [each for key, each in made(name).encoder.named_modules() if key.startswith(("conv_in", "down_blocks"))]
    wide = [each for each in before if isinstance(each, nn.Conv2d) and each.kernel_size[-2] == 3]
    assert {each.stride[-2] for each in wide} == {1, 2}
    norms = sum(isinstance(each, nn.GroupNorm) for each in before)
    sent = {"all_to_all_single": len(wide), "all_gather_into_tensor": norms + 2}  # how many rows, and the rows
    assert ranks.run(on_a_rank, 2, name, 2, pixels(name))[0][1] == sent


@pytest.mark.parametrize(("rows", "count"), [(17, 3), (4, 3)], ids=["odd rows", "fewer rows than ranks"])
def test_what_does_not_divide_is_encoded_whole(rows, count):
    """Rows are halved here: 17 are no whole number of pairs, and 4 become 2."""
    given = pixels("AutoencoderKL")[..., :rows, :]
    for latents, sent in ranks.run(on_a_rank, count, "AutoencoderKL", count, given):
        assert torch.equal(latents, encoded(made("AutoencoderKL"), given)) and not sent


def _largest(count: int) -> int:
    vae = row_parallel(made("AutoencoderKL"), make_mesh(Sizes(tp=count)))
    with Largest() as watch:
        encoded(vae, pixels("AutoencoderKL"))
    return watch.numbers


def test_the_memory_of_activations_is_divided():
    whole = ranks.run(_largest, 1, 1)[0]
    # Of 18 rows 10 and 8, of which a convolution computes one more for the neighbour.
    assert [found * 18 for found in ranks.run(_largest, 2, 2)] == [whole * 11, whole * 9]


def _refusals() -> list[str]:
    mesh, said = make_mesh(Sizes()), []
    wrong = (nn.Conv2d(4, 4, 3, padding=1, stride=3), nn.Conv2d(4, 4, 1, stride=2), nn.LayerNorm(4))
    for module in wrong:
        vae = made.__wrapped__("AutoencoderKL")
        vae.encoder.set_submodule("down_blocks.0.resnets.0.conv1", module)
        try:
            row_parallel(vae, mesh)
        except ValueError as error:
            said.append(str(error))
    return said


def test_what_cannot_be_divided_is_named():
    three, one, norm = ranks.run(_refusals, 1)[0]
    name = "AutoencoderKL.encoder.down_blocks.0.resnets.0.conv1 is a"
    assert f"{name} convolution of 3 rows with padding 1, stride 3 and dilation 1" in three
    assert f"{name} convolution of 1 rows with padding 0, stride 2 and dilation 1" in one
    assert f"{name} LayerNorm, whose rows cannot be divided; leave it whole" in norm
