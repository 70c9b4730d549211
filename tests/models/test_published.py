"""The published checkpoints at their real sizes, without the weights: names, shapes, and one step on fake tensors."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from benchmarks.published import PUBLISHED, Published
from benchmarks.sizes import PLANS, measure
from pure.models.common.config import parameter_shapes
from pure.models.family import Family
from pure.models.registry import FAMILIES

NAMES = [found.name for found in PUBLISHED]
# Of each kind one: the others differ from it in weights, or in the number of blocks.
KINDS = [
    *("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.2-klein-4B", "AIDC-AI/Ovis-Image-7B"),
    *("Qwen/Qwen-Image", "Qwen/Qwen-Image-Edit-2511", "Tongyi-MAI/Z-Image-Turbo"),
    *("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
    *("hunyuanvideo-community/HunyuanVideo", NAMES[-1]),
]
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


class Watched(dict):
    """Parameters that remember which of them were read."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: object = None) -> object:
        if name in self:
            self.read.add(name)
        return super().get(name, default)


@pytest.mark.parametrize("found", PUBLISHED, ids=NAMES)
def test_names_and_shapes_are_those_of_diffusers(found: Published):
    assert parameter_shapes(found.found.config.read(found.config)) == {
        name: tuple(tensor.shape) for name, tensor in found.theirs().state_dict().items()
    }


def test_every_checkpoint_of_a_family_is_one_of_those():
    listed = {name for family in FAMILIES for kind in family.kinds for name in kind.checkpoints}
    assert set(NAMES) <= listed, sorted(set(NAMES) - listed)
    assert {found.family for found in PUBLISHED} == {family.name for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_every_parameter_is_read(family: Family):
    """A name that is in the table and nowhere in the code would be a parameter without effect."""
    found = next(found for found in PUBLISHED if found.family == family.name)
    few = {name: 1 for name in ("num_layers", "num_single_layers", "n_layers") if name in found.settings}
    config = family.config.read({**found.settings, **few})
    denoiser = family.denoiser(config)
    with torch.device("meta"), torch.no_grad():
        params = Watched({name: torch.empty(shape) for name, shape in parameter_shapes(config).items()})
        groups = [
            Watched({name.removeprefix(block.prefix): t for name, t in params.items() if name.startswith(block.prefix)})
            for block in denoiser.blocks
        ]
        conditioning, latents = found.request()
        prepared = denoiser.prepare(params, conditioning)
        hidden, context = denoiser.embed(params, prepared, latents, torch.ones(1))
        for block, group in zip(denoiser.blocks, groups, strict=True):
            if block.number is not None:
                group["number"] = torch.tensor(block.number, device="meta")
            hidden = block.run(group, hidden, context, denoiser.attend)
        denoiser.head(params, hidden, context)
    read = params.read.union(
        *({block.prefix + name for name in group.read} for block, group in zip(denoiser.blocks, groups, strict=True))
    )
    assert params.keys() - read == set()


@pytest.mark.slow
@pytest.mark.parametrize("found", [found for found in PUBLISHED if found.name in KINDS], ids=str)
def test_one_step_of_full_size(found: Published):
    sizes = measure(found)
    assert sizes.prediction == sizes.latents
    assert all(flops > 0 for flops in sizes.flops.values())
    assert sizes.cache["static mask"] < sizes.cache["dbcache"] < sizes.cache["dbcache + taylorseer(1)"]
    line = next(line for line in DOCUMENT.read_text().splitlines() if f"| {short(found.name)} |" in line)
    assert f"| {sizes.parameters / 1e9:.2f} |" in line
    assert all(f" {sizes.cache[plan] / 2**20:,.0f} |" in line for plan in PLANS)


def short(name: str) -> str:
    return name.rpartition("/")[2].removesuffix("-Diffusers")
