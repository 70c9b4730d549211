"""Runs that skip blocks one by one, said as a transform of puredit and as a configuration of cache-dit."""

from typing import Any

import attrs

import pure
from pure.transforms import dbprune
from tests.parity.cases import Case


@attrs.frozen(kw_only=True)
class Pruned(Case):
    """A run with DBPrune; `keep` are further blocks that always run."""

    steps: int = 12
    warmup: int = 2
    keep: tuple[int, ...] = ()
    kind: str = "pruned"

    def transform(self) -> pure.Transform:
        """Return what a user of puredit composes."""
        return dbprune(
            front=self.front,
            back=self.back,
            keep=self.keep,
            threshold=self.threshold,
            warmup=self.warmup,
            max_cached=self.max_cached,
            max_continuous=self.max_continuous,
        )

    def request(self) -> dict[str, Any]:
        """Return what `peer.py` is asked to run."""
        asked = super().request()
        names = ("Fn_compute_blocks", "Bn_compute_blocks", "residual_diff_threshold", "max_warmup_steps")
        limits = ("max_cached_steps", "max_continuous_cached_steps")
        cache = {name: asked["cache"][name] for name in (*names, *limits)}
        return {**asked, "cache": {**cache, "non_prune_block_ids": list(self.keep)}}


PRUNED = (
    Pruned(name="prune", threshold=0.05),
    Pruned(name="prune, front and back", front=2, back=1, threshold=0.1, warmup=3),
    Pruned(name="prune, limit in a row", threshold=0.3, max_continuous=2),
    Pruned(name="prune, but some blocks", threshold=0.08, keep=(2, 3)),
    Pruned(name="prune, limit in all", threshold=0.2, max_cached=4),
)
