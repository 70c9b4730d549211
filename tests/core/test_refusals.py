"""What the core refuses of its arguments, of predictors and of seeds; what a fill is in half precision."""

import math
import re
from typing import Any, cast

import attrs
import pytest
import torch

import pure
from pure import Inputs, Step, fitting
from pure.html import table
from pure.noise import consecutive_seeds
from pure.pieces import Fill, Kept, Middle, Stack
from pure.testing.situation import Situation, same
from pure.testing.toys import EXPERTS, RANDOM, STREAMS, OneStream
from pure.transforms import dbcache, guided, scm, taylorseer
from pure.tree import leaves_with_paths
from tests.support.flux import FLUX_DEV

CACHE = dbcache(front=1, threshold=0.5, warmup=1)


def situation(transform: pure.Transform = pure.identity) -> Situation:
    return Situation(model=RANDOM, transform=transform, seeds=(0, 1), count=4)


@pytest.mark.parametrize(
    ("index", "count", "error", "message"),
    [
        (40, 12, ValueError, r"Step(index=40, count=12): an index is in 0 to count - 1"),
        (12, 12, ValueError, r"Step(index=12, count=12): an index is in 0 to count - 1"),
        (-1, 12, ValueError, r"Step(index=-1, count=12): an index is in 0 to count - 1"),
        (0, 0, ValueError, r"Step(index=0, count=0): an index is in 0 to count - 1"),
        ((0, 4), 4, ValueError, r"Step(index=(0, 4), count=4): an index is in 0 to count - 1"),
        (1, (4, 1), ValueError, r"Step(index=1, count=(4, 1)): an index is in 0 to count - 1"),
        (
            (0, 1),
            (4, 4, 4),
            ValueError,
            r"Step(index=(0, 1), count=(4, 4, 4)): give both for the same number of samples",
        ),
        (True, 4, TypeError, r"Step.index is True; give a whole number, or a tuple of one per sample"),
        (0, True, TypeError, r"Step.count is True; give a whole number"),
        (1.0, 4, TypeError, r"Step.index is 1.0; give a whole number"),
        ((0, True), 4, TypeError, r"Step.index is (0, True); give a whole number"),
        ([0, 1], 4, TypeError, r"Step.index is [0, 1]; give a whole number"),
        (None, 4, TypeError, r"Step.index is None; give a whole number"),
    ],
)
def test_a_step_stands_within_its_schedule(index: Any, count: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Step(index=index, count=count, timestep=torch.zeros(()))


@pytest.mark.parametrize("name", ["in", "label", "text.of.ones.own", ""])
def test_a_key_that_is_missing_is_a_parameter_only_where_it_can_be_one(name: str) -> None:
    def prepare(params: Any, conditioning: Any) -> Any:
        raise KeyError(name)

    denoiser = attrs.evolve(RANDOM.first, prepare=prepare)
    missing = f"there is no parameter '{name}'; these parameters are incomplete" if "." in name else f"^{name!r}$"
    with pytest.raises(KeyError, match=missing):
        denoiser.init(RANDOM.params, RANDOM.conditioning((0,)), RANDOM.latents((0,)), 4)
    with pytest.raises(KeyError, match=r"^'a\.b'$"):
        fitting.prepare(lambda params, _: {}[next(iter(params))], {"a.b": torch.ones(1)}, None)


def test_a_step_has_tensors_of_one_level_each() -> None:
    with pytest.raises(TypeError, match=r"Step.timestep is 0.5; give a tensor of shape \(\) or \(B,\)"):
        Step(index=0, count=1, timestep=cast(Any, 0.5))
    with pytest.raises(ValueError, match=r"Step.sigma has shape \(2, 1\); give a tensor of shape"):
        Step(index=0, count=1, timestep=torch.zeros(2), sigma=torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"Step.timestep has 2 entries for a batch of 3 samples; give one per sample"):
        Step(index=0, count=1, timestep=torch.zeros(2)).times(3)


def test_arguments_of_another_kind_are_named() -> None:
    case = situation(CACHE)
    state, latents, step = case.start(), case.latents(), case.schedule()[0]
    apply = cast(Any, case.single.apply)
    with pytest.raises(TypeError, match=r"apply takes pure.Inputs\(latents, step\) as its third argument, got Tensor"):
        apply(RANDOM.params, state, latents)
    with pytest.raises(TypeError, match=r"apply takes the State that init or apply returned .*, got NoneType"):
        apply(RANDOM.params, None, Inputs(latents, step))
    with pytest.raises(TypeError, match=r"Inputs takes latents, .* and a Step; got Step, Tensor"):
        Inputs(cast(Any, step), cast(Any, latents))
    with pytest.raises(TypeError, match=r"params is a dict of tensors by name, got Linear; pass dict\(module"):
        apply(torch.nn.Linear(1, 1), state, Inputs(latents, step))
    experts = Situation(model=EXPERTS, transform=pure.identity, seeds=(1,), count=4)
    with pytest.raises(TypeError, match=r"apply takes the dict of states that init or apply returned"):
        cast(Any, experts.denoiser).apply(EXPERTS.params, state, Inputs(experts.latents(), experts.schedule()[0]))


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (pure.identity, CACHE),
        (CACHE, pure.identity),
        (CACHE, pure.compose(CACHE, taylorseer(order=1))),
        (pure.compose(CACHE, taylorseer(order=2)), pure.compose(CACHE, taylorseer(order=1))),
        (CACHE, scm(mask="1101", policy="static")),
        (CACHE, dbcache(front=2, threshold=0.5, warmup=1)),
        (CACHE, dbcache(front=1, back=1, threshold=0.5, warmup=1)),
        (CACHE, dbcache(front=1, threshold=0.5, warmup=1, downsample=2)),
        (CACHE, dbcache(front=1, threshold=0.5, warmup=1, importance=0.1)),
        (pure.compose(CACHE, taylorseer(order=1)), pure.compose(CACHE, taylorseer(order=1, on="hidden"))),
    ],
)
def test_the_state_of_another_plan_is_refused(own: pure.Transform, other: pure.Transform) -> None:
    with pytest.raises(ValueError, match=r"this state was initialised by another plan: it remembers .*, this denoiser"):
        situation(own).apply(situation(other).start(), situation().latents(), situation().schedule()[0])


