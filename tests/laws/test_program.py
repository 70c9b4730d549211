"""Programs: the decisions of the loop, in one graph that other masks, thresholds and schedules do not compile anew."""

from typing import Any

import attrs
import pytest
import torch
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

import pure
from pure import Answer
from pure.rules import Mask
from pure.testing.situation import Model, Situation, close
from pure.testing.toys import CLOSED, EXPERTS, RANDOM, STREAMS
from pure.transforms import budget, dbcache, guided, scm, taylorseer
from pure.tree import map_samples
from tests.laws.test_compiled import Counting, counting  # noqa: F401  # a fixture
from tests.support import ovis, qwen_image, wan, z_image
from tests.support.flux import FLUX_DEV

UNIPC = attrs.evolve(STREAMS, solver=pure.UniPC(pure.Schedule(shift=3.0, spacing="whole", unit=1)))
THRESHOLD = pure.compose(dbcache(front=1, threshold=0.5, warmup=1), taylorseer(order=1))
LATER = pure.compose(dbcache(front=1, threshold=0.3, warmup=3, max_continuous=2), taylorseer(order=1))
LIMITS = pure.compose(dbcache(front=1, threshold=0.9, warmup=1, max_cached=3, max_accumulated=0.7), taylorseer(order=2))
DYNAMIC = pure.compose(dbcache(front=1, back=1, threshold=0.8, warmup=2), scm(mask=(1, 1, 0, 0, 1, 0, 0, 0)))
STATIC = pure.compose(dbcache(front=1), scm(mask=(1, 1, 0, 0, 1, 0, 0, 1), policy="static"), taylorseer(order=3))
HIDDEN = pure.compose(
    dbcache(front=1, back=1, threshold=0.9, warmup=2), taylorseer(order=1, on="hidden", streams="all")
)
SHORT = pure.compose(dbcache(front=1), scm(mask=(1, 1, 1, 0, 1, 1, 0, 0), policy="static"), taylorseer(order=1))
INTERVAL = dbcache(front=1, threshold=0.9, warmup=6, warmup_interval=2)
NEVER = dbcache(front=1, threshold=0.9, max_continuous=0)
OFF = pure.compose(dbcache(front=1, threshold=0.5), scm(preset="fast"))  # there is no such mask of 7 steps
ALWAYS = dbcache(front=0, threshold=1.0, warmup=2, max_continuous=2)
SUMMED = dbcache(front=1, threshold=2.0, warmup=1, max_continuous=None, max_accumulated=0.7)
BRANCHES = pure.compose(guided(scale=2.0), dbcache(front=1, threshold=0.5, warmup=1, follow="conditional"))


def case(model: Model = RANDOM, transform: pure.Transform = THRESHOLD, **fields: Any) -> Situation:
    return Situation(model=model, transform=transform, **{"seeds": (1,), "count": 8, **fields})


def eager(given: Situation) -> pure.Run:
    return pure.sample(
        given.denoiser, given.model.params, given.conditioning(), given.latents(), given.schedule(), given.solver
    )


def program(given: Situation) -> pure.Program:
    return pure.program(given.single, given.schedule(), given.solver)


def started(given: Situation, made: pure.Program) -> tuple[Any, Any]:
    bound = given.single.bind(given.model.params)
    return bound, made.init(bound, given.conditioning(), given.latents())


def decisions(run: pure.Run) -> list[bool]:
    assert all(len(set(info.computed)) == 1 for info in run.infos)
    return [info.computed[0] for info in run.infos]


KNOWN = [pure.identity, STATIC, SHORT, NEVER]
PLANS = [*KNOWN, THRESHOLD, LATER, LIMITS, DYNAMIC, HIDDEN, INTERVAL, ALWAYS, SUMMED, BRANCHES]


@pytest.mark.parametrize("transform", PLANS)
@pytest.mark.parametrize("model", [CLOSED, RANDOM, STREAMS, UNIPC], ids=str)
def test_a_program_decides_and_predicts_as_the_loop(model: Model, transform: pure.Transform) -> None:
    given = case(model, transform)
    made, expected = program(given), eager(given)
    latents, computed = made.run(*started(given, made))
    assert computed.tolist() == decisions(expected)
    assert close(latents, expected.latents, 1e-5)
    assert made.static == (transform in KNOWN)


@pytest.mark.parametrize(
    "model", [FLUX_DEV, qwen_image.QWEN_IMAGE, ovis.OVIS, z_image.Z_IMAGE, *wan.MODELS[:1]], ids=str
)
@pytest.mark.parametrize("transform", [THRESHOLD, BRANCHES, STATIC], ids=["threshold", "guided", "static"])
def test_families(model: Model, transform: pure.Transform) -> None:
    given = case(model, transform)
    made, expected = program(given), eager(given)
    latents, computed = made.run(*started(given, made))
    assert computed.tolist() == decisions(expected)
    assert close(latents, expected.latents, 1e-5)


