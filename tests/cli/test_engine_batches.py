"""Batches, loading and orders of the engine with stand-ins for the model: each value goes where it belongs."""

import importlib
import itertools
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import attrs
import pytest
import torch

from pure.engine import denoising, engine, ranks
from pure.engine.checkpoint import Checkpoint
from pure.engine.denoising import Denoising, batch_size, join, keep, step, warm_up
from pure.engine.engine import Engine, Order, Recipe, alike, open_engine
from pure.engine.errors import Misuse
from pure.engine.weights import ComponentWeights
from pure.experts import Experts
from pure.testing import toys

# ------------------------------------------------------------------------------ samples under way


def run(*times: tuple[float, ...], batch: Any = "batch") -> Denoising:
    recipe: Any = "recipe"
    return Denoising(recipe=recipe, batch=batch, times=times)


def test_times_go_with_their_samples(monkeypatch):
    monkeypatch.setattr(denoising.batches, "join", lambda one, other: f"{one}+{other}")
    monkeypatch.setattr(denoising.batches, "keep", lambda batch, rows: f"{batch}{rows}")
    both = join(run((1.0, 2.0), batch="a"), run((3.0,), (4.0,), batch="b"))
    assert (both.batch, both.times, both.recipe) == ("a+b", ((1.0, 2.0), (3.0,), (4.0,)), "recipe")
    assert keep(both, [0, 1, 2]) is both
    for rows in ([0], [0, 1], [2], [1, 2], [2, 0]):
        found = keep(both, rows)
        assert (found.batch, found.times) == (f"a+b{rows}", tuple(both.times[row] for row in rows))


def test_a_step_is_timed_for_every_sample(monkeypatch):
    clock = itertools.count(10.0, 2.5)
    monkeypatch.setattr(denoising, "now", lambda device: next(clock))
    monkeypatch.setattr(denoising.batches, "advance", lambda batch: ("next", "frame"))
    batch = SimpleNamespace(finite=torch.zeros(2))
    found, frame = step(run((1.0,), (2.0, 3.0), batch=batch))
    assert (found.batch, frame, found.times) == ("next", "frame", ((1.0, 2.5), (2.0, 3.0, 2.5)))


@pytest.mark.parametrize(
    ("shape", "device", "size"),
    [
        ((16, 8, 8), "cpu", 4), ((4, 64, 64), "cpu", 4), ((4, 64, 128), "cpu", 2), ((4, 128, 128), "cpu", 1),
        ((4, 256, 256), "cpu", 1), ((4, 5, 64, 64), "cpu", 1), ((4, 64, 64), "cuda", 8), ((4, 128, 128), "cuda", 4),
        ((4, 256, 256), "cuda", 1),
    ],
)  # fmt: skip
def test_a_batch_needs_no_more_memory_than_a_large_picture(shape, device, size):
    pipeline: Any = SimpleNamespace(shape=lambda request: shape, device=SimpleNamespace(type=device))
    request: Any = None
    assert batch_size(pipeline, request) == size


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_warm_up_takes_so_many_steps_and_decodes(monkeypatch, count):
    steps: list[Any] = []
    batch = SimpleNamespace(steps=range(5))
    begun = SimpleNamespace(batch=batch, recipe=SimpleNamespace(of=lambda prompts: tuple(prompts)))
    monkeypatch.setattr(denoising, "begin", lambda engine, recipe, samples: steps.append(samples[0]) or begun)
    monkeypatch.setattr(denoising, "step", lambda run: steps.append("step") or (run, None))
    monkeypatch.setattr(denoising.batches, "latents", lambda batch, row: row)
    pipeline = SimpleNamespace(
        finished=lambda latents, request: (latents, request),
        decoded=lambda latents, request: steps.append((latents, request)),
    )
    loaded: Any = SimpleNamespace(pipeline=pipeline)
    recipe: Any = None
    warm_up(loaded, recipe, "a cat", count)
    first, *taken, decoded = steps
    assert (first.prompt, first.seed, taken) == ("a cat", 0, ["step"] * count)
    assert decoded == ((0, ("a cat",)), ("a cat",))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_clock_waits_for_a_gpu(monkeypatch, kind):
    waited: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device: Any = SimpleNamespace(type=kind)
    assert denoising.now(device) > 0 and waited == [device] * (kind == "cuda")


# ------------------------------------------------------------------------------ recipes


def loaded(**fields: Any) -> Engine:
    found: Any = SimpleNamespace(kind=SimpleNamespace(pipeline="FluxPipeline", task="text-to-image"))
    pipeline: Any = SimpleNamespace(**fields)
    return Engine(checkpoint=Checkpoint(path=None, found=found), pipeline=pipeline, base=toys.random_denoiser())


