"""What `accelerate` says of arguments, pipelines and outputs that it cannot use."""

import gc
from typing import Any

import diffusers
import pytest
import torch

import pure
from pure.models import CheckpointError
from pure.models.accelerate.report import finite_rows
from pure.transforms import compiled, dbcache, guided, scm
from tests.support.pipelines import make, picture

NEVER = dbcache(threshold=0.5, warmup=1)
CACHE = dbcache(front=1, threshold=1.0, warmup=2, max_continuous=1)


class Other:
    """Something that can be called and is no pipeline."""

    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ((), r"accelerate needs a transform, such as dbcache\(threshold=0.12\); write `with"),
        ((None,), "accelerate needs a transform"),
        ((dbcache,), r"dbcache makes a transform and is none itself; call it: dbcache\(...\)"),
        ((scm,), r"scm makes a transform .* call it: scm\(...\)"),
        (([dbcache()],), r"takes one transform, got a list; make one of several: compose\(...\)"),
        ((0.12,), r"takes a transform such as dbcache\(\), got 0.12 \(float\)"),
        (("dbcache",), r"takes a transform such as dbcache\(\), got 'dbcache' \(str\)"),
        (({"transformer": dbcache},), "dbcache makes a transform and is none itself"),
        (({"transformer": None},), "needs a transform for the transformer"),
    ],
)
def test_what_is_no_transform(transform, message):
    pipe, _ = make("flux")
    with pytest.raises(TypeError, match=message):
        pure.accelerate(pipe, *transform)
    assert type(pipe) is diffusers.FluxPipeline


@pytest.mark.parametrize(
    ("pipe", "message"),
    [
        (3, r"accelerate takes a diffusers pipeline with a scheduler, got 3 \(int\); write `with"),
        (None, r"got None \(NoneType\)"),
        ("black-forest-labs/FLUX.1-dev", r"from_pretrained\(...\)"),
        (Other(), "takes a diffusers pipeline with a scheduler"),
        (diffusers.FluxPipeline, r"FluxPipeline is a class; .* FluxPipeline.from_pretrained\(...\)"),
        (torch.nn.Linear(2, 2), r"Linear is a model; accelerate takes the pipeline that calls it"),
        (dbcache(), "takes the pipeline first and the transform second"),
    ],
    ids=["number", "none", "path", "callable", "class", "model", "swapped"],
)
def test_what_is_no_pipeline(pipe, message):
    with pytest.raises(TypeError, match=message):
        pure.accelerate(pipe, dbcache())


def without(name: str, part: str) -> Any:
    pipe, _ = make(name)
    vars(pipe)[part] = None
    return pipe


@pytest.mark.parametrize(
    ("name", "part", "transform", "message"),
    [
        ("flux", "transformer", CACHE, "the transformer of FluxPipeline is None: load the pipeline with it"),
        ("flux", "transformer", {"transformer": CACHE}, "the transformer of FluxPipeline is None"),
        ("wan21", "transformer_2", {"transformer_2": CACHE}, "the transformer_2 of WanPipeline is None"),
        ("flux", "vae", {"transformr": CACHE}, "FluxPipeline has no transformr; it has transformer"),
        ("flux", "vae", {"vae": CACHE, "transformer_2": CACHE}, "the vae of FluxPipeline is None"),
        ("flux", "image_encoder", {}, "FluxPipeline has transformer, and no transform was given"),
    ],
)
def test_components_that_are_not_there(name, part, transform, message):
    with pytest.raises(CheckpointError, match=message):
        pure.accelerate(without(name, part), transform)


def test_a_pipeline_without_a_transformer_or_unet():
    pipe, _ = make("flux")
    vars(pipe).pop("transformer")
    with pytest.raises(CheckpointError, match=r"FluxPipeline has none of transformer, .*unet; nothing can be acc"):
        pure.accelerate(pipe, CACHE)


def whole(pipe: Any) -> None:
    vars(pipe)["transformer"] = torch.compile(pipe.transformer, backend="eager")


def forward(pipe: Any) -> None:
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend="eager")


def one(pipe: Any) -> None:
    blocks = pipe.transformer.transformer_blocks
    blocks[0] = torch.compile(blocks[0], backend="eager")


ADVICE = r"accelerate\(pipe, compose\(dbcache\(\), compiled\(\)\)\)"


@pytest.mark.parametrize(
    ("compile_", "message"),
    [
        (whole, "compiled as a whole"),
        (forward, "FluxTransformer2DModel is compiled as a whole"),
        (lambda pipe: pipe.transformer.compile(backend="eager"), "FluxTransformer2DModel is compiled as a whole"),
        (lambda pipe: pipe.transformer.compile_repeated_blocks(backend="eager"), r"transformer_blocks.0 is compiled"),
        (lambda pipe: pipe.transformer.single_transformer_blocks[1].compile(), "single_transformer_blocks.1 is compil"),
        (one, "transformer_blocks.0 is compiled"),
    ],
    ids=["torch.compile", "forward", "compile", "repeated blocks", "one block", "one block wrapped"],
)
def test_what_is_compiled_already(compile_, message):
    pipe, _ = make("flux")
    compile_(pipe)
    with pytest.raises(CheckpointError, match=f"{message}.*{ADVICE}"):
        pure.accelerate(pipe, CACHE)


def test_the_advice_on_what_is_compiled_works():
    pipe, call = make("flux")
    with pure.accelerate(pipe, pure.compose(dbcache(threshold=1.0), compiled(backend="eager"))):
        assert torch.isfinite(picture(pipe, call)).all()


