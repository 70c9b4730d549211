"""TeaCache: its decisions from the definition, with the modulated input that diffusers computes."""

from typing import Any

import attrs
import pytest
import torch
from diffusers import FluxTransformer2DModel

import pure
from pure.models.hunyuan_video.denoiser import hunyuan_video
from pure.models.wan.denoiser import wan
from pure.testing.situation import Situation
from pure.testing.toys import RANDOM
from pure.transforms import compiled, dbcache, scm, taylorseer, teacache
from tests.support import hunyuan_video as hunyuan_video_support
from tests.support import wan as wan_support
from tests.support.flux import FLUX, FLUX_DEV

SEEDS, COUNT = (1, 2, 3), 10
POLYNOMIAL = (2.0, 0.5, 0.01)


def inputs(entries: list, seeds: tuple[int, ...]) -> list[torch.Tensor]:
    """Return what the first block's attention reads at every step, (B, N, D), from diffusers."""
    model = FluxTransformer2DModel(**FLUX, guidance_embeds=True).eval()
    model.load_state_dict(dict(FLUX_DEV.params))
    found: list[torch.Tensor] = []
    first: Any = model.transformer_blocks[0]
    first.norm1.register_forward_hook(lambda _module, _inputs, out: found.append(out[0]))
    given = FLUX_DEV.conditioning(seeds)
    for entry in entries:
        with torch.no_grad():
            model(
                hidden_states=entry.latents,
                encoder_hidden_states=given.text,
                pooled_projections=given.pooled,
                guidance=given.guidance,
                timestep=torch.full((len(seeds),), float(entry.step.sigma)),
                img_ids=torch.zeros(entry.latents.shape[1], 3),
                txt_ids=torch.zeros(given.text.shape[1], 3),
            )
    return found


def test_decisions_follow_the_definition_for_every_sample() -> None:
    threshold = 0.2
    case = Situation(
        model=FLUX_DEV, transform=teacache(threshold=threshold, polynomial=POLYNOMIAL), seeds=SEEDS, count=COUNT
    )
    entries = case.trace()
    seen, sums, skips = inputs(entries, SEEDS), [0.0] * len(SEEDS), 0
    for index, entry in enumerate(entries):
        for row, decision in enumerate(entry.info.decisions):
            if index in (0, COUNT - 1):
                assert decision.computed and decision.change is None
                continue
            old, new = seen[index - 1][row], seen[index][row]
            moved = float((new - old).abs().sum() / old.abs().sum())
            change = 2.0 * moved**2 + 0.5 * moved + 0.01
            assert decision.change == pytest.approx(change, rel=1e-4)
            sums[row] += change
            assert abs(sums[row] - threshold) > 1e-4, "choose a threshold that decides"
            assert decision.computed == (sums[row] >= threshold) and decision.reason == "teacache"
            skips += not decision.computed
            sums[row] = 0.0 if decision.computed else sums[row]
            assert decision.blocks == (len(case.model.first.blocks) if decision.computed else 0)
    assert 0 < skips < len(SEEDS) * (COUNT - 2)


def test_a_batch_decides_as_its_samples_do() -> None:
    case = Situation(
        model=FLUX_DEV,
        transform=pure.compose(teacache(threshold=0.2, polynomial=POLYNOMIAL), taylorseer(order=1)),
        seeds=SEEDS,
        count=COUNT,
    )
    batch = case.trace()
    for row, seed in enumerate(SEEDS):
        alone = case.trace(seeds=(seed,))
        assert [e.info.computed[0] for e in alone] == [e.info.computed[row] for e in batch]
        torch.testing.assert_close(alone[-1].prediction[0], batch[-1].prediction[row], rtol=1e-4, atol=1e-5)


def test_a_sum_at_the_threshold_computes() -> None:
    (rule,) = teacache(threshold=0.5)(FLUX_DEV.first).plan.rules
    memory = pure.Memory(skipped=1, streak=1, computed=1, first=0, accumulated=0.25, times=(0,))
    asked = {change: rule.judge(change, pure.Where(2, COUNT), memory) for change in (0.2, 0.25, 0.3)}
    assert asked == {0.2: pure.Answer.SKIP, 0.25: pure.Answer.COMPUTE, 0.3: pure.Answer.COMPUTE}


def test_a_threshold_of_zero_is_no_cache() -> None:
    never = Situation(model=FLUX_DEV, transform=teacache(threshold=0.0), seeds=SEEDS, count=4)
    for ours, plain in zip(never.trace(), never.trace(never.plain), strict=True):
        assert all(ours.info.computed) and torch.equal(ours.prediction, plain.prediction)
    (rule,), few = never.single.plan.rules, teacache(threshold=0.1)(FLUX_DEV.first).plan.rules
    assert not rule.may_skip and few[0].may_skip
    (note,) = never.single.notes(never.schedule())
    assert note.text.endswith(" steps; a threshold of 0 never skips: raise it")


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"denoisers of FLUX\.1, HunyuanVideo and Wan name; use dbcache\(front=1"):
        teacache()(RANDOM.first)
    with pytest.raises(ValueError, match=r"teacache\(\) and dbcache\(\) both set what is measured of a step"):
        pure.compose(teacache(), dbcache(front=1))(FLUX_DEV.first)
    for given in (
        {"threshold": -0.1},
        {"threshold": "0.1"},
        {"polynomial": ()},
        {"polynomial": (float("nan"),)},
        {"polynomial": 1.0},
        {"polynomial": "10"},
        {"polynomial": ["x"]},
        {"warmup": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(given))):
            teacache(**given)  # type: ignore[arg-type]
    masked = pure.compose(teacache(threshold=100.0), scm(mask="1010100001"))
    entries = Situation(model=FLUX_DEV, transform=masked, seeds=(1,), count=COUNT).trace()
    assert "".join(str(int(e.info.computed[0])) for e in entries) == "1010100001"