def recipe(images: tuple[Any, ...] = (), denoiser: Any = "cached", **request: Any) -> Recipe:
    asked: Any = attrs.make_class("Asked", ["images", "height", "width"], frozen=True)
    made = asked(images, request.get("height", 32), request.get("width", 64))
    rest: dict[str, Any] = {"plain": "plain", "caching": None, "fps": None, "notes": (), "idle": ()}
    return Recipe(order=Order(options={"steps": 3}), request=made, denoiser=denoiser, **rest)


def test_samples_share_a_batch_where_all_but_prompts_and_seeds_is_equal():
    one, kinds = recipe(), recipe().request
    same, other = attrs.evolve(one, order=Order()), attrs.evolve(one, denoiser="other")
    larger = attrs.evolve(one, request=attrs.evolve(kinds, height=64))
    pictures = attrs.evolve(one, request=attrs.evolve(kinds, images=("picture",)))
    assert alike(one, one) and alike(one, same) and alike(pictures, pictures)
    assert not alike(one, other) and not alike(one, larger)
    assert not alike(pictures, attrs.evolve(pictures)) and not alike(one, pictures) and not alike(pictures, one)


def test_another_size_changes_the_size_only():
    def sized(request: Any) -> Any:
        if request.height == 7:
            raise ValueError("height 7 is not possible")
        return request

    one = loaded(sized=sized)
    found = one.resized(recipe(), 48, 16)
    assert (found.request.height, found.request.width) == (48, 16)
    assert found.order.options == {"steps": 3, "height": 48, "width": 16}
    with pytest.raises(Misuse, match="height 7 is not possible"):
        one.resized(recipe(), 7, 16)


# ------------------------------------------------------------------------------ loading


class Loaded:
    """A checkpoint that is loaded without being read: it keeps how it was asked."""

    compiled = False

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def load(self, waiting: Any, part: Any, encoder_part: Any) -> Any:
        self.asked += [part, encoder_part]
        return Part(params={"w": 1}, denoiser=toys.random_denoiser())


@attrs.frozen
class Part:
    params: Any
    denoiser: Any


@pytest.mark.parametrize(
    ("extra", "encoders", "together"),
    [((), (0, 1), False), (("vae",), (0, 1), True), (("text_encoder",), (2, 4), False),
     (("vae", "text_encoder"), (2, 4), True)],
)  # fmt: skip
def test_a_process_reads_its_part_and_shares_the_modules_that_are_set(monkeypatch, extra, encoders, together):
    mesh: Any = MagicMock()
    mesh.get_local_rank = lambda axis: {"tp": 1}[axis]
    mesh.__getitem__.side_effect = lambda axis: {"tp": SimpleNamespace(size=lambda: 2)}[axis]
    shared: list[Any] = []
    monkeypatch.setattr(engine, "place", lambda mesh: (2, 4))
    monkeypatch.setattr(engine, "quantizer", lambda effective, denoiser, say: "quantize")
    monkeypatch.setattr(engine, "weigh_whole", lambda pipeline: {"transformer": 8, "vae": 2})
    monkeypatch.setattr(engine, "weigh", lambda pipeline: {"transformer": 4, "vae": 2})
    monkeypatch.setattr(engine, "share", lambda pipeline, *rest: shared.append(rest) or pipeline)
    monkeypatch.setattr(engine, "share_modules", lambda pipeline, names, *_: shared.append(names) or pipeline)
    checkpoint: Any = Loaded()
    shares: Any = SimpleNamespace(extra=extra)
    effective: Any = None
    found = open_engine(checkpoint, effective, Mock(), shares=shares, mesh=mesh)
    assert checkpoint.asked == [(1, 2), encoders] and found.together is together
    assert shared == [(shares, mesh, "quantize"), extra]
    assert found.weights == (ComponentWeights("transformer", 4, 8), ComponentWeights("vae", 2, 2))


def test_one_process_quantises_all_and_weighs_nothing(monkeypatch):
    monkeypatch.setattr(engine, "quantizer", lambda *_: lambda params: {name: -one for name, one in params.items()})
    checkpoint: Any = Loaded()
    effective: Any = None
    found = open_engine(checkpoint, effective, Mock())
    assert checkpoint.asked == [(0, 1), (0, 1)] and found.pipeline.params == {"w": -1}
    assert (found.weights, found.together) == ((), False)

    def fail(params: Any) -> Any:
        raise ValueError("no such weights")

    monkeypatch.setattr(engine, "quantizer", lambda *_: fail)
    with pytest.raises(Misuse, match="no such weights"):
        open_engine(checkpoint, effective, Mock())


def test_every_expert_is_split_over_the_processes():
    one = toys.random_denoiser()
    found: Any = SimpleNamespace(denoisers={"high": one, "low": one})
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("pure.distributed.tensor_parallel")
        patch.setattr(module, "check_tensor_parallel", lambda *each: seen.append(each))
        ranks.check_shares(Mock(tp=4), found)
    assert seen == [(one, 4)] * 2 and isinstance(Experts(found.denoisers), Experts)
