"""Calls know nothing of each other: interleaved, nested, broken off, of other sizes, in other threads."""

import copy
import functools
import threading

import pytest
import torch
from diffusers import FluxTransformer2DModel

import pure
from pure.models import CheckpointError
from pure.transforms import dbcache, scm, taylorseer
from tests.models.test_generic import snapshot
from tests.support import tiny
from tests.support.pipelines import flux, make, picture

CACHE = pure.compose(dbcache(front=1, threshold=1.0, warmup=2, max_continuous=1), taylorseer(order=1))
OTHER = scm(mask="111100", policy="static")


class Broken(Exception):
    """What the callback raises."""


def at(step: int, action):
    """A callback that acts at the end of one step."""

    def callback(pipe, index, timestep, tensors):
        if index == step:
            action()
        return {}

    return callback


def test_everything_is_as_it_was_afterwards():
    pipe, call = make("wan22")
    picture(pipe, call)
    fields, cls, config = dict(vars(pipe)), type(pipe), dict(pipe.config)
    before = [snapshot(module) for module in (pipe.transformer, pipe.transformer_2)]
    with pure.accelerate(pipe, CACHE):
        assert isinstance(pipe, cls) and isinstance(pipe.transformer, type(fields["transformer"]))
        assert repr(pipe.transformer) == repr(fields["transformer"]) and pipe.transformer.dtype == torch.float32
        assert set(dir(pipe.transformer)) == set(dir(fields["transformer"]))
        picture(pipe, call)
    for key in ("_num_timesteps", "_guidance_scale_2", "_current_timestep"):  # the pipeline's own notes
        fields.pop(key, None)
    assert type(pipe) is cls and dict(pipe.config) == config
    assert {key: vars(pipe)[key] for key in fields} == fields
    assert [snapshot(module) for module in (pipe.transformer, pipe.transformer_2)] == before


def test_an_exception_leaves_nothing_behind():
    pipe, call = make("flux")
    with pure.accelerate(pipe, CACHE):
        expected = picture(pipe, call, seed=3)
    plain, fields, cls = picture(pipe, call), dict(vars(pipe)), type(pipe)

    def fail():
        raise Broken

    with pytest.raises(Broken), pure.accelerate(pipe, CACHE):
        picture(pipe, call, callback_on_step_end=at(3, fail))
    assert type(pipe) is cls and vars(pipe)["transformer"] is fields["transformer"]
    assert torch.equal(picture(pipe, call), plain)
    with pure.accelerate(pipe, CACHE) as report:
        with pytest.raises(Broken):
            picture(pipe, call, callback_on_step_end=at(2, fail))
        assert torch.equal(picture(pipe, call, seed=3), expected)
    assert [len(each.branches["transformer/cond"]) for each in report.calls] == [3, 6]


def test_pipelines_that_share_a_transformer_interleave():
    first, call = make("flux")
    second, _ = flux(transformer=first.transformer)
    second.set_progress_bar_config(disable=True)
    third, _ = flux(transformer=first.transformer)  # never accelerated
    third.set_progress_bar_config(disable=True)
    alone = []
    for pipe, cache, seed in ((first, CACHE, 1), (second, OTHER, 2)):
        with pure.accelerate(pipe, cache):
            alone.append(picture(pipe, call, seed))
    alone.append(picture(third, call, 5))
    found = {}
    with pure.accelerate(first, CACHE) as report, pure.accelerate(second, OTHER) as other:

        def inside():
            found["second"] = picture(second, call, 2)
            found["third"] = picture(third, call, 5)

        found["first"] = picture(first, call, 1, callback_on_step_end=at(2, inside))
    assert torch.equal(found["first"], alone[0])
    assert torch.equal(found["second"], alone[1]) and torch.equal(found["third"], alone[2])
    assert (len(report.calls), len(other.calls)) == (1, 1) and report.last.skipped == other.last.skipped == 2


def test_calls_of_one_pipeline_nest():
    """A pipeline called from its own callback: its scheduler is the same object, so it is set back by hand."""
    pipe, call = make("flux")
    with pure.accelerate(pipe, CACHE):
        alone = [picture(pipe, call, seed) for seed in (1, 2)]
    found = []

    def inside():
        scheduler, notes = pipe.scheduler, dict(vars(pipe))
        vars(pipe)["scheduler"] = copy.deepcopy(scheduler)
        found.append(picture(pipe, {**call, "num_inference_steps": 6}, 2))
        vars(pipe).update(notes)

    with pure.accelerate(pipe, CACHE) as report:
        outer = picture(pipe, call, 1, callback_on_step_end=at(2, inside))
    assert torch.equal(outer, alone[0]) and torch.equal(found[0], alone[1])
    assert [each.skipped for each in report.calls] == [2, 2]


