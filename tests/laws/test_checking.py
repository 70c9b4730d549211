"""`check_laws`: sound things pass, every planted fault is found, and what is shown is the smallest and runs."""

import os
import re
import subprocess
import sys
from typing import Any

import attrs
import hypothesis
import hypothesis.strategies
import pytest

import pure
from pure import testing
from pure.testing import EXPERTS, LAWS, RANDOM, STREAMS, LawBroken, Situation, check_laws
from pure.testing.checking import SETTINGS
from pure.testing.situation import tensors
from pure.testing.snippet import code_of
from pure.transforms import compiled, dbcache, guided, scm, taylorseer, teacache
from tests.structure.source import ROOT
from tests.support import faulty
from tests.support.faulty import closing, damped, keeping, ruled, wrapping
from tests.support.flux import FLUX_DEV

SOUND = {"rule": ruled(), "predictor": damped(), "blocks": wrapping(faulty.halved)}


@pytest.mark.parametrize("name", SOUND)
def test_sound_transforms_pass(name):
    check_laws(SOUND[name], draws=2)


@pytest.mark.parametrize(
    ("subject", "law", "match"),
    [
        (ruled(faulty.Counted), "03-apply-is-pure", "the same arguments gave two results"),
        (ruled(faulty.Trembling), "03-apply-is-pure", "the same arguments gave two results|global generator"),
        (damped(0.5), "06-repetition-costs-nothing", "step 1"),
        (wrapping(faulty.shared), "08-batches-are-independent", "the first prediction of sample . differs in a batch"),
        (wrapping(faulty.written), "03-apply-is-pure", "modified in place"),
        (wrapping(faulty.lessened), "17-runs-are-differentiable", "from a finite difference"),
        (wrapping(faulty.detached), "17-runs-are-differentiable", "from a finite difference"),
        (closing(), "02-composition-is-an-algebra", "not in closures"),
        (keeping(), "08-batches-are-independent", "the first prediction of sample . differs in a batch"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, pure.Transform) else str(value)[:40],
)
def test_a_planted_fault_is_found(subject, law, match):
    faulty.PREPARED.clear()
    with pytest.raises(LawBroken, match=rf"(?s){law} does not hold for .*({match}).*code to paste") as caught:
        check_laws(subject, laws=[law])
    assert subject in caught.value.situation.parts


def test_what_is_shown_is_the_smallest_and_fails_when_pasted():
    with pytest.raises(LawBroken) as caught:
        check_laws(damped(0.5), laws=["06-repetition-costs-nothing"])
    broken = caught.value
    assert str(broken).endswith(f"\n\n{broken.code}\n")
    assert broken.code.splitlines() == [
        "from pure import compose",
        "from pure.testing import LAWS, RANDOM, Situation",
        "from pure.transforms import dbcache",
        "from tests.support.faulty import damped",
        "",
        "situation = Situation(",
        "    model=RANDOM,",
        "    transform=compose(damped(weight=0.5), dbcache(warmup=1)),",
        "    seeds=(0,), count=2,",
        ")",
        'LAWS["06-repetition-costs-nothing"](situation)',
    ]
    with pytest.raises(AssertionError, match="step 1"):
        exec(broken.code, {})


def test_the_transform_that_is_tried_stays_where_the_model_is_at_fault() -> None:
    model = attrs.evolve(RANDOM, denoiser=wrapping(faulty.shared)(RANDOM.first))
    with pytest.raises(LawBroken) as caught:
        check_laws(ruled(), models=[model], laws=["08-rows-are-isolated"], draws=0)
    assert caught.value.situation.parts == (ruled(),)


@pytest.mark.parametrize(
    ("transform", "written"),
    [
        (pure.identity, "identity"),
        (scm(mask="110", policy="static"), "scm(mask=(1, 1, 0), policy='static')"),
        (ruled(faulty.Odd), "ruled()"),
        (ruled(faulty.Counted), "ruled(kind=Counted)"),
        (taylorseer(order=2, streams=("image",)), "taylorseer(order=2, streams=('image',))"),
        (wrapping(faulty.halved), "wrapping(change=halved)"),
        (pure.compose(guided(scale=2.0), dbcache()), "compose(guided(scale=2.0), dbcache())"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_code_makes_the_situation_again(transform, written):
    for model in (STREAMS, testing.random_model(blocks=2, seed=5)):
        situation = Situation(model=model, transform=transform, seeds=(3, 1), count=4, seed=9)
        code = code_of(situation, "03-apply-is-pure").rpartition("\n")[0]
        assert f"transform={written}," in code
        made: dict = {}
        exec(code, made)
        assert made["situation"] == situation


def test_a_model_of_ones_own_is_named():
    code = code_of(Situation(model=FLUX_DEV, transform=dbcache(), seeds=(0,), count=2), "11-reports-are-true")
    assert "model = ...  # flux-dev, the one that was given" in code
    assert "model = ...  # random" in code_of(
        Situation(model=attrs.evolve(RANDOM), transform=dbcache(), seeds=(0,), count=2), "11-reports-are-true"
    )


A_CLASS: Any = ruled


def sound():
    return {"params": RANDOM.params, "conditioning": RANDOM.conditioning, "latents": RANDOM.latents}


def test_denoisers_are_tried_with_their_inputs():
    check_laws(RANDOM.first, draws=3, **sound())
    check_laws(EXPERTS, laws=["09-branches-and-experts-are-separate"], draws=5)
    faulty_one = wrapping(faulty.shared)(RANDOM.first)
    with pytest.raises(
        LawBroken, match=r"(?s)08-rows-are-isolated does not hold for the denoiser 'mine'.*model = \.\.\."
    ):
        check_laws(faulty_one, laws=["08-rows-are-isolated"], name="mine", **sound())


def test_transforms_are_tried_on_models_that_are_given():
    odd = teacache(threshold=0.2, polynomial=(2.0, 0.5, 0.01))
    with pytest.raises(
        ValueError, match=r"fits none of the models random, .* in a run of 8 steps; give models=\[\.\.\.\].*FLUX"
    ):
        check_laws(odd)
    check_laws(odd, models=[FLUX_DEV], laws=["03-apply-is-pure", "08-rows-are-isolated"], draws=2)
    with pytest.raises(ValueError, match=r"in a run of 8 steps; .* or steps="):
        check_laws(scm(mask="1" * 28))
    check_laws(scm(mask="1101" * 7, policy="static"), laws=["10-limits-hold"], steps=28, draws=2)
    compiling = compiled(backend="eager")
    check_laws(compiling, models=[RANDOM], laws=["03-apply-is-pure", "15-failure-leaves-nothing"], draws=0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: check_laws(ruled(), laws=["apply"]), ValueError, "there is no law 'apply'"),
        (lambda: check_laws(ruled(), laws=["03-aply-is-pure"]), ValueError, "did you mean '03-apply-is-pure'"),
        (lambda: check_laws(ruled(), laws="03-apply-is-pure"), TypeError, "laws is a list of names"),
        (lambda: check_laws(ruled(), models=[]), ValueError, "models is empty"),
        (lambda: check_laws(RANDOM.first), TypeError, "params, conditioning, latents are missing"),
        (lambda: check_laws(A_CLASS), TypeError, "laws are of transforms such as dbcache"),  # a class
        (lambda: check_laws(ruled(), params={}), TypeError, "params are inputs of a denoiser"),
        (lambda: check_laws(ruled(), draws=-1), ValueError, "draws is -1"),
    ],
)
def test_mistakes_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_draws_are_the_same_every_time_unless_a_seed_is_given():
    seen: list[Situation] = []

    def drawn(seed):
        seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(LAWS, "11-reports-are-true", seen.append)
            check_laws(ruled(), laws=["11-reports-are-true"], draws=8, seed=seed)
        return list(seen)

    first = drawn(None)
    assert first == drawn(None) and len({each.model.name for each in first}) > 1
    assert drawn(1) == drawn(1) != drawn(2)


@hypothesis.settings(SETTINGS, max_examples=10)
@hypothesis.given(data=hypothesis.strategies.data())
def test_strategies_draw_what_fits_together(data):
    model = data.draw(testing.denoisers())
    conditioning, latents = data.draw(testing.batches(model, most_samples=2))
    situation = data.draw(testing.situations(model))
    plan = data.draw(testing.plans(model, 4))
    denoiser = attrs.evolve(model.first, plan=plan)
    params = model.params if model.experts == 1 else next(iter(model.params.values()))
    state = denoiser.init(params, conditioning, latents, 4)
    step = data.draw(testing.steps(4, samples=len(latents)))
    prediction, _, info = denoiser.apply(params, state, pure.Inputs(latents, step))
    assert prediction.shape == latents.shape and all(info.computed), "the first step of every sample"
    before = situation.start()
    after = data.draw(testing.states(situation))
    assert {name: leaf.shape for name, leaf in tensors(after).items()} == {
        name: leaf.shape for name, leaf in tensors(before).items()
    }


def test_the_example_of_the_documents_finds_its_fault_without_a_plugin(tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    source, shown = re.findall(r"```(?:python|text)\n(.*?)```", text[text.index("## Laws") :], re.DOTALL)[:2]
    assert len([line for line in source.splitlines() if line.strip()]) <= 10
    (tmp_path / "test_further.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_further.py"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = [line.removeprefix("E").strip() for line in done.stdout.splitlines() if line.startswith("E ")]
    said = "\n".join(lines[next(i for i, line in enumerate(lines) if "LawBroken" in line) :])
    assert said.removeprefix("pure.testing.checking.").split() == shown.split()


def test_without_hypothesis_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from pure.testing import LAWS, RANDOM, Situation\n"
        "from pure.transforms import dbcache\n"
        "LAWS['03-apply-is-pure'](Situation(model=RANDOM, transform=dbcache(), seeds=(0,), count=2))\n"
        "try:\n    from pure.testing import check_laws\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "pure.testing.check_laws draws with hypothesis, which is not installed; pip install 'puredit[testing]'\n"
    )