def test_a_unet_may_be_compiled():
    pipe, call = make("unet")
    mask = scm(mask="110101", policy="static")
    with pure.accelerate(pipe, mask):
        expected = picture(pipe, call)
    vars(pipe)["unet"] = torch.compile(pipe.unet, backend="eager")
    with pure.accelerate(pipe, mask) as report:
        assert torch.equal(picture(pipe, call), expected)
    assert report.last.skipped == 4


@pytest.mark.parametrize("name", ["flux", "unet"])
def test_guiding_twice_is_refused_before_the_run(name):
    pipe, _ = make(name)
    with pytest.raises(ValueError, match=r"the pipeline guides by itself; leave guided\(...\) out"):
        pure.accelerate(pipe, pure.compose(scm(mask="110", policy="static"), guided(scale=2.0)))


def test_a_threshold_on_a_unet_is_refused_before_the_run():
    pipe, _ = make("unet")
    with pytest.raises(ValueError, match=r"no front block whose change .*; choose the steps with scm"):
        pure.accelerate(pipe, dbcache(threshold=0.2))


def test_more_blocks_than_there_are_is_an_error_of_the_first_call():
    pipe, call = make("flux")
    with pure.accelerate(pipe, dbcache(front=99, threshold=0.2)), pytest.raises(ValueError, match="99"):
        picture(pipe, call)


FORGOTTEN = r"accelerate\(...\) was never entered, so that nothing was accelerated; write `with"


def test_a_forgotten_with_is_told():
    pipe, call = make("flux")
    with pytest.warns(UserWarning, match=FORGOTTEN) as caught:
        pure.accelerate(pipe, CACHE)
    assert caught[0].filename == __file__
    forgotten = pure.accelerate(pipe, CACHE)
    with pytest.raises(AttributeError, match=r"no 'last'; the report is what its `with` gives"):
        forgotten.last  # noqa: B018
    with pytest.raises(TypeError, match=r"is no pipeline and takes no prompt; write `with"):
        forgotten("a red apple")
    picture(pipe, call)
    with pytest.warns(UserWarning, match=FORGOTTEN):
        del forgotten
        gc.collect()


def test_what_is_entered_is_not_told(recwarn):
    pipe, call = make("flux")
    made = pure.accelerate(pipe, CACHE)
    for _ in range(2):  # it can be entered again
        with made as report:
            picture(pipe, call)
        assert report.last.skipped == 2 and len(report.calls) == 1
    del made
    gc.collect()
    assert not [each for each in recwarn if "entered" in str(each.message)]


def test_a_decorated_function_runs_inside():
    pipe, call = make("flux")

    @pure.accelerate(pipe, CACHE)
    def draw() -> torch.Tensor:
        return picture(pipe, call)

    with pure.accelerate(pipe, CACHE):
        expected = picture(pipe, call)
    assert torch.equal(draw(), expected) and type(pipe) is diffusers.FluxPipeline
    assert not torch.equal(picture(pipe, call), expected)


def spoiled(value: float) -> tuple[Any, dict]:
    pipe, call = make("flux")
    with torch.no_grad():
        pipe.transformer.proj_out.bias.fill_(value)
    return pipe, {**call, "output_type": "latent"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "transform", [pure.identity, dbcache(threshold=1.0, warmup=1), NEVER], ids=["plain", "cache", "no skip"]
)
def test_numbers_that_are_not_finite_are_told_as_such(value, transform):
    pipe, call = spoiled(value)
    expected = picture(pipe, call)
    said = r"prediction of transformer/cond is not finite \(NaN or infinity\) from step 0 on, in sample 0; .*bfloat16"
    with pytest.warns(UserWarning, match=said) as caught, pure.accelerate(pipe, transform) as report:
        found = picture(pipe, call)
    assert torch.equal(found.isnan(), expected.isnan()) and len(caught) == 1
    assert "no step of this call was skipped" not in str(report) and "training" not in str(caught[0].message)


def test_a_plan_that_leaves_no_block_to_skip_is_told():
    pipe, call = make("flux")
    size = pipe.transformer.config.num_layers + pipe.transformer.config.num_single_layers
    whole = dbcache(front=size, threshold=0.5, warmup=1)
    with (
        pytest.warns(UserWarning, match=f"no block is left to skip: the first {size}"),
        pure.accelerate(pipe, whole) as report,
    ):
        picture(pipe, call)
    assert "warning: no block is left to skip" in str(report)


def test_a_sample_is_finite_where_all_that_is_predicted_of_it_is():
    bad = torch.tensor([[0.0, float("nan")], [0.0, 1.0]])
    assert finite_rows(bad).tolist() == [False, True]
    assert finite_rows((torch.zeros(2, 2, 3), bad)).tolist() == finite_rows((bad, bad)).tolist() == [False, True]


def test_the_sample_and_step_where_it_begins_are_named():
    pipe, call = make("flux")
    call = {**call, "prompt": ["a cat", "a dog"], "output_type": "latent"}

    def spoil(pipe, index, timestep, tensors):
        if index == 3:
            tensors["latents"][1] = float("nan")
        return tensors

    with (
        pytest.warns(UserWarning, match="not finite .* from step 4 on, in sample 1;"),
        pure.accelerate(pipe, CACHE) as report,
    ):
        found = picture(pipe, call, callback_on_step_end=spoil)
    assert found[0].isfinite().all()
    assert [note.kind for note in report.last.notes] == ["warning"]
