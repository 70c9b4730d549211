"""What transforms refuse, note and print; composition."""

import math
from typing import Any, cast

import attrs
import pytest

import pure
from pure import Plan, Probe, Span, transforms
from pure.experts import transformed
from pure.rules import Accumulated, Continuous, Threshold, Total, Warmup
from pure.testing.situation import Situation
from pure.testing.toys import CLOSED, RANDOM, STREAMS, random_denoiser
from pure.transforms import calibrated, compiled, dbcache, guided, scm, taylorseer
from tests.support.flux import FLUX_DEV

DENOISER = RANDOM.first
SIZE = len(DENOISER.blocks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"front": -1}, r"dbcache\(front=-1\): the number of front blocks must be a whole number of at least 0"),
        ({"front": 1.5}, r"dbcache\(front=1.5\): the number of front blocks must be a whole number"),
        ({"front": True}, r"dbcache\(front=True\): the number of front blocks must be a whole number"),
        ({"back": -2}, r"dbcache\(back=-2\): the number of back blocks"),
        (
            {"threshold": "0.2"},
            r"dbcache\(threshold='0.2'\): the threshold must be a number of at least 0; 0.05 to 0.4 are common",
        ),
        ({"threshold": -1}, r"dbcache\(threshold=-1\): the threshold must be a number of at least 0"),
        (
            {"threshold": 10**400},
            r"threshold=a whole number of 1329 bits\): the threshold must be a number of 0 to 1e",
        ),
        ({"threshold": 10**5000}, r"threshold=a whole number of 16610 bits\): the threshold must be"),
        ({"warmup": 10**400}, r"the number of warm-up steps must be a whole number of 0 to 1000000000"),
        ({"threshold": -1e-9}, r"dbcache\(threshold=-1e-09\): the threshold must be a number of at least 0"),
        ({"threshold": math.nan}, r"dbcache\(threshold=nan\): the threshold must be a number"),
        ({"threshold": math.inf}, r"dbcache\(threshold=inf\): the threshold must be a number"),
        ({"threshold": None}, r"dbcache\(threshold=None\): the threshold must be a number"),
        ({"threshold": True}, r"dbcache\(threshold=True\): the threshold must be a number"),
        ({"warmup": 2.0}, r"dbcache\(warmup=2.0\): the number of warm-up steps must be a whole number"),
        ({"warmup": math.nan}, r"dbcache\(warmup=nan\): the number of warm-up steps must be a whole number"),
        ({"max_cached": True}, r"dbcache\(max_cached=True\): the limit of skipped steps"),
        ({"max_continuous": "3"}, r"dbcache\(max_continuous='3'\): the limit of skips in a row"),
        ({"max_accumulated": math.inf}, r"dbcache\(max_accumulated=inf\): the accumulated limit"),
        ({"max_accumulated": True}, r"dbcache\(max_accumulated=True\): the accumulated limit"),
        ({"importance": math.nan}, r"dbcache\(importance=nan\): the importance"),
        ({"importance": "0"}, r"dbcache\(importance='0'\): the importance"),
        ({"downsample": True}, r"dbcache\(downsample=True\): the downsampling factor"),
        ({"downsample": 1.5}, r"dbcache\(downsample=1.5\): the downsampling factor"),
        ({"follow": None}, r"dbcache\(follow=None\): choose one of"),
        ({"follow": ["own"]}, r"dbcache\(follow=\['own'\]\): choose one of"),
        ({"warmup": -1}, r"dbcache\(warmup=-1\): the number of warm-up steps must be a whole number of at least 0"),
        ({"warmup_interval": 0}, r"dbcache\(warmup_interval=0\): the interval of warm-up steps .* at least 1"),
        ({"max_cached": -1}, r"dbcache\(max_cached=-1\): the limit of skipped steps \(None: no limit\) must be"),
        ({"max_continuous": -1}, r"dbcache\(max_continuous=-1\): the limit of skips in a row \(None: no limit\)"),
        (
            {"max_accumulated": -0.1},
            r"dbcache\(max_accumulated=-0.1\): the accumulated limit .*; use None for no limit",
        ),
        ({"max_accumulated": math.nan}, r"dbcache\(max_accumulated=nan\): the accumulated limit"),
        ({"importance": -1.0}, r"dbcache\(importance=-1.0\): the importance .*; use 0 for all tokens"),
        ({"downsample": 0}, r"dbcache\(downsample=0\): the downsampling factor must be a whole number of at least 1"),
        ({"follow": "both"}, r"dbcache\(follow='both'\): choose one of \['own', 'conditional'\]"),
    ],
)
def test_dbcache_refuses_wrong_values_when_made(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dbcache(**arguments)


def test_dbcache_refuses_blocks_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"asks for 5 blocks that always run, but the denoiser has 4; make front \+ back"
    ):
        dbcache(front=3, back=2)(DENOISER)
    assert dbcache(front=2, back=2)(DENOISER).plan.span == Span(front=2, back=2)


