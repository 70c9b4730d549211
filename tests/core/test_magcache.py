"""MagCache: the decisions of diffusers, and what is refused."""

import math
from typing import Any

import hypothesis
import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.hooks import MagCacheConfig
from hypothesis import strategies as st

import pure
from pure.decide import check
from pure.testing.situation import Situation
from pure.testing.toys import RANDOM
from pure.transforms import magcache, scm
from tests.support.flux import FLUX

RATIOS = (1.0, 1.02, 0.97, 0.99, 1.01, 0.96, 0.98, 0.9)


def peer(ratios: tuple[float, ...], threshold: float, limit: int, retention: float, count: int) -> str:
    """Return what diffusers computes, found by the calls of the last block's attention."""
    model = FluxTransformer2DModel(**FLUX, guidance_embeds=False).eval()
    model.enable_cache(
        MagCacheConfig(
            threshold=threshold,
            max_skip_steps=limit,
            retention_ratio=retention,
            num_inference_steps=count,
            mag_ratios=list(ratios),
        )
    )
    ran: list[int] = []
    last: Any = model.single_transformer_blocks[-1]
    last.attn.register_forward_hook(lambda *_: ran.append(1))
    found = ""
    for step in range(count):
        ran.clear()
        with torch.no_grad(), model.cache_context("cond"):
            model(
                hidden_states=torch.ones(1, 4, 4),
                encoder_hidden_states=torch.ones(1, 2, 8),
                pooled_projections=torch.ones(1, 8),
                timestep=torch.tensor([1 - step / count]),
                img_ids=torch.zeros(4, 3),
                txt_ids=torch.zeros(2, 3),
            )
        found += str(len(ran))
    return found


@pytest.mark.parametrize(
    ("threshold", "limit", "retention", "count"),
    [(0.06, 3, 0.2, 8), (0.24, 5, 0.1, 8), (0.1, 2, 0.3, 12), (0.5, 3, 0.25, 10), (0.05, 4, 0.2, 5), (0.0, 3, 0.2, 8)],
)
def test_decisions_are_those_of_diffusers(threshold: float, limit: int, retention: float, count: int) -> None:
    cached = magcache(ratios=RATIOS, threshold=threshold, max_skip=limit, retention=retention)
    entries = Situation(model=RANDOM, transform=cached, count=count, seeds=(1,)).trace()
    ours = "".join(str(int(entry.info.computed[0])) for entry in entries)
    assert ours == peer(RATIOS, threshold, limit, retention, count)
    assert (set(ours) == {"1"}) == (threshold == 0)


@hypothesis.given(
    ratios=st.lists(st.floats(0.8, 1.2), min_size=1, max_size=12).map(tuple),
    threshold=st.floats(0, 0.5),
    limit=st.integers(0, 4),
    count=st.integers(1, 20),
)
def test_every_skip_keeps_its_bounds(ratios: tuple[float, ...], threshold: float, limit: int, count: int) -> None:
    mask = magcache(ratios=ratios, threshold=threshold, max_skip=limit, retention=0.2).mask(count)
    assert len(mask) == count and mask[0] == 1
    assert "0" * (limit + 1) not in "".join(map(str, mask))
    place = [round(i * (len(ratios) - 1) / max(count - 1, 1)) for i in range(count)]
    for step in (i for i in range(count) if not mask[i]):
        last = max(i for i in range(step) if mask[i])
        errors = [
            abs(1 - math.prod(ratios[place[k]] for k in range(last + 1, j + 1))) for j in range(last + 1, step + 1)
        ]
        assert sum(errors) <= threshold + 1e-9


def test_what_is_refused_and_said() -> None:
    rules = magcache(ratios=RATIOS)(RANDOM.first).plan.rules
    assert not check(rules, 8)
    assert check(rules, 10)[0].text == "magcache has ratios of 8 steps; each of 10 takes the nearest"
    for wrong in ((), (1.0, 0.0), (1.0, math.nan), "1.0", 3, (True, "x")):
        with pytest.raises(ValueError, match="give one number above 0 a step"):
            magcache(ratios=wrong)  # type: ignore[arg-type]
    for given in ({"threshold": -1.0}, {"max_skip": -1}, {"retention": 1.5}):
        with pytest.raises(ValueError, match=next(iter(given))):
            magcache(ratios=RATIOS, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"magcache\(.*\) and scm\(preset='fast'\) both set the rule 'mask'"):
        pure.compose(magcache(ratios=RATIOS), scm(preset="fast"))(RANDOM.first)