def test_threads_do_not_meet():
    pipes = [make("flux")[0]]
    call = make("flux")[1]
    pipes += [flux(transformer=pipes[0].transformer)[0] for _ in range(2)]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    alone = []
    for seed, pipe in enumerate(pipes):
        with pure.accelerate(pipe, CACHE):
            alone.append(picture(pipe, call, seed))
    found: dict[int, torch.Tensor] = {}

    def work(seed: int) -> None:
        with pure.accelerate(pipes[seed], CACHE):
            found[seed] = picture(pipes[seed], call, seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], alone[seed]) for seed in range(3))


def test_another_size_follows_without_a_trace():
    pipe, call = make("flux")
    sizes = ((16, 16), (32, 16), (16, 16))
    fresh = []
    for height, width in sizes:
        with pure.accelerate(pipe, CACHE):
            fresh.append(picture(pipe, {**call, "height": height, "width": width}))
    with pure.accelerate(pipe, CACHE) as report:
        for (height, width), expected in zip(sizes, fresh, strict=True):
            assert torch.equal(picture(pipe, {**call, "height": height, "width": width}), expected)
        picture(pipe, {**call, "num_inference_steps": 9})
    assert [each.skipped for each in report.calls] == [2, 2, 2, 4]


def test_sizes_follow_each_other_where_streams_are_joined_and_padded():
    for name in ("flux2", "z_image"):
        pipe, call = make(name)
        for height in (32, 64):
            expected = picture(pipe, {**call, "height": height})
            with pure.accelerate(pipe, pure.identity) as report:
                picture(pipe, call)
                assert torch.equal(picture(pipe, {**call, "height": height}), expected)
            assert not any(each.plain for each in report.calls)


def test_a_transformer_called_outside_of_the_pipeline_is_itself():
    pipe, _ = make("flux")
    arguments = tiny.call(pipe.transformer)
    expected = pipe.transformer(**arguments).sample
    with pure.accelerate(pipe, CACHE) as report:
        assert torch.equal(pipe.transformer(**arguments).sample, expected)
        assert pipe.components["transformer"].config.in_channels == 4
    assert not report.calls
    with pytest.raises(IndexError, match="was not called inside the `with`"):
        report.last  # noqa: B018


def test_accelerating_twice_is_refused():
    pipe, call = make("flux")
    plain = picture(pipe, call)
    with pure.accelerate(pipe, CACHE):
        with pytest.raises(CheckpointError, match="accelerated already"), pure.accelerate(pipe, CACHE):
            pass
        assert not torch.equal(picture(pipe, call), plain)
    assert torch.equal(picture(pipe, call), plain)


class Mover:
    """What accelerate's model offloading hangs on a module: it moves the weights before they are needed."""

    def __init__(self) -> None:
        self.moves = 0

    def pre_forward(self, module, *args, **kwargs):
        self.moves += 1
        return args, kwargs


def test_model_offloading_moves_the_weights():
    pipe, call = make("flux")
    plain, module, mover = picture(pipe, call), pipe.transformer, Mover()

    def forward(*args, **kwargs):  # bound to the original, as accelerate's
        _, kwargs = mover.pre_forward(module, *args, **kwargs)
        return type(module).forward(module, **kwargs)

    vars(module).update(_hf_hook=mover, forward=forward)
    with pure.accelerate(pipe, pure.identity):
        assert torch.equal(picture(pipe, call), plain)
        assert mover.moves == 6
        del pipe.transformer._hf_hook  # as the pipeline does when it renews its hooks
    assert not hasattr(module, "_hf_hook")


class Twice(FluxTransformer2DModel):
    """A transformer that runs its blocks twice."""

    def forward(self, hidden_states, *args, **kwargs):
        super().forward(hidden_states, *args, **kwargs)
        return super().forward(hidden_states, *args, **kwargs)


Twice.forward = functools.wraps(FluxTransformer2DModel.forward)(Twice.forward)  # with its signature


def test_what_cannot_be_cut_is_refused_and_left_as_it_is():
    pipe, call = make("flux")
    twice = Twice(**pipe.transformer.config).eval()
    vars(pipe)["transformer"] = twice
    plain = picture(pipe, call)
    with (
        pytest.raises(CheckpointError, match=r"Twice cannot be cut .* a block is called twice"),
        pure.accelerate(pipe, CACHE),
    ):
        picture(pipe, call)
    assert vars(pipe)["transformer"] is twice
    assert torch.equal(picture(pipe, call), plain)


def test_a_call_that_takes_more_steps_than_the_schedule_computes_them(monkeypatch):
    pipe, call = make("flux")
    plain = picture(pipe, call)
    with pure.accelerate(pipe, scm(mask="1100", policy="static")) as report:
        monkeypatch.setattr("pure.models.accelerate.calls.steps_of", lambda pipe: {"transformer": 4})
        picture(pipe, call)
    assert report.last.plain == ("more than 4 steps",) * 2
    assert str(report.last).endswith("past the cache: more than 4 steps")
    assert torch.equal(picture(pipe, call), plain)