@pytest.mark.parametrize("transform", [THRESHOLD, STATIC], ids=["threshold", "static"])
def test_every_expert_has_a_program_and_the_solver_goes_through_all_of_them(transform: pure.Transform) -> None:
    given = case(attrs.evolve(EXPERTS, solver=UNIPC.solver), transform, count=16)
    programs = pure.programs_of(given.denoiser, given.schedule(), given.solver)
    expected, carry, computed = eager(given), None, []
    assert list(programs) == list(dict.fromkeys(step.expert for step in given.schedule()))
    for name, made in programs.items():
        bound = made.denoiser.bind(given.model.params[name])
        state = made.init(bound, given.conditioning(), given.latents())
        state = state if carry is None else attrs.evolve(state, carry=carry)
        for inputs in made.inputs:
            state, one, _ = made.step(bound, state, inputs)
            computed.append(bool(one))
        carry = state.carry
        assert close(made.latents(state), expected.latents, 1e-5) == (name == list(programs)[-1])
    assert computed == decisions(expected) and not all(computed)
    with pytest.raises(ValueError, match=r"a step names expert ''; there are \['high', 'low'\]"):
        pure.programs_of(given.denoiser, RANDOM.solver.schedule(8, tokens=16), given.solver)


def test_a_mask_holds_for_every_sample_of_a_batch_and_a_threshold_for_all_together() -> None:
    masked = case(FLUX_DEV, STATIC, seeds=(1, 2, 3))
    made = program(masked)
    assert close(made.run(*started(masked, made))[0], eager(masked).latents, 1e-5)
    together = case(RANDOM, THRESHOLD, seeds=(1, 2, 3))
    made = program(together)
    bound, state = started(together, made)
    for inputs in made.inputs:
        before, (state, computed, change) = state, made.step(bound, state, inputs)
        if bool(computed):
            assert state.times[0] == inputs.index and state.counts[1] == 0
        else:
            assert change < 0.5 and state.counts.tolist() == [before.counts[0] + 1, before.counts[1] + 1]
            assert torch.equal(state.times, before.times)


def test_one_graph_serves_other_thresholds_warm_ups_limits_and_schedules(counting: Counting) -> None:  # noqa: F811
    first = case(FLUX_DEV, THRESHOLD)
    step = torch.compile(program(first).step, fullgraph=True, backend=counting)  # type: ignore[arg-type]
    shifted = attrs.evolve(FLUX_DEV, solver=pure.FlowMatchEuler(pure.Schedule(shift=2.0)))
    for given in (first, case(FLUX_DEV, LATER), case(shifted, THRESHOLD), case(FLUX_DEV, THRESHOLD, seeds=(5,))):
        made, found = program(given), []
        bound, state = started(given, made)
        for inputs in made.inputs:
            state, computed, _ = step(bound, state, inputs)
            found.append(bool(computed))
        assert found == decisions(eager(given))
        assert close(made.latents(state), eager(given).latents, 1e-5)
        assert counting.graphs == 1
    assert not counters["graph_break"]


def test_a_static_mask_has_two_graphs_and_no_condition(counting: Counting) -> None:  # noqa: F811
    other = pure.compose(dbcache(front=1), scm(mask=(1, 0, 1, 0, 0, 1, 0, 1), policy="static"), taylorseer(order=3))
    first = case(FLUX_DEV, STATIC)
    step = torch.compile(program(first).step, fullgraph=True, backend=counting)  # type: ignore[arg-type]
    for given in (first, case(FLUX_DEV, other)):
        made = program(given)
        bound, state = started(given, made)
        for inputs, computes in zip(made.inputs, made.known, strict=True):
            state, _, _ = step(bound, state, inputs, computes)
        assert close(made.latents(state), eager(given).latents, 1e-5)
    assert counting.graphs == 2


def test_a_whole_run_is_one_graph(counting: Counting) -> None:  # noqa: F811
    given = case(STREAMS, THRESHOLD, count=5)
    made = program(given)
    run = torch.compile(made.run, fullgraph=True, backend=counting)  # type: ignore[arg-type]
    latents, computed = run(*started(given, made))
    assert computed.tolist() == decisions(eager(given)) and close(latents, eager(given).latents, 1e-5)
    assert counting.graphs == 1


def test_a_program_is_compiled_by_inductor() -> None:
    given = case(RANDOM, THRESHOLD)
    made, found = program(given), []
    step = torch.compile(made.step, fullgraph=True)
    with torch.no_grad():
        bound, state = started(given, made)
        for inputs in made.inputs:
            state, computed, _ = step(bound, state, inputs)
            found.append(bool(computed))
    assert found == decisions(eager(given)) and close(made.latents(state), eager(given).latents, 1e-5)


