"""A diffusers pipeline in a `with`: the same bits without a cache, true skips with one, every branch by itself."""

import diffusers
import pytest
import torch

import pure
from pure.models import CheckpointError
from pure.models.flux.denoiser import flux
from pure.transforms import compiled, dbcache, guided, scm, taylorseer
from tests.support import tiny
from tests.support.pipelines import KINDS, make, picture

# Of diffusers' own ControlNet of FLUX, and of its older schedulers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
QUICK = ("flux", "flux_img2img", "flux_controlnet", "klein", "qwen", "wan22", "z_image", "sd3")
TRANSFORMERS = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KINDS if name != "unet"
]
ALTERNATE = dbcache(front=1, threshold=1.0, warmup=2, max_continuous=1)
NEVER = dbcache(front=1, threshold=1e-9, warmup=0)
SEVERAL = {"klein": 2, "qwen": 2, "qwen_edit": 2, "wan21": 2, "wan22": 2, "wan22_5b": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-Image-Edit scales its input to a megapixel; here to 32 x 32."""
    module = diffusers.pipelines.qwenimage.pipeline_qwenimage_edit
    scale = module.calculate_dimensions
    monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio: scale(32 * 32, ratio))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_without_a_skip_images_are_equal_bit_for_bit(name):
    pipe, call = make(name)
    expected = picture(pipe, call)
    with pure.accelerate(pipe, pure.identity) as report:
        assert torch.equal(picture(pipe, call), expected)
    assert report.last.skipped == 0 < report.last.computed and not report.last.plain
    with (
        pytest.warns(UserWarning, match="no step of this call was skipped: .*; the least change measured was"),
        pure.accelerate(pipe, NEVER) as measured,
    ):
        assert torch.equal(picture(pipe, call), expected)
    assert all(decision.change is not None for decision in measured.last.decisions if decision.index)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_skips_are_real_and_reported(name):
    pipe, call = make(name)
    parts = {part: getattr(pipe, part) for part in ("transformer", "transformer_2") if getattr(pipe, part, None)}
    last = {part: _blocks(module)[-1] for part, module in parts.items()}
    ran = []
    handles = [block.register_forward_hook(lambda *args, part=part: ran.append(part)) for part, block in last.items()]
    plain = picture(pipe, call)
    without = len(ran)
    ran.clear()
    with pure.accelerate(pipe, ALTERNATE) as report:
        found = picture(pipe, call)
    for handle in handles:
        handle.remove()
    branches = report.last.branches
    assert len(branches) == SEVERAL.get(name, 1) * len(parts)
    adapting = 2 * len({(key.split("/")[0]) for key in branches})  # the run that is watched, and the comparison with it
    samples = 2 if name in ("z_image", "sd3") else 1
    assert len(ran) - adapting == report.last.computed / samples < without
    assert report.last.computed + report.last.skipped == without * samples
    for key, infos in branches.items():
        assert len(infos) == report.last.counts[key]
        for row in range(len(infos[0].decisions)):
            computed = [info.computed[row] for info in infos]
            assert computed == [index < 2 or index % 2 == 1 for index in range(len(infos))]
    assert not torch.equal(found, plain) and torch.isfinite(found).all()


def _blocks(module: torch.nn.Module) -> torch.nn.ModuleList:
    names = ("single_transformer_blocks", "transformer_blocks", "blocks", "layers")
    return next(found for name in names if (found := getattr(module, name, None)) is not None)


def test_steps_and_counts_of_two_experts():
    pipe, call = make("wan22")
    with pure.accelerate(pipe, {"transformer": scm(mask="110", policy="static"), "transformer_2": ALTERNATE}) as report:
        picture(pipe, call)
    assert report.last.counts == {
        **{"transformer/cond": 3, "transformer/uncond": 3},
        **{"transformer_2/cond": 5, "transformer_2/uncond": 5},
    }
    assert [info.computed[0] for info in report.last.branches["transformer/cond"]] == [True, True, False]
    assert {d.reason for info in report.last.branches["transformer_2/cond"] for d in info.decisions} == {
        *("warm-up", "threshold", "continuous limit")
    }


def test_one_component_can_be_left_as_it_is():
    pipe, call = make("wan22")
    second = pipe.transformer_2
    with pure.accelerate(pipe, {"transformer": scm(mask="110", policy="static")}) as report:
        assert pipe.transformer_2 is second
        picture(pipe, call)
    assert set(report.last.branches) == {"transformer/cond", "transformer/uncond"}


def test_image_to_image_counts_the_steps_it_takes():
    pipe, call = make("flux_img2img")
    with pure.accelerate(pipe, scm(mask="1101001", policy="static")) as report:  # 0.7 of 9 steps are 7
        picture(pipe, call)
    assert str(report.last) == "transformer/0: 1101001\n4 computed, 3 skipped"


def test_decisions_and_pictures_are_those_of_our_own_flux():
    """The same pipeline with our FLUX in place of its transformer ends at the same picture."""
    pipe, call = make("flux")
    transform = pure.compose(dbcache(front=1, threshold=0.9, warmup=2), taylorseer(order=1))
    with pure.accelerate(pipe, transform) as report:
        found = picture(pipe, call)

    denoiser, params = transform(flux(pipe.transformer.config)), tiny.params(pipe.transformer)
    state, infos = None, []

    class Native:
        config, dtype = pipe.transformer.config, pipe.transformer.dtype
        cache_context = staticmethod(pipe.transformer.cache_context)

        def __call__(self, **kwargs):
            nonlocal state
            latents = kwargs["hidden_states"]
            if state is None:
                state = denoiser.init(params, tiny.conditioning(kwargs), latents, 6)
            step = pure.Step(index=len(infos), count=6, timestep=kwargs["timestep"])
            prediction, state, info = denoiser.apply(params, state, pure.Inputs(latents, step))
            infos.append(info)
            return (prediction,)

    vars(pipe)["transformer"] = Native()
    assert torch.equal(picture(pipe, call), found)
    assert [info.computed for info in infos] == [info.computed for info in report.last.branches["transformer/cond"]]
    assert report.last.skipped > 0


def test_guidance_that_ends_early_keeps_the_samples_that_go_on():
    pipe, call = make("z_image")
    call = {**call, "cfg_normalization": False, "cfg_truncation": 0.5}
    expected = picture(pipe, call)
    with pure.accelerate(pipe, pure.identity):
        assert torch.equal(picture(pipe, call), expected)
    with pure.accelerate(pipe, ALTERNATE) as report:
        picture(pipe, call)
    (infos,) = report.last.branches.values()
    rows = [len(info.decisions) for info in infos]
    assert rows[0] == 2 and rows[-1] == 1 and sorted(rows, reverse=True) == rows
    assert [info.computed[0] for info in infos] == [True, True, False, True, False, True]


def test_several_images_decide_alone():
    pipe, call = make("flux")
    transform = dbcache(front=1, threshold=0.4, warmup=1)
    call = {**call, "prompt": ["a cat", "a red apple on blue"]}
    with pure.accelerate(pipe, transform) as report:
        together = picture(pipe, call, generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)])
        for row, seed in enumerate((3, 4)):
            alone = picture(pipe, {**call, "prompt": call["prompt"][row]}, seed)
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
            decisions = [info.decisions[row].computed for info in report.calls[0].branches["transformer/cond"]]
            assert decisions == [info.computed[0] for info in report.last.branches["transformer/cond"]]


def test_a_unet_follows_a_static_mask():
    pipe, call = make("unet")
    expected = picture(pipe, call)
    with pure.accelerate(pipe, pure.identity):
        assert torch.equal(picture(pipe, call), expected)
    calls = []
    handle = pipe.unet.register_forward_hook(lambda *args: calls.append(1))
    with pure.accelerate(pipe, pure.compose(scm(mask="110101", policy="static"), taylorseer(order=1))) as report:
        picture(pipe, call)
    handle.remove()
    assert len(calls) == 4 and [info.computed for info in report.last.branches["unet/0"]][2] == (False, False)
    with (
        pytest.raises(ValueError, match=r"no front block whose change .*; choose the steps with scm"),
        pure.accelerate(pipe, dbcache(threshold=0.2)),
    ):
        picture(pipe, call)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "HeunDiscreteScheduler", "EulerDiscreteScheduler"])
def test_schedulers_that_come_twice_to_a_timestep_number_every_call(scheduler):
    pipe, call = make("unet")
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(6)
    count = len(pipe.scheduler.timesteps)
    expected = picture(pipe, call)
    with pure.accelerate(pipe, pure.identity) as report:
        assert torch.equal(picture(pipe, call), expected)
    (infos,) = report.last.branches.values()
    assert [info.decisions[0].index for info in infos] == list(range(count)) and not report.last.plain


def test_compiled_pieces_are_an_option():
    pipe, call = make("flux")
    with pure.accelerate(pipe, ALTERNATE):
        eager = picture(pipe, call)
    with pure.accelerate(pipe, pure.compose(ALTERNATE, compiled(backend="eager"))) as report:
        assert torch.equal(picture(pipe, call), eager)
    assert report.last.skipped == 2


def test_prompts_of_any_length_run_through_what_was_adapted_once():
    pipe, call = make("qwen")
    call = {**call, "negative_prompt": "a much longer negative prompt"}
    expected = picture(pipe, call)
    with pure.accelerate(pipe, pure.identity) as report:
        assert torch.equal(picture(pipe, call), expected)
        other = picture(pipe, {**call, "prompt": "an apple, red"})
    assert torch.equal(picture(pipe, {**call, "prompt": "an apple, red"}), other)
    assert [call.skipped for call in report.calls] == [0, 0]


@pytest.mark.parametrize(
    ("name", "transform", "message"),
    [
        ("flux", {"transformer_2": ALTERNATE}, "FluxPipeline has no transformer_2"),
        ("flux", {}, "FluxPipeline has transformer, and no transform was given for any of them"),
    ],
)
def test_components_that_are_not_there_are_refused(name, transform, message):
    pipe, _ = make(name)
    with pytest.raises(CheckpointError, match=message), pure.accelerate(pipe, transform):
        pass


def test_guiding_twice_is_refused():
    pipe, call = make("flux")
    with (
        pytest.raises(ValueError, match=r"the pipeline guides by itself; leave guided\(...\) out"),
        pure.accelerate(pipe, guided(scale=2.0)),
    ):
        picture(pipe, call)


def test_a_module_compiled_as_a_whole_is_refused():
    pipe, _ = make("flux")
    vars(pipe)["transformer"] = torch.compile(pipe.transformer)
    with pytest.raises(CheckpointError, match="compiled as a whole"), pure.accelerate(pipe, ALTERNATE):
        pass


def test_other_caches_on_the_model_are_refused():
    pipe, _ = make("flux")
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(CheckpointError, match=r"forward of .* has been replaced .*disable_cache\(\)"):
        with pure.accelerate(pipe, ALTERNATE):
            pass
    pipe.transformer.disable_cache()
    with pure.accelerate(pipe, ALTERNATE):
        pass