@attrs.frozen
class Weighing:
    """A predictor that gives whatever it holds."""

    given: Any
    history: int = 2
    on: str = "residual"
    streams: str = "all"

    def weights(self, times: Any, target: int, first: int) -> Any:
        return self.given


def weighing(predictor: Weighing) -> Situation:
    @attrs.frozen
    class predicted(pure.Transform):
        def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
            return attrs.evolve(denoiser, plan=denoiser.plan.set(predictor=predictor))

    return situation(pure.compose(scm(mask="1100", policy="static"), predicted()))


@pytest.mark.parametrize(
    "given", [(), (1.0,), (1.0, 0.0, 0.0), (math.nan, 1.0), (1.0, math.inf), None, 1.0, ("a", "b"), ((1.0,), (0.0,))]
)
def test_weights_that_are_none_name_the_predictor(given: Any) -> None:
    message = re.escape(
        f"gave the weights {given!r} for step 2; a predictor that looks back to 2 computed steps gives 2"
    )
    with pytest.raises(ValueError, match=rf"Weighing.*{message} finite numbers"):
        weighing(Weighing(given)).trace()


def test_a_predictor_of_one_step_is_asked_for_its_weight() -> None:
    whole, none = (weighing(Weighing((weight,), history=1)).trace() for weight in (1.0, 0.0))
    held = situation(scm(mask="1100", policy="static")).trace()
    assert same(whole[2].prediction, held[2].prediction) and not same(none[2].prediction, held[2].prediction)


