"""Activations beyond the largest fp16 number: clipped where diffusers clips them, to the same bits.

These are the families of which diffusers clips. Of the others, a test of each says that they overflow as diffusers' do.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import torch

import pure
from pure.models.common.layers import FP16_MAX
from pure.models.flux.denoiser import flux
from pure.models.flux2.denoiser import flux2
from pure.models.ovis.denoiser import ovis
from pure.models.qwen_image.denoiser import qwen_image
from tests.support import flux2 as tiny_flux2
from tests.support import ovis as tiny_ovis
from tests.support import qwen_image as tiny_qwen_image
from tests.support import tiny
from tests.support.exact import piece_by_piece

PEAK = 6e4  # below the largest number; a sum of two such is beyond it
GATE = 4.0
PICTURES = ((3, 4), (2, 5))


@attrs.frozen
class Family:
    """A random transformer, arguments of its forward, and the same for ours."""

    build: Callable[[Any], pure.Denoiser]
    made: Callable[[], torch.nn.Module]
    call: Callable[[Any], dict[str, Any]]  # of the model
    inputs: Callable[[dict[str, Any]], tuple[Any, torch.Tensor, torch.Tensor]]


def qwen_inputs(call: dict[str, Any]) -> tuple[Any, torch.Tensor, torch.Tensor]:
    return tiny_qwen_image.conditioning(call), tiny_qwen_image.latents(call), call["timestep"]


def qwen_call(model: Any) -> dict[str, Any]:
    return tiny_qwen_image.call(model, 2, 7, PICTURES, (7, 4))


FAMILIES = {
    "flux": Family(flux, tiny.transformer, lambda model: tiny.call(model, 2), tiny.inputs),
    "flux2": Family(flux2, tiny_flux2.transformer, lambda model: tiny_flux2.call(model, 2), tiny_flux2.inputs),
    "ovis": Family(ovis, tiny_ovis.transformer, lambda model: tiny_ovis.call(model, 2), tiny_ovis.inputs),
    "qwen-image": Family(qwen_image, tiny_qwen_image.transformer, qwen_call, qwen_inputs),
}
JOINT, SINGLE = r"transformer_blocks\.\d+", r"single_transformer_blocks\.\d+"


@attrs.frozen
class Place:
    """Where a family clips: what blocks add to a stream, times a gate. Names are patterns of modules."""

    family: str
    embedder: str  # of the stream
    modulation: str  # has the gate
    added: str
    blocks: str


PLACES = (
    Place("flux", "context_embedder", rf"{JOINT}\.norm1_context\.linear", rf"{JOINT}\.ff_context\.net\.2", JOINT),
    Place("flux", "x_embedder", rf"{SINGLE}\.norm\.linear", rf"{SINGLE}\.proj_out", SINGLE),
    Place("flux2", "context_embedder", r"\w+_txt\.linear", rf"{JOINT}\.ff_context\.linear_out", JOINT),
    Place("flux2", "x_embedder", r"single_stream_\w+\.linear", rf"{SINGLE}\.attn\.to_out", SINGLE),
    Place("ovis", "context_embedder", rf"{JOINT}\.norm1_context\.linear", rf"{JOINT}\.ff_context\.net\.2", JOINT),
    Place("ovis", "x_embedder", rf"{SINGLE}\.norm\.linear", rf"{SINGLE}\.proj_out", SINGLE),
    Place("qwen-image", "txt_in", rf"{JOINT}\.txt_mod\.1", rf"{JOINT}\.txt_mlp\.net\.2", JOINT),
    Place("qwen-image", "img_in", rf"{JOINT}\.img_mod\.1", rf"{JOINT}\.img_mlp\.net\.2", JOINT),
)
places = pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.family}-{place.embedder}")


@contextmanager
def peaks(model: torch.nn.Module, pattern: str) -> Iterator[dict[str, float]]:
    """Largest magnitudes that modules return, by the names of those that match."""
    found: dict[str, float] = {}

    def watching(name: str) -> Callable[..., None]:
        def watch(module: torch.nn.Module, given: Any, made: Any) -> None:
            found[name] = max(float(x.abs().max()) for x in (made if isinstance(made, tuple) else (made,)))

        return watch

    hooks = [
        module.register_forward_hook(watching(name))
        for name, module in model.named_modules()
        if re.fullmatch(pattern, name)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def predicted(model: torch.nn.Module, call: dict[str, Any], tokens: int) -> torch.Tensor:
    """What diffusers predicts, without the tokens of reference pictures."""
    with torch.no_grad():
        return model(**call, return_dict=False)[0][:, :tokens]


def amplified(family: Family, place: Place) -> Any:
    """An fp32 model that embeds and adds numbers up to `PEAK`."""
    model: Any = family.made()
    call = family.call(model)
    for pattern, target in ((place.embedder, PEAK), (place.modulation, GATE), (place.added, PEAK)):
        with peaks(model, pattern) as found:
            predicted(model, call, 1)
        assert found, f"{pattern} names no module"
        with torch.no_grad():
            for name, peak in found.items():
                for parameter in model.get_submodule(name).parameters():
                    parameter.mul_(target / peak)
    return model


@places
def test_clipped_activations_are_equal_bit_for_bit(place: Place) -> None:
    family = FAMILIES[place.family]
    model = amplified(family, place)
    with peaks(model, place.blocks) as wide:
        predicted(model, family.call(model), 1)
    assert min(wide.values()) > 1.1 * FP16_MAX, "in fp32 every block returns more than fp16 holds"
    model = torch.nn.Module.to(model, torch.float16)
    call = family.call(model)
    inputs = family.inputs(call)
    with peaks(model, place.blocks) as narrow:
        expected = predicted(model, call, inputs[1].shape[1])
    assert set(narrow.values()) == {FP16_MAX} and expected.isfinite().all()
    assert torch.equal(piece_by_piece(family.build(model.config), model, *inputs), expected)


@pytest.mark.parametrize("place", [p for p in PLACES if p.blocks == JOINT], ids=lambda p: f"{p.family}-{p.embedder}")
def test_a_block_that_leaves_out_the_text_clips_the_image_as_a_whole_block(place: Place) -> None:
    family = FAMILIES[place.family]
    model = torch.nn.Module.to(amplified(family, place), torch.float16)
    conditioning, latents, timestep = family.inputs(family.call(model))
    denoiser, weights = family.build(model.config), dict(model.state_dict())
    with torch.no_grad():
        prepared = denoiser.prepare(weights, conditioning)
        hidden, context = denoiser.embed(weights, prepared, latents, timestep)
        run, group = denoiser.blocks[0].run, denoiser.bind(weights).blocks[0]
        assert isinstance(run, pure.Ending)
        whole = run(group, hidden, context, denoiser.attend)
        ending = run.last(group, hidden, context, denoiser.attend)
    assert torch.equal(ending.text, hidden.text) and whole.image.isfinite().all()
    clipped = ending.image if place.embedder == "img_in" else whole.text
    assert float(clipped.abs().max()) == FP16_MAX
    # Of other numbers of rows attention may round otherwise.
    torch.testing.assert_close(ending.image, whole.image, rtol=4e-3, atol=4e-3)
