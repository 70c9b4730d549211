"""The list of cases: every law of `pure.testing` holds for every one.

A new transform adds a recipe (pure/testing/recipes.py), a new family a model (tests/support);
nothing else is needed.

Laws 12 (predictors), 13 (ranks), 14 (compilation) and 16 (solvers) speak of other things than a
denoiser with a plan in one process and have files of their own.
"""

import functools

import attrs
from hypothesis import strategies as st

from pure.testing.examples import examples
from pure.testing.laws import Law, applies
from pure.testing.recipes import KERNELS, RECIPES
from pure.testing.situation import Model, Situation
from pure.testing.strategies import situations
from pure.testing.toys import CLOSED, EXPERTS, RANDOM, STREAMS
from tests.support import flux2, hunyuan_video, ovis, qwen_image, variants, wan, z_image
from tests.support.flux import FLUX_DEV, FLUX_SCHNELL


@attrs.frozen(kw_only=True)
class Case:
    """A model and a kind of transform; `quick` cases run on every change, the others with the slow tests."""

    quick: bool
    name: str
    model: Model
    recipe: str

    def directed(self) -> list[Situation]:
        """What is tried every time: a batch of three, whose samples decide differently."""
        count = 8 if self.model.experts == 1 else 12
        each = examples(self.recipe, count // self.model.experts)
        return [Situation(model=self.model, transform=one, seeds=(1, 2, 3), count=count, seed=7) for one in each]

    def situations(self, most_steps: int = 6, most_samples: int = 3) -> st.SearchStrategy[Situation]:
        """Everything of this kind: any transform, batch, number of steps and inputs."""
        return situations(self.model, RECIPES[self.recipe], most_steps, most_samples)


# Families cost something: they run the recipes that differ most, and few of them every time.
FEW = (
    "plain",
    "dbcache",
    "scm-static-dbcache",
    "taylorseer-hidden",
    "guided-interval",
    "guided-options",
    "compiled",
    "everything",
)
ATTENTION = tuple(f"attention-{name}" for name in KERNELS)  # of models that attend
OF_FEW = (*ATTENTION, "teacache", "seacache")  # some say what their first block reads, some have latents in a grid
FEWER = ("scm-static", "taylorseer-hidden", "everything")
FAMILIES: tuple[Model, ...] = (
    flux2.FLUX2_DEV,
    flux2.FLUX2_KLEIN,
    z_image.Z_IMAGE,
    z_image.Z_IMAGE_RAGGED,
    ovis.OVIS,
    qwen_image.QWEN_IMAGE,
    qwen_image.QWEN_EDIT,
    *wan.MODELS,
    wan.WAN_FLF,
    wan.WAN_EXPERTS,
    wan.WAN_I2V_EXPERTS,
    *hunyuan_video.MODELS,
)
SLOWER = ("adams-foca", "easycache", "budget")  # what they edit is much as what others do
QUICK = {
    RANDOM: tuple(name for name in RECIPES if name not in SLOWER),
    **dict.fromkeys((CLOSED, STREAMS, EXPERTS), FEW),
    FLUX_DEV: ("dbcache", *ATTENTION, "teacache", "everything"),
    FLUX_SCHNELL: ("taylorseer-hidden",),
    **dict.fromkeys(FAMILIES, ("scm-static", "everything")),
    **dict.fromkeys(variants.MODELS, ("everything",)),
}
CASES = [
    Case(name=f"{model}-{name}", model=model, recipe=name, quick=name in QUICK.get(model, RECIPES))
    for model, names in {
        **dict.fromkeys((CLOSED, RANDOM, STREAMS, EXPERTS), tuple(name for name in RECIPES if name not in OF_FEW)),
        **dict.fromkeys((FLUX_DEV, FLUX_SCHNELL), FEW),
        **dict.fromkeys(FAMILIES, FEWER),
        **dict.fromkeys(variants.MODELS, FEWER),
        FLUX_DEV: (*FEW, *ATTENTION, "teacache"),
        wan.MODELS[0]: (*FEWER, "teacache", "seacache", "easycache"),
        # Those that mask some keys, and refine what they are given by attention of its own.
        z_image.Z_IMAGE_RAGGED: (*FEWER, *ATTENTION),
        hunyuan_video.MODELS[0]: (*FEWER, *ATTENTION, "teacache"),
    }.items()
    for name in RECIPES
    if name in names and (name != "compiled" or model in (RANDOM, STREAMS, FLUX_DEV))
]


@functools.cache
def speaks_of(law: Law, case: Case) -> bool:
    """Whether a law says anything about a case."""
    return applies(law, case.directed()[0])
