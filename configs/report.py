"""Problems and the report of them: where, which key, what was found, what is allowed, what to do."""

import re
from collections.abc import Iterable

import attrs

from pure.checks import cut, nearest

__all__ = ["SYNONYMS", "ConfigError", "Problem", "did_you_mean", "order"]


@attrs.frozen(kw_only=True)
class Problem:
    """One mistake.

    Attributes:
        place: `file:line:column`, `environment NAME`, `flag --name` or `request`.
        path: the key, dotted from the top: `cache_config.Fn_compute_blocks`; empty for the whole document.
        found: what is there; where `allowed` is empty, why it cannot be done.
        allowed: what may be there; empty for what is well-formed but impossible here.
        hint: the cure, or the nearest known name; may be empty.
    """

    place: str
    path: str
    found: str
    allowed: str
    hint: str = ""

    def __str__(self) -> str:
        """One line for a person."""
        where = f"{self.place}: {cut(self.path)}" if self.path else self.place
        what = f"found {self.found}; allowed: {self.allowed}" if self.allowed else self.found
        return f"{where}: {what}" + (f"; {self.hint}" if self.hint else "")


class ConfigError(ValueError):
    """A configuration with mistakes; its text lists every one of them.

    Attributes:
        problems: all of them, in the order of the source where it has lines.
        exit_code: what the command line exits with.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda each: order(each.place)))
        count = len(self.problems)
        title = "1 problem" if count == 1 else f"{count} problems"
        super().__init__("\n".join([f"{title} in the configuration:", *(f"  {problem}" for problem in self.problems)]))


def order(text: str) -> tuple[str, int, int]:
    """Return the key that sorts places, and texts that begin with one, by file, line and column; others come first.

    >>> order("c.yaml:2:10: no effect"), order("flag --plan: no effect")
    (('c.yaml', 2, 10), ('', 0, 0))
    """
    found = re.match(r"(.+?):(\d+):(\d+)(?![^:, ])", text)
    return (found[1], int(found[2]), int(found[3])) if found else ("", 0, 0)


# What people write, and what the key is called: too far apart for a spelling match.
SYNONYMS = {
    "f": "Fn_compute_blocks",
    "fn": "Fn_compute_blocks",
    "b": "Bn_compute_blocks",
    "bn": "Bn_compute_blocks",
    "front": "Fn_compute_blocks",
    "back": "Bn_compute_blocks",
    "w": "max_warmup_steps",
    "warmup": "max_warmup_steps",
    "r": "residual_diff_threshold",
    "rdt": "residual_diff_threshold",
    "threshold": "residual_diff_threshold",
    "mc": "max_continuous_cached_steps",
    "max_continuous": "max_continuous_cached_steps",
    "max_cached": "max_cached_steps",
    "taylorseer": "enable_taylorseer",
    "ts_order": "taylorseer_order",
    "order": "taylorseer_order",
    "method": "cache_type",
    "type": "cache_type",
    "options": "cache_options",
    "calibrator": "calibrator_type",
    "steps": "num_inference_steps",
    "mask": "steps_computation_mask",
    "scm": "steps_computation_mask",
    "scm_preset": "steps_computation_mask",
    "scm_policy": "steps_computation_policy",
    "steps_computation_mask": "scm_preset",
    "steps_computation_policy": "scm_policy",
}


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the hint that names the known name nearest to a mistaken one; empty if none is near.

    >>> did_you_mean("residual_dif_threshold", ["residual_diff_threshold", "cache_type"])
    'did you mean residual_diff_threshold?'
    """
    names = {key.lower(): key for key in known}
    text = str(name).lower()
    synonym = SYNONYMS.get(text, "").lower()
    close = synonym if synonym in names else nearest(text, names)
    return f"did you mean {names[close]}?" if close else ""
