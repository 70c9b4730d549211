"""The laws of every denoiser hold for models that were cut."""

from typing import Any

import pytest
import torch

from pure.models.adapt.adapt import Adapted, adapt
from pure.testing.laws import LAWS, Law
from pure.testing.situation import Model
from tests.laws.laws import Case, speaks_of
from tests.laws.test_laws import ONCE, hold
from tests.support.generic import NAMED

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")


def model(name: str) -> Model:
    family = NAMED[name]
    module = family.build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # lively: thresholds must sometimes skip and sometimes not
        for parameter in module.parameters():
            parameter.copy_(0.12 * torch.randn(parameter.shape, generator=generator))
    adapted = adapt(module, example=family.example(2))

    def together(seeds: tuple[int, ...]) -> dict[str, Any]:
        calls = [family.example(1, seed) for seed in seeds]

        def one(value: Any, values: list) -> Any:
            split = isinstance(value, torch.Tensor) and value.shape[0] == 1
            return torch.cat(values) if split else value

        return {key: one(value, [call[key] for call in calls]) for key, value in calls[0].items()}

    return _model(f"cut-{name}", adapted, together)


def _model(name: str, adapted: Adapted, together: Any) -> Model:
    return Model(
        name=name,
        denoiser=adapted.denoiser,
        params=adapted.params,
        conditioning=lambda seeds: adapted.request(together(seeds)).conditioning,
        latents=lambda seeds: adapted.request(together(seeds)).latents,
        differences=None,  # a module that was cut has constants of its own in fp32
    )


# A transposed first stream; tapes and constants of every block's own.
TRIED = {"hunyuan": ("dbcache",), "chroma": ("everything",), "sd3": ("taylorseer-hidden", "guided-interval")}
CASES = [(name, recipe) for name, recipes in TRIED.items() for recipe in recipes]
MODELS: dict[str, Model] = {}


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
@pytest.mark.parametrize(
    ("name", "recipe"), [pytest.param(*case, marks=() if case[0] == "hunyuan" else pytest.mark.slow) for case in CASES]
)
def test_law(name: str, recipe: str, law: Law) -> None:
    if name not in MODELS:
        MODELS[name] = model(name)
    case = Case(name=f"{name}-{recipe}", model=MODELS[name], recipe=recipe, quick=True)
    if speaks_of(law, case):
        hold(law, case, ONCE)
