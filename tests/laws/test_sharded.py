"""Law 13, and the laws of one process on every rank of several."""

import pytest

import pure
from pure.distributed.context_parallel import Divided
from pure.testing import memory
from pure.testing.recipes import KERNELS
from pure.testing.situation import Model, Situation
from pure.transforms import attention, dbcache, dmd, easycache, guided, scm, speca, taylorseer
from tests.laws import sharded
from tests.laws.laws import CASES, FAMILIES, Case
from tests.laws.test_laws import ONCE, try_drawn
from tests.support.flux import FLUX_DEV, FLUX_SCHNELL
from tests.support.qwen_image import QWEN_EDIT, QWEN_IMAGE
from tests.support.wan import WAN_EXPERTS, WAN_TI2V

MODELS = (FLUX_DEV, FLUX_SCHNELL, *FAMILIES)
EVERYTHING = [case for case in CASES if case.model in MODELS and case.name.endswith("-everything")]
# Ranks do not know recipes apart: the others on one model only.
OTHERS = [case for case in CASES if case.model is FLUX_DEV and case not in EVERYTHING]
CACHED = pure.compose(dbcache(front=1, threshold=0.6, warmup=1), taylorseer(order=1))
HUNYUAN_REPLACE = next(model for model in FAMILIES if model.name == "hunyuan-replace")
Z_IMAGE = next(model for model in FAMILIES if model.name == "z-image-ragged")
DIFFERENT = (FLUX_SCHNELL, Z_IMAGE, QWEN_EDIT, WAN_EXPERTS, WAN_TI2V, HUNYUAN_REPLACE)
MEASURED = {
    "dmd": pure.compose(scm(mask=(1, 1, 1, 1, 0, 0, 1, 0), policy="static"), dmd(history=4)),
    "easycache": easycache(threshold=3.0, warmup=2),
    "speca": pure.compose(speca(threshold=0.3, decay=1.0, least=1, most=2, warmup=2), taylorseer(order=1)),
}
SEEDS = (3, 4)  # in every model that masks, some text of the first takes no part
OF_ONE_PROCESS = (
    memory.apply_is_pure,
    memory.old_states_still_work,
    memory.structure_is_invariant,
    memory.init_works_on_meta,
    memory.saving_changes_nothing,
)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_many_ranks_are_one_process(model: Model) -> None:
    situation = Situation(model=model, transform=CACHED, seeds=SEEDS, count=5)
    assert any(not all(entry.info.computed) for entry in situation.trace()), "the run skips"
    layouts = sharded.LAYOUTS if model in DIFFERENT else sharded.LAYOUTS[2:4]  # all axes, two at a time
    sharded.run_alike(situation, layouts, first=2e-6, later=5e-6)


@pytest.mark.parametrize("way", sharded.WAYS)
@pytest.mark.parametrize("model", [FLUX_DEV, WAN_EXPERTS, HUNYUAN_REPLACE], ids=str)
def test_every_way_to_divide(model: Model, way: str) -> None:

    situation = Situation(model=model, transform=CACHED, seeds=SEEDS, count=6)
    sharded.every_way_is_one_process(situation, sharded.WAYS[way])


@pytest.mark.parametrize(("name", "guide"), [("dmd", False), ("easycache", True), ("speca", True)])
def test_what_is_measured_otherwise_is_that_of_all_ranks(name: str, guide: bool) -> None:
    """Fits, drafts and foreseen changes are of all tokens, and of both branches, whichever ranks have them."""
    transform = pure.compose(guided(scale=2.5), MEASURED[name]) if guide else MEASURED[name]
    situation = Situation(model=FLUX_DEV, transform=transform, seeds=SEEDS, count=8)
    assert any(not all(entry.info.computed) for entry in situation.trace()), "the run skips"
    way = sharded.GUIDED["ulysses"] if guide else sharded.WAYS["ring 2, ulysses 3"]
    sharded.every_way_is_one_process(situation, way, later=1e-4)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("model", "way"),
    [(FLUX_DEV, "parameters and ring"), (Z_IMAGE, "allgather"), (HUNYUAN_REPLACE, "ring 2, ulysses 3")],
    ids=str,
)
def test_every_kernel_of_attention_is_divided(model: Model, way: str, name: str) -> None:
    """The one process has the same kernel: parts of the keys are put together by its own log-sum-exp."""
    situation = Situation(model=model, transform=pure.compose(CACHED, attention(name)), seeds=SEEDS, count=5)
    sharded.every_way_is_one_process(situation, sharded.WAYS[way])


@pytest.mark.parametrize("case", [case for case in EVERYTHING if case.model in DIFFERENT], ids=lambda case: case.name)
def test_law(case: Case) -> None:
    try_drawn(sharded.sharded_is_unsharded, case, ONCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [*(case for case in EVERYTHING if case.model not in DIFFERENT), *OTHERS], ids=lambda case: case.name
)
def test_law_of_the_rest(case: Case) -> None:
    try_drawn(sharded.sharded_is_unsharded, case, ONCE)


@pytest.mark.parametrize("model", DIFFERENT[:4], ids=str)
def test_the_laws_of_one_process_hold_on_every_rank(model: Model) -> None:
    situation = Situation(model=model, transform=CACHED, seeds=SEEDS, count=4)
    sharded.laws_of_one_process_hold(situation, OF_ONE_PROCESS)


def _left(self, value, *rest):
    """What is not cut."""
    return value


@pytest.mark.parametrize(
    ("method", "model"),
    [
        *(("_mask", model) for model in (Z_IMAGE, QWEN_IMAGE, HUNYUAN_REPLACE)),
        *(("_count", model) for model in (WAN_TI2V, QWEN_EDIT, HUNYUAN_REPLACE)),
    ],
    ids=str,
)
def test_law_13_sees_what_is_not_cut(method: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Divided, method, _left)
    situation = Situation(model=model, transform=pure.identity, seeds=SEEDS, count=2)
    with pytest.raises(AssertionError, match=r"apart under|raised"):
        sharded.sharded_is_unsharded(situation)