@pytest.mark.parametrize("threshold", [0.01, 0.5, 0.999])
def test_dbcache_refuses_a_threshold_with_nothing_to_measure(threshold: float) -> None:
    with pytest.raises(
        ValueError, match=r"has no front block whose change could be compared .*; use front=1, or thresh"
    ):
        dbcache(front=0, threshold=threshold)(DENOISER)
    cure = r"; choose the steps with scm\(mask=\.\.\., policy='static'\), or use front=0"
    with pytest.raises(ValueError, match=cure):
        dbcache(front=1, threshold=threshold)(random_denoiser(blocks=1))


def test_dbcache_fills_the_plan() -> None:
    transform = dbcache(front=1, back=2, threshold=0.3, importance=0.1, downsample=2, follow="conditional")
    plan = transform(DENOISER).plan
    assert plan.span == Span(front=1, back=2)
    assert plan.probe == Probe(importance=0.1, downsample=2, follow="conditional")
    assert [rule.name for rule in plan.rules] == ["warm-up", "continuous limit", "threshold"]
    full = attrs.evolve(transform, max_cached=3, max_accumulated=1.0)(DENOISER).plan
    names = ["warm-up", "total limit", "continuous limit", "accumulated limit", "threshold"]
    assert [rule.name for rule in full.rules] == names
    none = attrs.evolve(
        transform, warmup=6, warmup_interval=3, max_cached=0, max_continuous=0, max_accumulated=0.0, threshold=0.0
    )
    assert none(DENOISER).plan.rules == (Warmup(6, 3), Total(0), Continuous(0), Accumulated(0.0), Threshold(0.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 4}, r"taylorseer\(order=4\): the order must be a whole number of 0 to 3"),
        ({"order": math.nan}, r"taylorseer\(order=nan\): the order must be"),
        ({"order": "1"}, r"taylorseer\(order='1'\): the order must be"),
        ({"order": -1}, r"taylorseer\(order=-1\): the order must be"),
        ({"order": 1.0}, r"taylorseer\(order=1.0\): the order must be"),
        ({"order": True}, r"taylorseer\(order=True\): the order must be"),
        ({"on": "output"}, r"taylorseer\(on='output'\): choose one of \['residual', 'hidden'\]"),
        ({"streams": "image"}, r"taylorseer\(streams='image'\): give a tuple of stream names, 'all' or None"),
        ({"streams": ()}, r"taylorseer\(streams=\(\)\): give a tuple"),
        ({"streams": ["image"]}, r"taylorseer\(streams=\['image'\]\): give a tuple"),
    ],
)
def test_taylorseer_refuses_wrong_values_when_made(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taylorseer(**arguments)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([[4, 2], 5], r"calibrated\(table\): the row \[\[4, 2\], 5\] is wrong: a row is a history"),
        (7, r"the row 7 is wrong: a row is a history \(newest step first\), a target and the weights, such as"),
        ([4, 5, [1.0]], r"a row is a history"),
        ([[], 5, []], r"a history has 1 to 8 steps"),
        ([list(range(9, 0, -1)), 10, [1.0] + [0.0] * 8], r"a history has 1 to 8 steps"),
        ([[4, 2], 4, [1.5, -0.5]], r"a history goes back from the target, newest step first"),
        ([[2, 4], 5, [1.5, -0.5]], r"a history goes back from the target"),
        ([[4, 4], 5, [1.5, -0.5]], r"a history goes back from the target"),
        ([[4, -1], 5, [1.5, -0.5]], r"step indices, whole numbers of 0 to 9999"),
        ([[4, True], 5, [1.5, -0.5]], r"step indices"),
        ([[4.0], 5, [1.0]], r"step indices"),
        ([[4], 10_000, [1.0]], r"step indices"),
        ([[4, 2], 5, [1.0]], r"2 steps have as many weights, not 1"),
        ([[4, 2], 5, [math.nan, 1.0]], r"weights are finite numbers"),
        ([[4, 2], 5, ["1.5", -0.5]], r"weights are finite numbers"),
        ([[4, 2], 5, [0.5, 0.4]], r"weights add up to 1, these to 0.9; change the first one"),
        ([[4, 2], 5, [1.5, -0.4]], r"weights add up to 1, these to 1.1; change the first one"),
    ],
)
def test_calibrated_refuses_a_wrong_row_by_showing_it(row: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrated(table=[[[3], 4, [1.0]], row])


@pytest.mark.parametrize("table", [None, 3, "table", {"a": 1}])
def test_calibrated_refuses_what_is_no_table(table: object) -> None:
    with pytest.raises(ValueError, match=r"calibrated\(table"):
        calibrated(table=table)  # type: ignore[arg-type]


def test_calibrated_refuses_two_rows_for_one_step() -> None:
    with pytest.raises(ValueError, match=r"history \[4, 2\] with target 5 has two rows; keep one"):
        calibrated(table=[[[4, 2], 5, [1.5, -0.5]], [[4, 2], 5, [1.4, -0.4]]])
    assert len(calibrated(table=[[[4, 2], 5, [1.5, -0.5]]] * 2).table) == 1


@pytest.mark.parametrize(
    "table", [{((4, 2), 5): (1.5, -0.5), ((2,), 3): (1,)}, [[[2], 3, [1]], [[4, 2], 5, [1.5, -0.5]]]]
)
def test_calibrated_is_a_record_of_its_table(table: object) -> None:
    made = calibrated(table=table)  # type: ignore[arg-type]
    assert made == calibrated(table=made.table) and hash(made) == hash(calibrated(table=made.table))
    assert eval(repr(made)) == made
    assert made != calibrated(table=made.table[1:])
    longest = calibrated(table=[[list(range(8, 0, -1)), 9, [1.0] + [0.0] * 7]])
    assert longest.history == 8 and longest.weights(tuple(range(8, 0, -1)), 9, 0) == (1.0, *[0.0] * 7)


def test_calibrated_refuses_streams_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"calibrated\(streams=\('video',\)\): the denoiser's streams are"):
        pure.compose(dbcache(), calibrated(table=(), streams=("video",)))(DENOISER)