def test_a_step_is_exported() -> None:
    given = case(STREAMS, THRESHOLD)
    made = program(given)
    bound, state = started(given, made)

    class Exported(torch.nn.Module):
        def forward(self, params: Any, blocks: Any, state: Any, inputs: Any) -> Any:
            return made.step(pure.Bound(params, blocks), state, inputs)

    params, blocks = dict(bound.all), tuple(map(dict, bound.blocks))
    with torch.no_grad():
        step = torch.export.export(Exported(), (params, blocks, state, made.inputs[0]), strict=False).module()
        found = []
        for inputs in made.inputs:
            state, computed, _ = step(params, blocks, state, inputs)
            found.append(bool(computed))
    assert found == decisions(eager(given)) and close(made.latents(state), eager(given).latents, 1e-5)


def test_a_mask_for_all_steps_leaves_nothing_for_the_branches_of_guidance_to_decide() -> None:
    mask = scm(mask=(1, 1, 0, 0, 1, 0, 0, 1), policy="static")
    given = case(transform=pure.compose(guided(scale=2.0), dbcache(front=1, threshold=0.5), mask))
    made, expected = program(given), eager(given)
    latents, computed = made.run(*started(given, made))
    assert computed.tolist() == decisions(expected) == [True, True, False, False, True, False, False, True]
    assert close(latents, expected.latents, 1e-5)


MASK = scm(mask=(1, 1, 0, 0, 1, 0, 0, 1), policy="static")
TOKENS = dbcache(front=1, importance=0.1)


@pytest.mark.parametrize(
    "transform", [attrs.evolve(TOKENS, warmup=8), pure.compose(TOKENS, MASK)], ids=["warm", "mask"]
)
def test_nothing_is_measured_where_every_decision_is_known(transform: pure.Transform) -> None:
    given = case(RANDOM, transform)
    made = program(given)
    assert made.static
    latents, computed = made.run(*started(given, made))
    assert computed.tolist() == decisions(eager(given)) and close(latents, eager(given).latents, 1e-5)


def test_a_mask_that_is_off_for_this_number_of_steps_decides_nothing() -> None:
    given = case(RANDOM, OFF, count=7)
    made, expected = program(given), eager(given)
    assert made.run(*started(given, made))[1].tolist() == decisions(expected) and not made.static


@attrs.frozen
class Momentum:
    """A solver that keeps half of the last velocity."""

    schedule: Any = RANDOM.solver.schedule

    def init(self, latents: torch.Tensor) -> Any:
        return torch.zeros_like(latents), latents

    def step(self, carry: Any, prediction: torch.Tensor, step: pure.Step) -> Any:
        velocity = 0.5 * carry[0] + prediction
        return velocity, carry[1] + (step.sigma_next - step.sigma) * velocity  # type: ignore[operator]

    def latents(self, carry: Any) -> torch.Tensor:
        return carry[1]


def test_a_solver_of_your_own_is_a_matrix_too() -> None:
    given = case(attrs.evolve(RANDOM, solver=Momentum()), THRESHOLD)
    made, expected = program(given), eager(given)
    latents, computed = made.run(*started(given, made))
    assert (made.start, made.read) == ((0.0, 1.0), (0.0, 1.0))
    assert computed.tolist() == decisions(expected) and close(latents, expected.latents, 1e-5)


def test_what_is_zero_and_stays_zero_has_not_changed() -> None:
    first, *others = RANDOM.first.blocks
    still = pure.Block(lambda params, hidden, context, attend: hidden, first.prefix)
    denoiser = attrs.evolve(RANDOM.first, blocks=(still, *others))
    given = case(attrs.evolve(RANDOM, denoiser=denoiser), THRESHOLD)
    made = program(given)
    _, computed = made.run(*started(given, made))
    assert computed.tolist() == decisions(eager(given)) and not computed.all()


def test_every_row_has_a_timestep_and_latents_keep_their_type() -> None:
    given, seen = case(FLUX_DEV, BRANCHES, seeds=(1, 2), count=3), set()

    def embed(params: Any, prepared: Any, latents: torch.Tensor, timestep: torch.Tensor) -> Any:
        seen.add((len(latents), tuple(timestep.shape)))
        return FLUX_DEV.first.embed(params, prepared, latents, timestep)

    made = pure.program(attrs.evolve(given.single, embed=embed), given.schedule(), given.solver)
    bound = made.denoiser.bind({name: tensor.bfloat16() for name, tensor in FLUX_DEV.params.items()})
    conditioning = map_samples(torch.Tensor.bfloat16, given.conditioning())
    latents, _ = made.run(bound, made.init(bound, conditioning, given.latents().bfloat16()))
    assert seen == {(4, (4,))} and latents.dtype == torch.bfloat16


