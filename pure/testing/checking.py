"""Try laws on a transform or a denoiser, and show the smallest situation in which one does not hold."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import attrs
import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

import pure
from pure import Denoiser, Experts, Transform
from pure.composition import single_transforms
from pure.testing.examples import examples
from pure.testing.laws import LAWS, Law, applies
from pure.testing.recipes import Recipe
from pure.testing.situation import Model, Situation
from pure.testing.snippet import code_of
from pure.testing.strategies import fits, misfit, situations, transforms
from pure.testing.toys import CLOSED, EXPERTS, RANDOM, STREAMS
from pure.transforms import dbcache, guided, scm, taylorseer

__all__ = ["LawBroken", "check_law", "check_laws"]

SEEDS, COUNT, TRIES = (1, 2, 3), 8, 200
ALONE = ("plain", "dbcache", "scm-static", "taylorseer-residual", "guided-interval", "everything")
SETTINGS = hypothesis.settings(
    phases=[Phase.generate],  # what fails is made smaller here, whoever found it
    suppress_health_check=tuple(HealthCheck),  # type: ignore[arg-type]
    database=None,
    deadline=None,
    derandomize=True,
)


class LawBroken(AssertionError):
    """A law does not hold; the message ends with the smallest situation found, as code to paste.

    Attributes:
        law: its name.
        situation: in which it does not hold.
        code: the program that tries the law on it.
    """

    def __init__(self, law: str, situation: Situation, error: Exception, subject: str) -> None:
        self.law, self.situation, self.code = law, situation, code_of(situation, law)
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        super().__init__(
            f"the law {law} does not hold for {subject}\n{why}\n\nThe smallest situation found, as code to paste:\n\n"
            f"{self.code}\n"
        )


def check_laws(
    subject: Transform | Model | Denoiser | Experts,
    laws: Iterable[str] | None = None,
    draws: int = 25,
    *,
    models: Sequence[Model] | None = None,
    steps: int | None = None,
    seed: int | None = None,
    **inputs: Any,
) -> None:
    """Try the laws on a transform, over small models and beside other transforms; or on a denoiser, under all of them.

    A transform that edits more than a cache's plan is held to what holds for every transform: a denoiser whose plan
    always computes is one without a plan, steps are functions, states keep their structure, can be saved and go on to
    the same bits, batches are independent, nothing that changes costs nothing, failures leave nothing behind, and
    runs are differentiable.

    Args:
        subject: a transform; a `Model`; or a denoiser, with `params`, `conditioning` and `latents` as in `Model`.
        laws: names out of `LAWS`; None: all that say anything about the subject.
        draws: situations that hypothesis draws for each law, beside those that are tried every time.
        models: to try a transform on; None: `RANDOM`, `STREAMS`, `CLOSED` and `EXPERTS`, those that it fits.
        steps: number of steps of all runs; None: 2 to 8.
        seed: of the draws; None: the same ones every time.
        **inputs: `params`, `conditioning` and `latents` of a bare denoiser, and further fields of `Model`.

    Raises:
        LawBroken: a law does not hold; the message has the smallest situation found, as code to paste.
        ValueError: there is no such law, or the transform fits none of the models in a run of so many steps.
        TypeError: this is neither a transform nor a denoiser, or a denoiser's inputs are missing.

    >>> from pure.transforms import fora
    >>> check_laws(fora(interval=2), laws=["06-repetition-costs-nothing"], draws=3)
    """
    chosen = _named(laws)
    if not isinstance(draws, int) or draws < 0:
        raise ValueError(f"draws is {draws!r}; give how many situations are drawn for each law, 0 or more")
    settings = hypothesis.settings(SETTINGS, max_examples=max(draws, 1), derandomize=seed is None)
    if isinstance(subject, Transform):
        if inputs:
            raise TypeError(f"{', '.join(inputs)} are inputs of a denoiser; a transform is tried on models=[...]")
        keep = single_transforms(subject)
        fitting = _fitting(subject, models, steps)
        directed = [each for model in fitting for each in _directed(subject, model, steps or COUNT)]
        drawn = st.sampled_from(fitting).flatmap(lambda one: situations(one, _beside(subject), COUNT, count=steps))
        shown = repr(subject)
    else:
        model, keep = _model(subject, inputs), ()
        directed, shown = list(_examples(model, steps or COUNT)), f"the denoiser {model.name!r}"
        drawn = situations(model, most_steps=COUNT, count=steps)
    for name, law in chosen.items():
        check_law(name, law, directed, drawn if draws else None, settings, keep, seed, shown)


def check_law(
    name: str,
    law: Law,
    directed: Iterable[Situation],
    drawn: st.SearchStrategy[Situation] | None,
    settings: hypothesis.settings,
    keep: Sequence[Transform] = (),
    seed: int | None = None,
    subject: str = "this situation",
) -> None:
    """Try one law on situations that were chosen and on some that are drawn.

    Args:
        name: of the law.
        law: that is tried.
        directed: situations, tried first.
        drawn: more of them; None: no more.
        settings: how many are drawn, and whether they are the same every time.
        keep: parts of the transform that the smallest situation still has.
        seed: of the draws, where they are not the same every time.
        subject: what the law is about, for the message.

    Raises:
        LawBroken: the law does not hold.
    """
    failed = next((found for each in directed if (found := _failure(law, each))), None)
    if failed is None and drawn is not None:
        failed = _search(law, drawn, settings, seed)
    if failed is not None:
        situation, error = _smallest(law, *failed, keep)
        raise LawBroken(name, situation, error, subject) from error


Counterexample = tuple[Situation, Exception]


def _failure(law: Law, situation: Situation) -> Counterexample | None:
    try:
        if applies(law, situation):
            law(situation)
    except Exception as error:
        return situation, error
    return None


def _search(
    law: Law, drawn: st.SearchStrategy[Situation], settings: hypothesis.settings, seed: int | None
) -> Counterexample | None:
    """Return a drawn situation in which a law does not hold."""
    found: list[Counterexample] = []

    # A function of its own for every search: the settings of one that runs a thousand times grow into a chain that
    # hypothesis follows to the recursion limit.
    @settings
    @hypothesis.given(situation=drawn)
    def holds(situation: Situation) -> None:
        if not found and (failed := _failure(law, situation)):
            found.append(failed)

    try:
        (holds if seed is None else hypothesis.seed(seed)(holds))()
    except Unsatisfiable as error:
        raise ValueError(
            "the transform fits no run of 2 to 8 steps that was drawn; say how many steps it is for: steps=..."
        ) from error
    return found[0] if found else None


def _smallest(law: Law, situation: Situation, error: Exception, keep: Sequence[Transform]) -> Counterexample:
    """Make a situation smaller as long as the law fails in the same way."""
    smaller, tries = True, 0
    while smaller:
        smaller = False
        for other in _smaller(situation, keep):
            tries += 1
            if tries > TRIES or not fits(other.model, other.transform, other.count):
                continue
            failed = _failure(law, other)
            if failed and type(failed[1]) is type(error):
                (situation, error), smaller = failed, True
                break
    return situation, error


def _smaller(situation: Situation, keep: Sequence[Transform]) -> Iterator[Situation]:
    """Yield simpler ones: without a part, of fewer steps and samples, with a setting left at its default."""
    parts = situation.parts
    for place, part in enumerate(parts):
        if part not in keep:
            yield attrs.evolve(situation, transform=pure.compose(*parts[:place], *parts[place + 1 :]))
    counts = range(situation.model.experts, situation.count)
    yield from (attrs.evolve(situation, count=count) for count in counts)
    size = len(situation.seeds)
    yield from (attrs.evolve(situation, seeds=seeds) for seeds in map(tuple, map(range, range(1, size))))
    if situation.seeds != tuple(range(size)):
        yield attrs.evolve(situation, seeds=tuple(range(size)))
    if situation.seed:
        yield attrs.evolve(situation, seed=0)
    for place, part in enumerate(parts):
        for plainer in _plainer(part) if part not in keep else ():
            yield attrs.evolve(situation, transform=pure.compose(*parts[:place], plainer, *parts[place + 1 :]))


def _plainer(part: Transform) -> Iterator[Transform]:
    for field in attrs.fields(type(part)):
        default = field.default
        if field.init and default is not attrs.NOTHING and not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            if getattr(part, field.name) != default:
                try:
                    yield attrs.evolve(part, **{field.alias: default})
                except (TypeError, ValueError):
                    continue


def _named(laws: Iterable[str] | None) -> dict[str, Law]:
    if isinstance(laws, str):
        raise TypeError(f"laws is a list of names, got {laws!r}; give laws=[{laws!r}]")
    names = list(LAWS if laws is None else laws)
    if unknown := next((name for name in names if name not in LAWS), None):
        near = get_close_matches(str(unknown), LAWS, n=1)
        raise ValueError(f"there is no law {unknown!r}{f', did you mean {near[0]!r}?' if near else ''}: {list(LAWS)}")
    return {name: LAWS[name] for name in names}


def _model(subject: object, inputs: dict[str, Any]) -> Model:
    """Return a denoiser with its inputs."""
    if isinstance(subject, Model):
        return attrs.evolve(subject, **inputs)
    if not isinstance(subject, Denoiser | Experts):
        raise TypeError(f"laws are of transforms such as dbcache(), and of denoisers; got {subject!r:.200}")
    missing = [name for name in ("params", "conditioning", "latents") if name not in inputs]
    if missing:
        raise TypeError(
            f"a denoiser is tried with its inputs, and {', '.join(missing)} are missing: give params, and functions of "
            "a tuple of seeds that return the conditioning and the latents of one sample a seed; see pure.testing.Model"
        )
    return Model(**{"name": "denoiser", **inputs, "denoiser": subject})


def _fitting(subject: Transform, models: Sequence[Model] | None, steps: int | None) -> list[Model]:
    tried = (RANDOM, STREAMS, CLOSED, EXPERTS) if models is None else tuple(models)
    if not tried:
        raise ValueError("models is empty; give at least one pure.testing.Model")
    misfits = {model: misfit(model, subject, steps or COUNT) for model in tried}
    found = [model for model, error in misfits.items() if error is None]
    if not found:
        error = next(iter(misfits.values()))
        raise ValueError(
            f"{subject!r} fits none of the models {', '.join(map(str, tried))} in a run of {steps or COUNT} steps; "
            f"give models=[...] that it fits, or steps=...: {error}"
        ) from error
    return found


def _beside(subject: Transform) -> Recipe:
    """Return the recipe of a transform beside as much of another recipe as fits with it."""

    def recipe(model: Model, count: int) -> st.SearchStrategy[Transform]:
        length = count * model.experts

        def joined(other: Transform) -> Transform:
            hypothesis.assume(fits(model, subject, length))
            return _joined(model, subject, other, length)

        return (st.just(pure.identity) | transforms(model, count)).map(joined)

    return recipe


def _joined(model: Model, subject: Transform, other: Transform, count: int) -> Transform:
    for part in single_transforms(other):
        both = pure.compose(subject, part)
        subject = both if fits(model, both, count) else subject
    return subject


def _directed(subject: Transform, model: Model, count: int) -> Iterator[Situation]:
    """Yield what is tried every time: beside a cache on every model, beside masks and guidance on the first."""
    mask = tuple(int(entry) for entry in itertools.islice(itertools.cycle("11010010"), count // model.experts))
    cache = dbcache(front=1, back=1, threshold=0.5, warmup=1)
    others = [cache, pure.identity, pure.compose(guided(scale=2.5, stop=0.8), cache)]
    others.append(pure.compose(scm(mask=mask, policy="static"), taylorseer(order=1)))
    for other in others if model is RANDOM else others[:1]:
        whole = _joined(model, subject, other, count)
        yield Situation(model=model, transform=whole, seeds=SEEDS, count=count, seed=7)


def _examples(model: Model, count: int) -> Iterator[Situation]:
    for name in ALONE:
        for transform in examples(name, count // model.experts):
            if fits(model, transform, count):
                yield Situation(model=model, transform=transform, seeds=SEEDS, count=count, seed=7)