@pytest.mark.parametrize("on", ["residual", "hidden"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_fill_in_half_precision_is_the_sum_in_fp32(dtype: torch.dtype, on: str) -> None:
    stream = Kept("image", cast(Any, Weighing(None, history=3, on=on)))
    now, *past = (pure.gaussian((2, 5, 4), seed).to(dtype) for seed in range(4))
    weights = torch.tensor([[2.5, -2.0, 0.5], [1.75, -1.0, 0.25]])
    found = Fill((stream,))(OneStream(image=now), (tuple(past),), (weights,)).image
    total = torch.zeros(2, 5, 4) if on == "hidden" else now.float()
    for k, residual in enumerate(past):
        total = total + weights[:, k].view(2, 1, 1) * residual.float()
    # Equal but where the sum of fp32, in whatever order, is at the middle between two numbers of the type.
    assert found.dtype == dtype
    apart = (found.double() - total.double()).abs()
    assert bool((apart <= total.double().abs() * (torch.finfo(dtype).eps / 2 + 1e-6) + 1e-6).all())


@pytest.mark.parametrize("mask", ["1111", "1000", "1010"])
@pytest.mark.parametrize("on", ["residual", "hidden"])
def test_a_prediction_shares_no_memory_with_the_state(mask: str, on: str) -> None:
    recipe = pure.compose(dbcache(front=0, threshold=1.0), scm(mask=mask, policy="static"), taylorseer(on=on))
    for model in (RANDOM, STREAMS):
        for entry in Situation(model=model, transform=recipe, seeds=(1, 2), count=4).trace():
            leaves = [leaf for _, leaf in leaves_with_paths((entry.before, entry.after))]
            kept = {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, torch.Tensor)}
            assert entry.prediction.untyped_storage().data_ptr() not in kept


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 2**64 - 1])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    for given in (seed, [0, seed]):
        with pytest.raises(ValueError, match=re.escape(f"a seed is a whole number from 0 to 2**63 - 1, got {seed}")):
            pure.gaussian((2, 3), given)


@pytest.mark.parametrize("seed", [True, 1.0, "7", None, [0, 1.5], [0, False]])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match=r"a seed is a whole number from 0 to 2\*\*63 - 1, got"):
        pure.gaussian((2, 3), seed)


def test_consecutive_seeds_do_not_wrap() -> None:
    assert consecutive_seeds(2**63 - 2, 2) == (2**63 - 2, 2**63 - 1)
    assert pure.gaussian((1, 2), 2**63 - 1).isfinite().all()
    with pytest.raises(ValueError, match=r"2 seeds from 9223372036854775807 on go beyond 2\*\*63 - 1; begin at"):
        consecutive_seeds(2**63 - 1, 2)


