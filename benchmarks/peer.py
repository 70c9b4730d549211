"""cache-dit on the model and the request of a bench: a contestant of several benchmarks.

It changes the class of a transformer and the functions of its instance, so each contestant has a class and a module of
its own, with the weights of the bench.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import cache_dit
import torch

from benchmarks.flux import STEPS, Bench

__all__ = ["Peer", "module_of", "peer", "recommended"]


@attrs.frozen(eq=False)
class Peer:
    """A cached module, which runs the steps of a bench.

    Attributes:
        made: the bench, its module cached.
        config: returns the settings of the cache, new ones each time, as enabling changes them.
    """

    made: Bench
    config: Callable[[], Any]

    def __call__(self) -> Iterator[torch.Tensor]:
        """Run all steps, with an empty cache."""
        cache_dit.refresh_context(self.made.module, cache_config=self.config())
        return self.made.diffusers()

    @property
    def computed(self) -> tuple[bool, ...]:
        """Of every step of the last run, whether it was computed."""
        skipped = set(cache_dit.summary(self.made.module, logging=False)[0].cached_steps)
        return tuple(step not in skipped for step in range(STEPS))


def module_of(made: Bench) -> Any:
    """Return a module of the weights of a bench, with a class of its own."""
    cls = type(type(made.module).__name__, (type(made.module),), {})
    with torch.device("meta"):
        module: Any = cls(**made.module.config)
    module.load_state_dict(made.module.state_dict(), assign=True)
    module.pos_embed.to(made.latents.device)
    return module.eval()


def peer(
    made: Bench, *, mask: Sequence[int] | None = None, threshold: float = 1.0, warmup: int = 0, row: int = -1
) -> Peer:
    """Return the bench cached by cache-dit, one block in front.

    Args:
        made: the bench.
        mask: 1 for steps that are computed, 0 for others; None leaves it to the threshold.
        threshold: of the change.
        warmup: first steps that are computed.
        row: most skipped steps in a row; -1 sets no limit.
    """
    logging.getLogger("CACHE_DIT").setLevel(logging.ERROR)
    static: dict[str, Any] = {} if mask is None else {"steps_computation_mask": list(mask)}

    def config() -> Any:
        return cache_dit.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            residual_diff_threshold=threshold,
            max_warmup_steps=warmup,
            max_continuous_cached_steps=row,
            num_inference_steps=STEPS,
            steps_computation_policy="dynamic" if mask is None else "static",
            **static,
        )

    module = module_of(made)
    cache_dit.enable_cache(module, cache_config=config())
    return Peer(attrs.evolve(made, module=module), config)


@contextlib.contextmanager
def recommended(wanted: bool) -> Iterator[None]:
    """Have the settings of `torch.compile` that cache-dit recommends, if wanted, and put the others back."""
    from torch._inductor import config

    kept = config.get_config_copy()
    if wanted:
        cache_dit.set_compile_configs()
    try:
        yield
    finally:
        config.load_config(kept)
