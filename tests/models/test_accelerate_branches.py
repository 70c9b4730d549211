"""Which branch a call belongs to, and which of its samples it has."""

import contextlib
from types import SimpleNamespace
from typing import Any

import torch

from pure.models.accelerate.branches import Branch, Clock, Marks, find, marks
from pure.models.accelerate.calls import PipelineCall, Session, steps_of
from pure.models.accelerate.proxy import CONTEXT, Proxy
from tests.support.generic import Draw

DRAW = Draw(0)
TEXT, POOLED = DRAW(3, 5, 4), DRAW(3, 4)
KIND = ("kind",)


def tensors(*rows: int) -> Marks:
    """Conditioning batched into tensors, made anew at every call."""
    picked = torch.tensor(rows)
    return Marks((TEXT[picked], POOLED[picked]), (), KIND)


ENTRIES = tuple(DRAW(5, 4) for _ in range(3))


def lists(*rows: int) -> Marks:
    """Conditioning in lists, the same objects at every call."""
    return Marks((), (tuple(ENTRIES[row] for row in rows),), KIND)


def branch(given: Marks, context: str = "") -> Branch:
    return Branch("/0", context, given, model=None)  # type: ignore[arg-type]


def test_rows_of_a_smaller_batch():
    for made in (tensors, lists):
        known = branch(made(0, 1, 2))
        for rows in ((0,), (1,), (2,), (0, 1), (1, 2), (2, 0), (2, 1)):
            assert find([known], "", made(*rows), set()) == (known, rows)
        assert find([known], "", made(0, 1, 2), set()) == (known, None)


def test_a_named_context_finds_its_rows_too():
    known = branch(tensors(0, 1, 2), "cond")
    assert find([known], "cond", tensors(1), set()) == (known, (1,))
    assert find([known], "cond", tensors(0, 1, 2), set()) == (known, None)
    assert find([known], "uncond", tensors(1), set()) == (None, None)


def test_equal_samples_are_taken_in_their_order():
    known = branch(tensors(1, 1, 0))
    assert find([known], "", tensors(1), set()) == (known, (0,))
    assert find([known], "", tensors(1, 0), set()) == (known, (0, 2))
    assert find([known], "", tensors(1, 1), set()) == (known, (0, 1))


def test_a_smaller_batch_of_something_else_is_another_branch():
    known = branch(tensors(0, 1))
    assert find([known], "", tensors(2), set()) == (None, None)
    assert find([known], "", tensors(0, 2, 1), set()) == (None, None)
    assert find([known], "", Marks(tensors(0).tensors, (), ("other",)), set()) == (None, None)


def test_every_part_of_the_conditioning_counts():
    known = branch(tensors(0, 1))
    mixed = Marks((TEXT[:1], POOLED[1:2]), (), KIND)
    assert find([known], "", mixed, set()) == (None, None)
    assert find([known], "", Marks((TEXT[:2], POOLED[1:3]), (), KIND), set()) == (None, None)
    assert find([known], "", Marks((TEXT[:1], POOLED[:2]), (), KIND), set()) == (None, None)


def test_a_branch_that_was_called_in_this_step_is_not_found_by_value_again():
    known = branch(tensors(0, 1))
    assert find([known], "", tensors(0, 1), {id(known)}) == (None, None)
    assert find([known], "", tensors(1), {id(known)}) == (None, None)
    assert find([known], "", known.marks, {id(known)}) == (known, None)


def test_marks_are_what_says_what_is_to_be_seen():
    call = {
        "hidden_states": DRAW(2, 4),
        "encoder_hidden_states": TEXT,
        "encoder_attention_mask": POOLED,
        "txt_ids": POOLED,
        "cap_feats": list(ENTRIES),
        "pooled_projections": POOLED,
        "controlnet_text": TEXT,
        "timestep": torch.zeros(2),
        "text_scale": 3.0,
    }
    found = marks(call, KIND)
    assert [id(each) for each in found.tensors] == [id(TEXT), id(POOLED)]
    assert found.samples == (ENTRIES,) and found.kind == KIND