def run_of(**changes: Any) -> Any:
    """Run the plain denoiser of a tiny FLUX with some arguments replaced."""
    one = Situation(model=FLUX_DEV, transform=pure.identity, seeds=(0, 1), count=2)
    given: dict[str, Any] = {
        "denoiser": one.denoiser,
        "params": one.model.params,
        "conditioning": one.conditioning(),
        "latents": one.latents(),
        "steps": one.solver.schedule(2, 4),
        "solver": one.solver,
    }
    return pure.sample(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"denoiser": CACHE},
            TypeError,
            "a run takes a Denoiser or Experts first, such as pipeline.denoiser, got dbcache",
        ),
        ({"denoiser": pure.Denoiser}, TypeError, "got the class Denoiser"),
        ({"solver": pure.FlowMatchEuler}, TypeError, "a run takes a solver, .* got the class FlowMatchEuler"),
        ({"solver": None}, TypeError, "got NoneType"),
        ({"steps": 3}, TypeError, r"the steps of solver.schedule\(count, tokens\), got 3"),
        ({"steps": [3]}, TypeError, "or their number; got 3"),
        ({"steps": "ab"}, TypeError, "or their number; got 'a'"),
        ({"observe": 3}, TypeError, "observe is a function of a Frame, got 3"),
        ({"latents": None}, TypeError, "latents are a tensor .* got NoneType"),
        ({"latents": torch.zeros(2, 3, dtype=torch.long)}, TypeError, "got torch.int64 of shape"),
        ({"conditioning": None}, TypeError, "no conditioning of this denoiser: NoneType has no"),
        ({"conditioning": "a red apple"}, TypeError, r"str has no .* pass what pipeline.encode\(request\) returned"),
    ],
)
def test_arguments_of_a_run_are_of_their_kinds(changes: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        run_of(**changes)


def test_conditioning_and_latents_are_of_as_many_samples() -> None:
    given = FLUX_DEV.latents((0, 1))
    assert run_of(latents=given).latents.shape == given.shape
    for latents in (given[:1], given.repeat_interleave(2, dim=0)):
        with pytest.raises(ValueError, match=f"conditioning is of 2 samples and the latents of {len(latents)}"):
            run_of(latents=latents)


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        (3, torch.float32, TypeError, r"a shape is a tuple \(B, ...\), got 3"),
        ((), torch.float32, TypeError, "a shape is a tuple"),
        ("ab", torch.float32, TypeError, "a shape is a tuple"),
        ((-1, 2), torch.float32, ValueError, "whole numbers of at least 1"),
        ((1.5,), torch.float32, ValueError, "whole numbers of at least 1"),
        ((1, 2), torch.int32, TypeError, "floating-point type"),
        ((1, 2), "float32", TypeError, "floating-point type"),
    ],
)
def test_noise_has_a_shape_and_a_type(shape: Any, dtype: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        pure.gaussian(shape, 0, dtype=dtype)


def test_a_seed_of_thousands_of_digits_is_refused_in_a_few_words() -> None:
    with pytest.raises(ValueError, match=r"got one of 16610 bits$"):
        pure.gaussian((1, 2), 10**5000)


@pytest.mark.parametrize("nothing", [None, 3, CACHE])
def test_what_holds_no_tensor_is_not_saved(nothing: Any, tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="there is no tensor to save"):
        pure.save_state(nothing, tmp_path / "state")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("on", ["residual", "hidden"])
def test_differences_beyond_fp16_are_kept(on: str) -> None:
    """Two streams of fp16 may be 131008 apart; the sum is clipped where diffusers clips the blocks of such a model."""
    stream = Kept("image", cast(Any, Weighing(None, history=1, on=on)))

    def turned(params: Any, hidden: OneStream, context: Any, attend: Any) -> OneStream:
        return OneStream(image=-hidden.image)

    before = OneStream(image=torch.tensor([[[-60000.0, 2.0]]]).half())
    after, (left,) = Middle(Stack((turned,), len), (stream,))([{}], before, None)
    assert left.dtype == torch.float32
    for now in (before.image, before.image + 10000):
        found = Fill((stream,))(OneStream(image=now), ((left,),), (torch.ones(1, 1),)).image
        exact = after.image.float() if on == "hidden" else now.float() + left
        assert found.dtype == torch.float16 and torch.equal(found, exact.clamp(-65504, 65504).half())


def test_ranks_for_branches_of_guidance_have_no_effect_where_nothing_is_guided() -> None:
    shared = attrs.evolve(RANDOM.first, branching=cast(Any, len))
    (note,) = shared.notes(4)
    assert note.text.startswith("processes for each branch of guidance have no effect, as nothing is guided")
    assert guided(scale=2.0)(shared).notes(4) == ()


def test_a_table_of_a_notebook_is_text() -> None:
    assert table(("a<b",), [("<i>&",)], "<c>") == (
        "<table><caption>&lt;c&gt;</caption><thead><tr><th>a&lt;b</th></tr></thead>"
        "<tbody><tr><td>&lt;i&gt;&amp;</td></tr></tbody></table>"
    )
