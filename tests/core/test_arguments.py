"""What records and functions of the core say of arguments of another kind: the argument, the value, what is allowed."""

import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch

import pure
from pure.checks import shown
from pure.testing.situation import Situation
from pure.testing.toys import EXPERTS, RANDOM
from pure.transforms import Quantization, compiled, dbcache, guided, nbytes, quantize, scm, survey, taylorseer

CASE = Situation(model=RANDOM, transform=pure.identity, seeds=(0, 1), count=4)
LATENTS = CASE.latents()
STEP = CASE.schedule()[0]
INT8 = Quantization(kind="int8_weight_only")
ANY_RUN: Any = len
CACHE: Any = dbcache
NUMBER: Any = 3
TEXT: Any = "x"
NOTHING: Any = None

RECORDS: list[tuple[Callable[[], Any], str]] = [
    (lambda: pure.UniPC(NUMBER), "UniPC(schedule=3): a schedule is a pure.Schedule(...)"),
    (lambda: pure.FlowMatchEuler(NUMBER), "FlowMatchEuler(schedule=3): a schedule is a pure.Schedule(...)"),
    (lambda: pure.FlowMatchEuler(pure.Schedule), "FlowMatchEuler(schedule=the class Schedule): a schedule is"),  # type: ignore
    (lambda: pure.Experts(NUMBER), "Experts(denoisers=3): give a dict of denoisers by name, at least one"),
    (lambda: pure.Experts({}), "Experts(denoisers={}): give a dict of denoisers by name, at least one"),
    (lambda: pure.Experts({"high": NUMBER}), "Experts(denoisers={'high': 3}): give a dict"),
    (lambda: pure.Guidance(scale=TEXT), "Guidance(scale='x'): the scale must be a finite number"),
    (lambda: pure.Guidance(scale=1e308), "Guidance(scale=1e+308): the scale must be a finite number of -1000 to 1000"),
    (lambda: pure.Guidance(scale=2, start=1.0), "Guidance(start=1.0, stop=1.0): the interval must start before it"),
    (lambda: pure.CompileOptions(backend=NUMBER), "CompileOptions(backend=3): a backend is a name, such as 'inductor'"),
    (lambda: compiled(backend=CACHE), "compiled(backend=the class dbcache): a backend is a name"),
    (lambda: pure.Span(front=-1), "Span(front=-1): the number of front blocks must be a whole number of at least 0"),
    (lambda: pure.Probe(follow=TEXT), "Probe(follow='x'): choose one of ['own', 'conditional']"),
    (lambda: pure.Plan(predictor=taylorseer), "Plan(predictor=the class taylorseer): give a predictor"),  # type: ignore
    (lambda: pure.Plan(span=NUMBER), "Plan(span=3): give a pure.Span(...)"),
    (lambda: pure.Plan().set(rule=NUMBER), "a plan has no field 'rule' to set: there are span, predictor and probe"),
    (lambda: pure.Block(NUMBER, "x"), "Block(run=3): a block runs a function (params, hidden, context, attend)"),
    (lambda: pure.Block(ANY_RUN, NUMBER), "Block(prefix=3): the prefix is text"),
    (lambda: attrs.evolve(CASE.single, streams="image"), "Denoiser(streams='image'): give the names of streams as a"),
    (lambda: attrs.evolve(CASE.single, blocks=[]), "Denoiser(blocks=[]): give a tuple of pure.Block(...), at least"),
    (lambda: attrs.evolve(CASE.single, plan=None), "Denoiser(plan=None): give a pure.Plan(...)"),
    (lambda: attrs.evolve(CASE.single, head=NUMBER), "Denoiser(head=3): this piece is a function"),
    (lambda: Quantization(kind="int9"), "Quantization(kind='int9'): no kind is called 'int9'; kinds: ['float8"),
    (lambda: Quantization(exclude="norm"), "Quantization(exclude='norm'): give a tuple of parts of names"),  # type: ignore
    (lambda: Quantization(exclude=NUMBER), "Quantization(exclude=3): give a tuple of parts of names"),
    (lambda: Quantization(plan=NUMBER), "Quantization(plan=3): give a tuple of pairs (part of a name, kind)"),
    (lambda: Quantization(plan=(("a", "int9"),)), "no kind is called 'int9'; kinds:"),
    (lambda: Quantization(plan=(("a", "int8_per_row", 1),)), "give a tuple of pairs (part of a name, kind)"),  # type: ignore
    (lambda: Quantization(plan=(("", "int8_per_row"),)), "'' is no part of a name"),
    (lambda: Quantization(blocks=NUMBER), "Quantization(blocks=3): choose True or False"),
    (lambda: scm(mask=[10**5000]), "scm(mask=some list): a mask is a sequence of 0 and 1"),
    (lambda: scm(mask=[1.0, 0.0]), "scm(mask=[1.0, 0.0]): a mask is a sequence of 0 and 1"),  # type: ignore
    (lambda: scm(compute_bins=[2**300], cache_bins=[1]), "scm(compute_bins="),
]

