"""`pure.tune`: record runs without a cache, search the mask, refine it on real runs, check it on other prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pure.engine.errors import Misuse
from pure.engine.tuning.bench import make_bench
from pure.engine.tuning.budget import Budget, read_budget
from pure.engine.tuning.plan import TunedPlan
from pure.engine.tuning.prompts import Prompts, read
from pure.engine.tuning.reaching import checked, curve, reached
from pure.engine.tuning.recording import Observe
from pure.engine.tuning.rerun import TunedSpan
from pure.experts import denoisers_of

if TYPE_CHECKING:
    from pure.models import Pipeline

__all__ = ["Tuning", "tune"]

REFINE = ("none", "swaps", "gradient")
MOST_STEPS = 200


@attrs.frozen(kw_only=True, eq=False)
class Tuning:
    """What `tune` returns.

    Attributes:
        plans: one for each budget, refined.
        curve: plans of other numbers of computed steps from the same recording, not refined; by that number.
        seconds: that recording, searching and refining took.
    """

    plans: tuple[TunedPlan, ...]
    curve: tuple[TunedPlan, ...]
    seconds: float

    @property
    def plan(self) -> TunedPlan:
        """The plan of the only, or the first, budget."""
        return self.plans[0]


def tune(
    pipeline: Pipeline,
    prompts: Prompts | None = None,
    *,
    budget: int | str | Budget | Sequence[int | str | Budget],
    refine: str = "gradient",
    fit: int = 12,
    held_out: int = 12,
    front: int | Sequence[int] = 0,
    back: int | Sequence[int] = 0,
    depth: int = 3,
    points: int = 8,
    recording: str | Path | None = None,
    observe: Observe | None = None,
    negative_prompt: str | None = None,
    **options: Any,
) -> Tuning:
    """Find which steps to compute, and the weights with which the others are filled in.

    Runs without a cache are recorded once, as Gram matrices of what the middle blocks add. The best mask is a
    shortest path over them (`pure.shortest`); swaps and weights are refined on real runs; what is reported comes
    from prompts that nothing was fitted to.

    Args:
        pipeline: what was loaded.
        prompts: a name of `pure.engine.tuning.prompts.BUILT_IN`, a file with one prompt a line, a sequence, or a
            function of their number; None: "videos", "edits" or "images", as the pipeline makes them. The
            checkpoint in the package knows "emoji" only.
        budget: a number of computed steps, a time ratio such as "2.5x", or a least PSNR such as "50dB"; or
            several of them, from one recording.
        refine: "none"; "swaps" of computed and skipped steps on the real run; "gradient": the weights as well, through
            the whole run, which needs fp32.
        fit: number of prompts to fit.
        held_out: number of other prompts to check on.
        front: first blocks that always run; of several numbers the best one is kept.
        back: last blocks that always run, likewise.
        depth: computed steps that a skipped one looks back to, 1 to 8; each is a residual in memory.
        points: about how many plans of other numbers of computed steps are tried for the curve, not refined.
        recording: folder in which recordings are kept, so that another budget, or a run that was
            interrupted, starts from them; None: in memory only.
        observe: called with what is done ("recording", "swaps", "weights", "check"), how much of it, and of how much.
        negative_prompt: see `Pipeline.request`.
        options: see `pure.models.Options`; the plan is for these steps, sizes and guidance.

    Raises:
        Misuse: an argument is out of range, there are too few prompts, or no plan comes as near as it should.
        ValueError: an option is out of range.
    """
    if refine not in REFINE:
        raise Misuse(f"refine={refine!r:.80}: choose one of {', '.join(REFINE)}")
    if refine == "gradient" and pipeline.dtype in (torch.float16, torch.bfloat16):
        raise Misuse(f"refine='gradient' needs a pipeline in fp32, this one is in {pipeline.dtype}; or refine='swaps'")
    began = time.perf_counter()
    options = {**options, **({} if negative_prompt is None else {"negative_prompt": negative_prompt})}
    texts = read(prompts or _usual(pipeline), _count("fit", fit) + _count("held_out", held_out))
    spans = _spans(pipeline, front, back, depth)
    steps = pipeline.request("", **options).steps
    if steps > MOST_STEPS:
        raise Misuse(f"plans are tuned for at most {MOST_STEPS} steps, not {steps}")
    if steps < 2:
        raise Misuse("a run of 1 step has none to skip, so there is nothing to tune; take more steps")
    several = [budget] if isinstance(budget, int | str | Budget) else list(budget)
    wanted = [read_budget(one, steps) for one in several]
    folder = None if recording is None else Path(recording)
    benches = [make_bench(pipeline, texts, fit, span, options, folder, observe) for span in spans]
    found = [reached(benches, one, refine, observe) for one in wanted]
    plans = tuple(checked(one, observe) for one in found)
    others = curve(benches[0], points, [one.computed for one in found], observe)
    return Tuning(plans=plans, curve=others, seconds=time.perf_counter() - began)


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise Misuse(f"{name}={value!r:.80}: a whole number of 1 to 1000 prompts")
    return value


def _usual(pipeline: Pipeline) -> str:
    if pipeline.request("").frames > 1:
        return "videos"
    return "edits" if pipeline.image_count[0] else "images"


def _spans(pipeline: Pipeline, front: int | Sequence[int], back: int | Sequence[int], depth: int) -> list[TunedSpan]:
    """Return every span to try."""
    size = min(len(one.blocks) for one in denoisers_of(pipeline.denoiser).values())
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= 8:
        raise Misuse(f"depth={depth!r:.80}: a whole number of 1 to 8 computed steps")
    lists = {"front": [front] if isinstance(front, int) else front, "back": [back] if isinstance(back, int) else back}
    for name, values in lists.items():
        if not values or any(isinstance(v, bool) or not isinstance(v, int) or not 0 <= v < size for v in values):
            raise Misuse(f"{name}={values!r:.80}: whole numbers of 0 to {size - 1}, the denoiser has {size} blocks")
    found = [TunedSpan(front=f, back=b, depth=depth) for f in lists["front"] for b in lists["back"] if f + b < size]
    if not found:
        raise Misuse(f"front={front} and back={back} leave none of the {size} blocks to skip")
    return found
