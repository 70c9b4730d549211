"""Mistakes that lie between keys, each of which is allowed by itself.

The checks read settings by path, so that they serve one file (with its lines) and the
effective configuration (with its origins) alike.
"""

from pure.configs.layer import Settings
from pure.configs.report import Problem
from pure.configs.schema import METHODS

__all__ = ["calibrators", "contradictions"]

CACHE = "cache_config."
CALIBRATORS = ("taylorseer", "dmd", "foca")
SIZES = ("ulysses_size", "ring_size", "tp_size")


def contradictions(settings: Settings) -> list[Problem]:
    """Return every contradiction among the values that are set."""
    return [problem for check in (_calibrators, _bins, _mask, _front, _auto, _backends) for problem in check(settings)]


def calibrators(settings: Settings) -> dict[str, str]:
    """Return the keys that switch a calibrator on, by the calibrator's name."""
    on = {name: key for name in CALIBRATORS if (key := f"{CACHE}enable_{name}") in settings and settings[key].value}
    chosen = settings.get(f"{CACHE}calibrator_type")
    if chosen is not None:
        on.setdefault(chosen.value, f"{CACHE}calibrator_type")
    enabled = settings.get(f"{CACHE}enable_calibrator")
    return on if enabled is None or enabled.value else {}


def _problem(settings: Settings, path: str, found: str, allowed: str, hint: str) -> Problem:
    return Problem(place=settings[path].place, path=path, found=found, allowed=allowed, hint=hint)


def _calibrators(settings: Settings) -> list[Problem]:
    on = list(calibrators(settings).values())
    allowed = "at most one calibrator, of taylorseer, newton, hermite, adams, dmd and foca"
    hint = "switch all but one off"
    return [
        _problem(settings, key, f"a second calibrator besides {_named(settings, on[0])}", allowed, hint)
        for key in on[1:]
    ]


def _named(settings: Settings, path: str) -> str:
    return f"{path.rpartition('.')[2]} ({settings[path].place})"


def _bins(settings: Settings) -> list[Problem]:
    keys = [f"{CACHE}scm_compute_bins", f"{CACHE}scm_cache_bins"]
    given = [key for key in keys if key in settings]
    if len(given) == 1:
        other = keys[1 - keys.index(given[0])].removeprefix(CACHE)
        allowed, hint = "both bins or none: a mask alternates between the two", f"add {other} or remove this one"
        return [_problem(settings, given[0], f"no {other} beside it", allowed, hint)]
    mask = settings.get(f"{CACHE}steps_computation_mask")
    if given and mask is not None and isinstance(mask.value, tuple):
        found, allowed = f"bins beside an explicit mask ({mask.place})", "one of steps_computation_mask and the bins"
        return [_problem(settings, given[0], found, allowed, "remove one of the two")]
    return []


def _mask(settings: Settings) -> list[Problem]:
    path = f"{CACHE}steps_computation_mask"
    mask = settings.get(path)
    if mask is None or not isinstance(mask.value, tuple):
        return []
    found = []
    steps, policy = settings.get(f"{CACHE}num_inference_steps"), settings.get(f"{CACHE}steps_computation_policy")
    if steps is not None and steps.value != len(mask.value):
        found.append((f"{len(mask.value)} entries for num_inference_steps: {steps.value} ({steps.place})",
                      "one entry per step", f"give {steps.value} entries"))  # fmt: skip
    if policy is not None and policy.value == "static" and not mask.value[0]:
        found.append((f"a static mask that starts with 0 (policy: {policy.place})", "a static mask that starts with 1",
                      "nothing can be reused before the first computed step"))  # fmt: skip
    return [_problem(settings, path, *each) for each in found]


def _front(settings: Settings) -> list[Problem]:
    path = f"{CACHE}Fn_compute_blocks"
    front, threshold = settings.get(path), settings.get(f"{CACHE}residual_diff_threshold")
    method = settings.get(f"{CACHE}cache_type")
    if method is not None and method.value in (*METHODS, "DBPrune"):  # which measure something else
        return []
    if front is None or threshold is None or front.value or not 0 < threshold.value < 1:
        return []
    found = f"0 with residual_diff_threshold: {threshold.value:g} ({threshold.place})"
    hint = "write Fn_compute_blocks: 1, or residual_diff_threshold: 1 to skip without measuring"
    return [_problem(settings, path, found, "at least 1 block whose change the threshold measures", hint)]


def _auto(settings: Settings) -> list[Problem]:
    paths = [f"parallelism_config.{size}" for size in SIZES]
    auto = [path for path in paths if path in settings and settings[path].value == "auto"]
    allowed = "at most one of ulysses_size, ring_size and tp_size is auto"
    return [
        _problem(settings, path, f"a second auto besides {_named(settings, auto[0])}", allowed, "write a number")
        for path in auto[1:]
    ]


def _backends(settings: Settings) -> list[Problem]:
    path = "parallelism_config.attention_backend"
    inner, outer = settings.get(path), settings.get("attention_backend")
    if inner is None or outer is None or inner.value == outer.value:
        return []
    found = f"{inner.value}, but attention_backend is {outer.value} ({outer.place})"
    return [_problem(settings, path, found, "one attention backend", "remove one of the two")]