FUNCTIONS: list[tuple[Callable[[], Any], str]] = [
    (lambda: pure.FlowMatchEuler().init(NUMBER), "latents are a tensor (B, ...) of floating-point numbers, got int"),
    (lambda: pure.UniPC().init(NUMBER), "latents are a tensor (B, ...) of floating-point numbers, got int"),
    (lambda: pure.FlowMatchEuler().step(LATENTS, LATENTS, NUMBER), "a solver takes one of the steps of its schedule"),
    (lambda: pure.UniPC().step(pure.UniPC().init(LATENTS), LATENTS, NUMBER), "a solver takes one of the steps of its"),
    (lambda: pure.FlowMatchEuler().step(NUMBER, LATENTS, STEP), "latents are a tensor (B, ...) of floating-point"),
    (lambda: pure.FlowMatchEuler().step(LATENTS, NUMBER, STEP), "a prediction is a tensor (B, ...) of floating-point"),
    (lambda: pure.FlowMatchEuler().step(LATENTS, LATENTS[:1], STEP), "a prediction has the shape of the latents"),
    (lambda: pure.UniPC().step(LATENTS, LATENTS, STEP), "the carry of UniPC is what its init or step returned"),  # type: ignore
    (lambda: pure.UniPC().latents(NUMBER), "the carry of UniPC is what its init or step returned, got int"),
    (lambda: pure.Schedule()(4, NUMBER, TEXT), "timesteps have a floating-point type, such as torch.float32, got 'x'"),
    (lambda: pure.Schedule()(4, NOTHING), "a sample has 1 to 1000000000 tokens, a whole number; got None"),
    (lambda: pure.Schedule().sigmas(4, -1), "a sample has 1 to 1000000000 tokens, a whole number; got -1"),
    (lambda: pure.Schedule()(10**5000), "a run takes 1 to 10000 steps, got a whole number of 16610 bits"),
    (lambda: CASE.single.bind(NUMBER), "params is a dict of tensors by name, got int"),
    (lambda: pure.bind([NUMBER], RANDOM.params), "the blocks of a denoiser are pure.Block(...), got 3"),
    (lambda: EXPERTS.denoiser.notes([NUMBER]), "steps are those of solver.schedule(count, tokens), or their number"),
    (lambda: EXPERTS.denoiser.notes(10**5000), "pass its steps instead of their number, a whole number of 16610 bits"),
    (lambda: pure.load_state(NUMBER, like=LATENTS), "a state is saved to a path, got 3"),
    (lambda: pure.save_state(LATENTS, NUMBER), "a state is saved to a path, got 3; the order is save_state(state"),
    (lambda: pure.gaussian((1, 2), 0, device="gpu"), "there is no device 'gpu'; write 'cpu', 'cuda' or 'cuda:1'"),
    (lambda: pure.gaussian((1, 2), 0, device=NUMBER), "there is no device 3; write 'cpu', 'cuda' or 'cuda:1'"),
    (lambda: pure.state(NUMBER), "@pure.state decorates a class, got 3"),
    (lambda: quantize(RANDOM.params, "int9"), "with a Denoiser or Experts, got 'int9'"),  # type: ignore
    (lambda: quantize(RANDOM.params, CASE.single, "int9"), "settings are a Quantization, or a mapping of such"),  # type: ignore
    (lambda: quantize(RANDOM.params, CASE.single, Quantization), "got the class Quantization; call it: Quant"),  # type: ignore
    (lambda: quantize(NUMBER, CASE.single, INT8), "params is a dict of tensors by name, such as pipeline.params, got"),
    (lambda: survey(NOTHING, CASE.single, INT8), "params is a dict of tensors by name, such as pipeline.params, got"),
    (
        lambda: survey({}, EXPERTS.denoiser, INT8),
        "params of experts are a dict of a dict of tensors for each",
    ),
    (lambda: nbytes(NUMBER), "params is a dict of tensors by name, got 3"),
]