def test_taylorseer_refuses_streams_that_do_not_exist() -> None:
    with pytest.raises(
        ValueError, match=r"taylorseer\(streams=\('video',\)\): the denoiser's streams are \('image',\)"
    ):
        pure.compose(dbcache(), taylorseer(streams=("video",)))(DENOISER)


@pytest.mark.parametrize(
    ("model", "streams", "back", "depths"),
    [
        (FLUX_DEV, None, 0, {"image": 3}),
        (FLUX_DEV, None, 1, {"image": 3, "text": 1}),
        (FLUX_DEV, "all", 1, {"image": 3, "text": 3}),
        (FLUX_DEV, ("text",), 1, {"image": 1, "text": 3}),
        (FLUX_DEV, ("text",), 0, {"image": 1}),
        (CLOSED, None, 0, {"image": 3, "text": 3}),
        (STREAMS, "all", 0, {"image": 3}),
    ],
)
def test_predictors_are_per_stream(model, streams, back: int, depths: dict) -> None:
    recipe = pure.compose(dbcache(front=1, back=back), taylorseer(order=2, streams=streams))
    kept = recipe(model.first).pieces.kept
    assert {stream.name: stream.predictor.history for stream in kept} == depths


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": math.inf}, r"guided\(scale=inf\): the scale must be a finite number"),
        ({"scale": -math.inf}, r"guided\(scale=-inf\): the scale must be a finite number"),
        ({"scale": math.nan}, r"guided\(scale=nan\): the scale must be a finite number"),
        ({"scale": "3"}, r"guided\(scale='3'\): the scale must be a finite number"),
        ({"scale": True}, r"guided\(scale=True\): the scale must be a finite number"),
        ({"scale": 1e308}, r"guided\(scale=1e\+308\): the scale must be a finite number of -1000 to 1000"),
        ({"scale": 10**400}, r"guided\(scale=a whole number of 1329 bits\): the scale must be a finite number"),
        ({"scale": 2.0, "start": -0.1}, r"guided\(start=-0.1\): the start of the interval must be a number of 0 to 1"),
        ({"scale": 2.0, "start": 0.5, "stop": 0.5}, r"guided\(start=0.5, stop=0.5\): the interval must start before"),
        ({"scale": 2.0, "stop": 1.5}, r"guided\(stop=1.5\): the end of the interval must be a number of 0 to 1"),
        ({"scale": 2.0, "stop": math.nan}, r"guided\(stop=nan\): the end of the interval must be a number of 0 to 1"),
        ({"scale": 2.0, "lowest_sigma": 1.5}, r"guided\(lowest_sigma=1.5\): the lowest noise level must be a number"),
        ({"scale": 2.0, "lowest_sigma": True}, r"guided\(lowest_sigma=True\): the lowest noise level"),
        ({"scale": 2.0, "normalize": "all"}, r"guided\(normalize='all'\): choose one of \['none', 'token', 'sample'\]"),
        ({"scale": 2.0, "cap": 0}, r"guided\(cap=0\): the cap must be a finite number above 0"),
        ({"scale": 2.0, "cap": -1.0}, r"guided\(cap=-1.0\): the cap must be a finite number above 0"),
        ({"scale": 2.0, "cap": math.nan}, r"guided\(cap=nan\): the cap must be"),
    ],
)
def test_guided_refuses_wrong_values_when_made(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guided(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": 3}, r"compiled\(backend=3\): a backend is a name, such as 'inductor', or a function"),
        ({"mode": True}, r"compiled\(mode=True\): a mode is a name"),
        ({"regional": 1}, r"compiled\(regional=1\): choose True or False"),
        ({"regional": "yes"}, r"compiled\(regional='yes'\): choose True or False"),
    ],
)
def test_compiled_refuses_wrong_values_when_made(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(**arguments)


def test_options_of_the_core_have_the_fields_of_their_transforms() -> None:
    options = guided(scale=2, start=0.25, normalize="sample", cap=1.5)(DENOISER).guidance
    assert options == pure.Guidance(scale=2.0, start=0.25, normalize="sample", cap=1.5)
    options = compiled(backend="eager", regional=False)(DENOISER).compile
    assert options == pure.CompileOptions(backend="eager", regional=False)
    seer = taylorseer(order=2)
    assert pure.compose(dbcache(), seer)(DENOISER).plan.predictor is seer


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (
            dbcache(),
            dbcache(front=2),
            r"^dbcache\(\) and dbcache\(front=2\) both set which blocks may be ",
        ),
        (
            dbcache(threshold=0.1),
            dbcache(threshold=0.2),
            r"dbcache\(threshold=0.1\) and dbcache\(threshold=0.2\) both set the rule 'threshold'; compose only one",
        ),
        (dbcache(max_cached=None), dbcache(max_cached=5), r"^dbcache\(\) and dbcache\(max_cached=5\) both"),
        (dbcache(max_cached=5), dbcache(max_cached=None), r"^dbcache\(max_cached=5\) and dbcache\(\) both"),
        (dbcache(max_continuous=3), dbcache(max_continuous=None), r"and dbcache\(max_continuous=None\) both"),
        (dbcache(max_accumulated=None), dbcache(max_accumulated=2.0), r"and dbcache\(max_accumulated=2.0\) both"),
        (dbcache(downsample=1), dbcache(downsample=2), "both set what is measured of a step"),
        (
            taylorseer(order=1),
            taylorseer(order=2),
            r"taylorseer\(\) and taylorseer\(order=2\) both set how skipped blocks are filled in",
        ),
        (scm(mask="11"), scm(mask="10"), r"scm\(mask=\(1, 1\)\) and scm\(mask=\(1, 0\)\) both set the rule 'm"),
        (guided(scale=1.0), guided(scale=2.0), r"^guided\(scale=1.0\) and guided\(scale=2.0\) both set the guidance"),
        (compiled(), compiled(mode="max-autotune"), r"compiled\(\) and compiled\(mode='max-autotune'\) both set how"),
    ],
)
def test_saying_two_things_is_an_error_that_names_both(one, two, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pure.compose(one, two)(DENOISER)
    pure.compose(dbcache(), one, one)(DENOISER) if not isinstance(one, dbcache) else pure.compose(one, one)(DENOISER)


@pytest.mark.parametrize(
    "transform", [taylorseer(order=1), scm(mask="1101"), dbcache(threshold=0.0), dbcache(max_cached=0)]
)
def test_a_plan_that_can_never_skip_is_noted(transform: pure.Transform) -> None:
    denoiser = transform(DENOISER)
    (note,) = denoiser.notes(4)
    assert "nothing will be skipped" in note.text or "has no effect: no step can be skipped" in note.text
    assert denoiser.pieces.kept == () and not denoiser.pieces.probing, "nothing is remembered for nothing"


def test_only_the_finished_composition_is_judged() -> None:
    recipe = pure.compose(taylorseer(order=1), scm(mask="1101"), dbcache(threshold=0.3))
    assert recipe(DENOISER).plan.span == Span(front=1)
    assert pure.identity(DENOISER) is DENOISER


def test_compose_flattens_and_prints_as_typed() -> None:
    one, two, three = dbcache(threshold=0.1), taylorseer(order=1), guided(scale=2.0)
    nested = pure.compose(pure.compose(one, pure.identity), pure.compose(two, pure.compose(three)))
    assert nested == pure.compose(one, two, three)
    assert hash(nested) == hash(pure.compose(one, two, three))
    assert pure.compose(one) is one and pure.compose() == pure.identity
    assert eval(repr(nested), {**vars(pure), **vars(transforms)}) == nested
    assert repr(pure.identity) == "identity" and repr(dbcache(threshold=float("0.24"))) == "dbcache()"
    assert pure.compose(one, two) != pure.compose(two, one), "recipes differ; plans do not"
    assert pure.compose(one, two)(DENOISER) == pure.compose(two, one)(DENOISER)


def test_compose_takes_transforms_only() -> None:
    with pytest.raises(TypeError, match=r"compose takes transforms, such as dbcache\(\), got int: 3"):
        pure.compose(cast(Any, 3))
    with pytest.raises(TypeError, match=r"compose takes transforms, got the class dbcache; call it: dbcache\(...\)"):
        pure.compose(cast(Any, dbcache), taylorseer())
    with pytest.raises(TypeError, match=r"compose takes transforms, such as dbcache\(\), got type: <class 'int'>"):
        pure.compose(cast(Any, int))
    with pytest.raises(TypeError, match="Transform does not say how it edits a denoiser; override edit"):
        pure.Transform()(DENOISER)


def test_a_transform_takes_denoisers_only() -> None:
    @attrs.frozen
    class HasOne:
        denoiser: pure.Denoiser

    for given, message in (
        (HasOne(DENOISER), r"dbcache\(\) transforms a Denoiser or Experts, got HasOne; pass its .denoiser"),
        (
            3,
            r"dbcache\(\) transforms a Denoiser or Experts, got int; for a diffusers pipeline",
        ),
        (dbcache, r"dbcache\(\) transforms a Denoiser or Experts, got type"),
        (None, r"got NoneType"),
    ):
        with pytest.raises(TypeError, match=message):
            dbcache()(cast(Any, given))

    class forgets(pure.Transform):
        def edit(self, denoiser: pure.Denoiser) -> Any:
            return None

    with pytest.raises(TypeError, match=r"forgets.edit must return a Denoiser, got NoneType"):
        forgets()(DENOISER)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (dbcache, r"a transform is a record such as dbcache\(\), got the class dbcache; call it: dbcache\(...\)"),
        (3, r"a transform is a record such as dbcache\(\), got 3"),
        ([dbcache()], r"a transform is a record such as dbcache\(\), got \[dbcache"),
        (None, r"a transform is a record such as dbcache\(\), got None"),
    ],
)
def test_what_is_no_transform_is_not_applied(transform: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        transformed(DENOISER, transform)


def test_transforms_are_immutable_values() -> None:
    transform = dbcache(threshold=0.1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        cast(Any, transform).threshold = 0.2
    before = DENOISER.plan
    assert transform(DENOISER) == transform(DENOISER) and DENOISER.plan is before and before == Plan()


@pytest.mark.parametrize("follow", ["own", "conditional"])
def test_a_branch_may_follow_the_conditional_one(follow: str) -> None:
    cache = dbcache(front=1, threshold=0.25, warmup=1, follow=follow)
    situation = Situation(model=RANDOM, transform=pure.compose(guided(scale=2.0), cache), seeds=(1, 2), count=8)
    measured = [
        (one.change, two.change)
        for entry in situation.trace()
        for one, two in zip(entry.info.decisions[0::2], entry.info.decisions[1::2], strict=True)
        if one.change is not None and two.change is not None
    ]
    assert measured
    assert all(one == two for one, two in measured) is (follow == "conditional")
