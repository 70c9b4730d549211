"""Where a mask skips the middle, the last front block leaves out what the head does not read."""

from collections.abc import Iterator, Mapping

import attrs
import pytest
import torch

import pure
from pure.testing.situation import Model, Situation, close, same
from pure.testing.toys import RANDOM
from pure.transforms import compiled, dbcache, scm, taylorseer
from tests.support import flux2, hunyuan_video, ovis, qwen_image
from tests.support.flux import FLUX_DEV, FLUX_SCHNELL

MASK = scm(mask="110010", policy="static")
MASKED = pure.compose(dbcache(front=1, threshold=0.3), MASK, taylorseer(order=1))
FAMILIES = (
    FLUX_DEV,
    FLUX_SCHNELL,
    flux2.FLUX2_DEV,
    flux2.FLUX2_KLEIN,
    ovis.OVIS,
    qwen_image.QWEN_IMAGE,
    qwen_image.QWEN_EDIT,
    *hunyuan_video.MODELS,
)


class Noting(Mapping):
    """Parameters that note which of them are asked for."""

    def __init__(self, inner: Mapping[str, torch.Tensor]) -> None:
        self.inner, self.read = inner, set[str]()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return self.inner[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


def situation(model: Model, transform: pure.Transform = MASKED) -> Situation:
    return Situation(model=model, transform=transform, seeds=(1, 2), count=6)


def whole(model: Model) -> Model:
    """The model with blocks that know nothing of what may be left out."""

    def plainly(run):
        return lambda *arguments: run(*arguments)

    blocks = tuple(attrs.evolve(block, run=plainly(block.run)) for block in model.first.blocks)
    return attrs.evolve(model, denoiser=attrs.evolve(model.denoiser, blocks=blocks))


def read(model: Model, transform: pure.Transform, at: int = 0) -> list[set[str]]:
    """Which parameters of one block every step of a run reads."""
    case, found = situation(model, transform), []
    bound = case.single.bind(model.params)
    state, latents = case.start(), case.latents()
    for step in case.schedule():
        group = Noting(bound.blocks[at])
        noting = attrs.evolve(bound, blocks=(*bound.blocks[:at], group, *bound.blocks[at + 1 :]))
        with torch.no_grad():
            _, state, _ = case.single.apply(noting, state, pure.Inputs(latents, step))
        found.append(group.read)
    return found


@pytest.mark.parametrize("model", FAMILIES, ids=repr)
def test_the_picture_is_that_of_whole_blocks(model: Model) -> None:
    # Not to the last bit: of other numbers of tokens a product may round otherwise.
    for ours, theirs in zip(situation(model).trace(), situation(whole(model)).trace(), strict=True):
        assert ours.info == theirs.info
        assert close(ours.prediction, theirs.prediction, 1e-6)


@pytest.mark.parametrize("model", FAMILIES, ids=repr)
def test_only_steps_of_which_it_is_known_leave_something_out(model: Model) -> None:
    steps = read(model, MASKED)
    full = steps[0]
    assert [names == full for names in steps] == [bit == "1" for bit in "110010"]
    left_out = full - steps[2]
    assert left_out and all("add" in name or "context" in name or "txt" in name for name in left_out)
    assert all(names == full for names in read(model, pure.compose(dbcache(front=1, threshold=0.9, warmup=1))))
    back = pure.compose(dbcache(front=1, back=1, threshold=0.3), MASK)
    assert all(names == full for names in read(model, back)), "back blocks read the text"


def test_of_several_front_blocks_only_the_last_leaves_something_out() -> None:
    model = qwen_image.QWEN_IMAGE
    two = pure.compose(dbcache(front=2, threshold=0.3), scm(mask="110010", policy="static"))
    first, second = (read(model, two, at) for at in (0, 1))
    assert all(names == first[0] for names in first)
    assert [names == second[0] for names in second] == [bit == "1" for bit in "110010"]
    for ours, theirs in zip(situation(model, two).trace(), situation(whole(model), two).trace(), strict=True):
        assert close(ours.prediction, theirs.prediction, 1e-6)


def test_a_measured_skip_and_a_mixed_batch_run_the_whole_front() -> None:
    """Samples at different steps of one mask: the front runs for both of them."""
    case = situation(FLUX_DEV)
    first, second = (case.start(seeds=(seed,)) for seed in (1, 2))
    steps = case.schedule()
    for step in steps[:2]:
        first = case.apply(first, case.latents((1,)), step)[1]
    second = case.apply(second, case.latents((2,)), steps[0])[1]
    both = attrs.evolve(steps[2], index=(2, 1), count=6, timestep=torch.stack([steps[2].timestep, steps[1].timestep]))
    prediction, _, info = case.apply(pure.join(first, second), case.latents(), both)
    assert info.computed == (False, True)
    alone = case.apply(first, case.latents((1,)), steps[2])[0]
    assert close(prediction[:1], alone, 1e-6)


def test_no_block_is_asked_for_what_it_does_not_offer() -> None:
    traces = [situation(model).trace() for model in (RANDOM, whole(RANDOM))]
    assert all(same(a.prediction, b.prediction) for a, b in zip(*traces, strict=True))


def test_compiled_denoisers_leave_the_same_out_and_have_a_piece_more_only_where_there_is_something() -> None:
    fast = compiled(backend="eager")
    short = pure.compose(MASKED, fast)
    for ours, theirs in zip(situation(FLUX_DEV, short).trace(), situation(FLUX_DEV).trace(), strict=True):
        assert ours.info == theirs.info and same(ours.prediction, theirs.prediction)
    pieces = short(FLUX_DEV.first).pieces
    assert pieces.brief is not pieces.front
    back = pure.compose(dbcache(front=1, back=1, threshold=0.3), MASK, fast)
    for model, transform in ((whole(FLUX_DEV), short), (FLUX_DEV, back)):
        pieces = transform(model.first).pieces
        assert pieces.brief is pieces.front