class Indexed:
    """A scheduler that counts."""

    step_index = 0


def test_a_clock_counts_steps_and_not_calls():
    clock, scheduler = Clock(), Indexed()
    first, second = branch(tensors(0)), branch(tensors(1))
    for index in range(3):
        scheduler.step_index = index
        for each in (first, second):
            moment = clock.moment(scheduler, torch.tensor(5.0))
            assert clock.index(moment, each, certain=True) == index
            assert clock.index(moment, each, certain=True) is None  # a second call in one step


def test_a_clock_without_an_index_begins_a_step_where_a_branch_comes_again():
    clock, only = Clock(), branch(tensors(0))
    found = []
    for time in (9.0, 9.0, 5.0, 5.0, 5.0):
        moment = clock.moment(object(), torch.tensor([time, time]))
        found.append(clock.index(moment, only, certain=False))
    assert found == [0, 1, 2, 3, 4]
    clock, other, found = Clock(), branch(tensors(1)), []
    for each in (only, other, only, other, only):
        found.append(clock.index(clock.moment(object(), torch.tensor(9.0)), each, certain=False))
    assert found == [0, 0, 1, 1, 2], "the other branch belongs to the step that the first began"


def pipe(scheduler: Any, boundary: float | None = None, **more: Any) -> Any:
    about = SimpleNamespace(num_train_timesteps=1000)
    second = None if boundary is None else object()
    return SimpleNamespace(
        scheduler=SimpleNamespace(timesteps=torch.tensor([1000, 950, 900, 500]), config=about, **scheduler),
        config=SimpleNamespace(boundary_ratio=boundary), transformer_2=second, **more,
    )  # fmt: skip


def test_steps_are_those_that_are_left_of_the_schedule():
    assert steps_of(pipe({"begin_index": None})) == {"transformer": 4}
    assert steps_of(pipe({"begin_index": 1})) == {"transformer": 3}
    assert steps_of(pipe({"begin_index": 1, "step_index": 3})) == {"transformer": 1}
    assert steps_of(pipe({})) == {"transformer": 4}  # an older scheduler
    assert steps_of(pipe({}, _num_timesteps=3)) == {"transformer": 3}
    # A step at the boundary is the first expert's.
    assert steps_of(pipe({"begin_index": None}, 0.9)) == {"transformer": 3, "transformer_2": 1}
    assert steps_of(pipe({"begin_index": 1}, 0.9)) == {"transformer": 2, "transformer_2": 1}


def test_a_branch_that_never_ran_has_nothing_to_say_and_models_are_let_go():
    idle: Any = SimpleNamespace(label="/0", infos=[], finite=[], model=SimpleNamespace(note="", denoiser=None))
    component: Any = SimpleNamespace(name="transformer", branches=[idle], count=4, plain=["too short"])
    report = PipelineCall(Session(None, {}), (print, (), {}), {"transformer": component}).finished()
    assert report.branches == {"transformer/0": ()} and report.plain == ("too short",)
    session = Session(pipe(dict()), {}, models={("key",): idle.model})
    session.close()
    assert not session.models


def test_the_time_of_a_step_is_its_noisiest():
    """Frames that are given are at 0; the step is that of the others."""
    for timestep, time in ((torch.tensor([[0.0, 7.0], [0.0, 7.0]]), 7.0), (torch.tensor(3), 3.0), (2, 2.0)):
        assert Clock().moment(object(), timestep) == ("time", time)


def test_a_context_inside_another_gives_it_back():
    module: Any = torch.nn.Identity()
    module.cache_context = lambda name: contextlib.nullcontext()
    proxy, names = Proxy(module, lambda: None), []
    with proxy.cache_context("cond"):
        with contextlib.suppress(KeyError), proxy.cache_context("uncond"):
            names.append(CONTEXT.get())
            raise KeyError
        names.append(CONTEXT.get())
    assert [*names, CONTEXT.get()] == ["uncond", "cond", ""]