def test_a_list_of_coefficients_is_a_tuple_of_them() -> None:
    listed = teacache(threshold=0.2, polynomial=[2.0, 0.5, 0.01])  # type: ignore[arg-type]
    assert listed == teacache(threshold=0.2, polynomial=POLYNOMIAL) and hash(listed)
    assert listed(FLUX_DEV.first) == teacache(threshold=0.2, polynomial=POLYNOMIAL)(FLUX_DEV.first)


def _plan(transform: teacache, denoiser: pure.Denoiser) -> tuple:
    plan = transform(denoiser).plan
    assert plan.probe is not None
    return plan.probe.polynomial, plan.rules[0].threshold, plan.rules[0].warmup  # type: ignore[attr-defined]


def test_what_is_left_out_is_what_was_published() -> None:
    """Polynomials of TeaCache's authors; thresholds and first steps of SGLang, for FLUX.1 of the authors."""
    flux = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)
    hunyuan = (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896)
    small = (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664)
    large = (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525)
    assert _plan(teacache(), FLUX_DEV.first) == (flux, 0.4, 1)
    assert _plan(teacache(), hunyuan_video({})) == (hunyuan, 0.15, 5)
    assert _plan(teacache(), wan({"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960})) == (small, 0.08, 5)
    assert _plan(teacache(), wan({})) == (large, 0.2, 5)
    assert _plan(teacache(threshold=0.3, warmup=2), wan({})) == (large, 0.3, 2)
    with pytest.raises(ValueError, match="no polynomial and threshold were published for this model; give teacache"):
        teacache(threshold=0.1)(wan({"num_layers": 2}))
    assert _plan(teacache(threshold=0.1, polynomial=(1, 0)), wan({"num_layers": 2})) == ((1, 0), 0.1, 1)


@pytest.mark.parametrize("kind", hunyuan_video_support.KINDS)
def test_hunyuan_videos_first_input_is_that_of_diffusers(kind: str) -> None:
    model = hunyuan_video_support.transformer(kind)
    conditioning, latents, timestep = hunyuan_video_support.inputs(model, batch=2)
    found: list[torch.Tensor] = []
    first: Any = model.transformer_blocks[0]
    first.norm1.register_forward_hook(lambda _module, _inputs, out: found.append(out[0]))
    with torch.no_grad():
        model(**hunyuan_video_support.call(model, conditioning, latents, timestep))
    denoiser, params = hunyuan_video(model.config), dict(model.state_dict())
    hidden, context = denoiser.embed(params, denoiser.prepare(params, conditioning), latents, timestep)
    assert denoiser.modulated is not None
    torch.testing.assert_close(denoiser.modulated(params, hidden, context), found[0])


@pytest.mark.parametrize("per_token", [False, True])
def test_wans_input_is_what_its_blocks_are_modulated_by(per_token: bool) -> None:
    model, found = wan_support.transformer(), []
    given = wan_support.call(model, 2, per_token=per_token, first=per_token)
    model.condition_embedder.time_proj.register_forward_hook(lambda _module, _inputs, out: found.append(out))
    with torch.no_grad():
        model(**given.reference)
    denoiser, params = wan(model.config, expand_timesteps=per_token), dict(model.state_dict())
    _, context = denoiser.embed(params, denoiser.prepare(params, given.conditioning), given.latents, given.timestep)
    assert denoiser.modulated is not None
    seen = found[0].view(2, -1, 6, found[0].shape[-1] // 6)
    kinds = seen[:, [0, -1]] if per_token else seen[:, :1]
    torch.testing.assert_close(denoiser.modulated(params, None, context), kinds.flatten(1, 2))


def test_it_compiles_and_its_state_is_known_by_another_process() -> None:
    cached = teacache(threshold=0.2, polynomial=POLYNOMIAL)
    case = Situation(model=FLUX_DEV, transform=cached, seeds=SEEDS, count=4)
    compiling = attrs.evolve(case, transform=pure.compose(cached, compiled(backend="eager")))
    for ours, plain in zip(compiling.trace(), case.trace(), strict=True):
        assert ours.info.computed == plain.info.computed
        torch.testing.assert_close(ours.prediction, plain.prediction, rtol=1e-4, atol=1e-5)
    assert " at 0x" not in case.single.pieces.keeps