@pytest.mark.parametrize(("call", "message"), RECORDS, ids=[message for _, message in RECORDS])
def test_a_record_says_what_it_is_made_of(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


@pytest.mark.parametrize(("call", "message"), FUNCTIONS, ids=[message for _, message in FUNCTIONS])
def test_a_function_says_what_it_takes(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CACHE(1), r"^dbcache: settings are given by name: dbcache\(front=\.\.\., back=\.\.\., threshold"),
        (lambda: CACHE(8, 0, 0.2), "^dbcache: settings are given by name"),
        (lambda: CACHE(tresh=0.2), "^dbcache: there is no 'tresh', did you mean 'threshold'"),
        (lambda: CACHE(Fn_compute_blocks=8), "^dbcache: there is no 'Fn_compute_blocks'; settings are given by name"),
        (lambda: guided(3.0), "^guided: settings are given by name"),  # type: ignore
        (lambda: scm("fast"), "^scm: settings are given by name"),  # type: ignore
        (lambda: taylorseer(1), "^taylorseer: settings are given by name"),  # type: ignore
        (lambda: compiled("eager"), "^compiled: settings are given by name"),  # type: ignore
    ],
)
def test_settings_of_a_transform_are_given_by_name(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_a_transform_of_a_user_takes_what_its_own_init_takes() -> None:
    class scaled(pure.Transform):
        def __init__(self, by: float) -> None:
            object.__setattr__(self, "by", by)

    @attrs.frozen
    class named(pure.Transform):
        name: str

    assert scaled(2.0).by == 2.0 and named("x").name == "x"  # type: ignore
    with pytest.raises(TypeError, match=r"^named: settings are given by name: named\(name=\.\.\.\)"):
        named("x", "y")  # type: ignore


def test_a_value_is_shown_in_a_few_words() -> None:
    assert shown(10**5000) == "a whole number of 16610 bits" and shown([10**5000]) == "some list"
    assert shown(dbcache) == "the class dbcache" and len(shown("a" * 10**6)) == 200


def test_a_saved_state_of_another_plan_is_refused(tmp_path: Any) -> None:
    one, two = (dbcache(front=front, threshold=0.5, warmup=1)(RANDOM.denoiser) for front in (1, 2))
    states: list[Any] = [each.init(RANDOM.params, CASE.conditioning(), LATENTS, 4) for each in (one, two)]
    pure.save_state(states[0], tmp_path / "state")
    assert torch.equal(pure.load_state(tmp_path / "state", like=states[0]).cache.ledger, states[0].cache.ledger)
    with pytest.raises(ValueError, match=r"\.cache\.plan is .*after blocks 1 to 3.*, expected .*after blocks 2 to 3"):
        pure.load_state(tmp_path / "state", like=states[1])
    with pytest.raises(TypeError, match=r"like is a tree as init returned it, .* got 3"):
        pure.load_state(tmp_path / "state", like=3)