@pytest.mark.parametrize("known", [True, False])
def test_a_step_is_where_its_state_is(known: bool) -> None:
    given = case(RANDOM, STATIC)
    made = program(given)
    on_meta = {name: tensor.to("meta") for name, tensor in given.model.params.items()}
    bound = given.single.bind(on_meta)
    state = made.init(
        bound, map_samples(lambda leaf: leaf.to("meta"), given.conditioning()), given.latents().to("meta")
    )
    after, computed, change = made.step(bound, state, made.inputs[3], known)
    tensors = [after.carry[0], after.counts, after.times, after.accumulated, computed, change]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_part_of_a_schedule_is_refused() -> None:
    steps = RANDOM.solver.schedule(8, tokens=16)
    for part in (steps[1:], steps[:6], steps[::-1]):
        with pytest.raises(ValueError, match=r"a program is of a whole schedule, .* a part of one with pure\.unroll"):
            pure.program(dbcache(front=1)(RANDOM.first), part, RANDOM.solver)


@attrs.frozen
class Wrong(pure.Transform):
    found: Any
    history: int = 2
    on: str = "residual"
    streams: str = "all"

    def weights(self, times: Any, target: int, first: int) -> Any:
        return self.found

    def edit(self, denoiser: pure.Denoiser) -> pure.Denoiser:
        return attrs.evolve(denoiser, plan=denoiser.plan.set(predictor=self))


@pytest.mark.parametrize("found", [(float("nan"), 0.0), (1.0,), 3.0], ids=str)
@pytest.mark.parametrize("policy", ["static", "dynamic"])
def test_wrong_weights_are_refused_as_in_the_loop(found: Any, policy: str) -> None:
    plan = pure.compose(dbcache(front=1), scm(mask=(1, 0, 1, 0), policy=policy), Wrong(found))
    with pytest.raises(ValueError, match=r"Wrong\(.* gave the weights .* gives 2 finite numbers"):
        pure.program(plan(RANDOM.first), RANDOM.solver.schedule(4, tokens=16), RANDOM.solver)


@attrs.frozen
class Own(pure.Rule):
    name = "own"
    before = Mask

    def answer(self, where: pure.Where, memory: pure.Memory) -> Answer:
        return Answer.DEFER


def test_what_is_no_tensor_is_refused_by_name() -> None:
    steps = RANDOM.solver.schedule(40, tokens=16)
    own = attrs.evolve(RANDOM.first, plan=dbcache(front=1)(RANDOM.first).plan.add(Own()))
    refused = [
        (own, r"Own\(\) decides in Python, .* use a mask or a threshold"),
        (budget()(RANDOM.first), r"^budget\(\) decides in Python, .* use a mask or a threshold"),
        (pure.compose(guided(scale=2.0), dbcache(front=1))(RANDOM.first), "set dbcache\\(follow='conditional'\\)"),
        *(
            (part(RANDOM.first), "guides a part of the run")
            for part in (guided(scale=2.0, start=0.5), guided(scale=2.0, stop=0.5), guided(scale=2.0, lowest_sigma=0.1))
        ),
        (dbcache(front=1, importance=0.1)(RANDOM.first), "is measured in Python"),
        (
            pure.compose(dbcache(front=1), taylorseer(order=3))(RANDOM.first),
            "4 steps: in 40 steps there are .* too many",
        ),
    ]
    for denoiser, message in refused:
        with pytest.raises(ValueError, match=message):
            pure.program(denoiser, steps, RANDOM.solver)
    wide = pure.compose(dbcache(front=1), taylorseer(order=2))(RANDOM.first)
    with pytest.raises(ValueError, match="3 steps: in 99 steps there are 1,000,000 histories, too many for a table"):
        pure.program(wide, RANDOM.solver.schedule(99, tokens=16), RANDOM.solver)
    with pytest.raises(
        TypeError, match=r"a program is of one Denoiser, got Experts; pure\.programs_of\(\.\.\.\) makes"
    ):
        pure.program(EXPERTS.denoiser, steps, RANDOM.solver)  # type: ignore[arg-type]


def test_compiling_apply_itself_runs_as_it_is_or_says_what_to_compile() -> None:
    given = case(FLUX_DEV, THRESHOLD)
    arguments = (given.model.params, given.start(), pure.Inputs(given.latents(), given.schedule()[0]))
    torch._dynamo.reset()
    compiled: Any = torch.compile(given.single.apply, backend="eager")
    assert torch.equal(compiled(*arguments)[0], given.single.apply(*arguments)[0])
    torch._dynamo.reset()
    whole: Any = torch.compile(given.single.apply, backend="eager", fullgraph=True)
    with pytest.raises(Unsupported, match=r"compose compiled\(\) .* step of pure.program"):
        whole(*arguments)
