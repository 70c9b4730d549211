"""Mistakes that lie between keys, each of which is allowed by itself.

The checks read settings by path, so that they serve one file (with its lines) and the
effective configuration (with its origins) alike.
"""

from collections.abc import Mapping

from pure.configs.layer import Setting
from pure.configs.report import Problem

__all__ = ["calibrators", "contradictions"]

CACHE = "cache_config."
CALIBRATORS = ("taylorseer", "dmd", "foca")
SIZES = ("ulysses_size", "ring_size", "tp_size")
Settings = Mapping[str, Setting]


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


def _calibrators(settings: Settings) -> list[Problem]:
    on = list(calibrators(settings).values())
    return [
        Problem(
            place=settings[key].place,
            path=key,
            found=f"a second calibrator besides {on[0].removeprefix(CACHE)} ({settings[on[0]].place})",
            allowed="at most one of TaylorSeer, DMD and FoCa",
            hint="switch all but one off",
        )
        for key in on[1:]
    ]


def _bins(settings: Settings) -> list[Problem]:
    keys = [f"{CACHE}scm_compute_bins", f"{CACHE}scm_cache_bins"]
    given = [key for key in keys if key in settings]
    if len(given) == 1:
        other = keys[1 - keys.index(given[0])].removeprefix(CACHE)
        return [
            Problem(
                place=settings[given[0]].place,
                path=given[0],
                found=f"no {other} beside it",
                allowed="both bins or none: a mask alternates between the two",
                hint=f"add {other} or remove this one",
            )
        ]
    mask = settings.get(f"{CACHE}steps_computation_mask")
    if given and mask is not None and isinstance(mask.value, tuple):
        return [
            Problem(
                place=settings[given[0]].place,
                path=given[0],
                found=f"bins beside an explicit mask ({mask.place})",
                allowed="one of steps_computation_mask and the bins",
                hint="remove one of the two",
            )
        ]
    return []


def _mask(settings: Settings) -> list[Problem]:
    mask = settings.get(f"{CACHE}steps_computation_mask")
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
    path = f"{CACHE}steps_computation_mask"
    return [Problem(place=mask.place, path=path, found=what, allowed=may, hint=cure) for what, may, cure in found]


def _front(settings: Settings) -> list[Problem]:
    front = settings.get(f"{CACHE}Fn_compute_blocks")
    threshold = settings.get(f"{CACHE}residual_diff_threshold")
    if front is None or threshold is None or front.value or not 0 < threshold.value < 1:
        return []
    return [
        Problem(
            place=front.place,
            path=f"{CACHE}Fn_compute_blocks",
            found=f"0 with residual_diff_threshold: {threshold.value:g} ({threshold.place})",
            allowed="at least 1 block whose change the threshold measures",
            hint="write Fn_compute_blocks: 1, or residual_diff_threshold: 1 to skip without measuring",
        )
    ]


def _auto(settings: Settings) -> list[Problem]:
    paths = [f"parallelism_config.{size}" for size in SIZES]
    auto = [path for path in paths if path in settings and settings[path].value == "auto"]
    return [
        Problem(
            place=settings[path].place,
            path=path,
            found=f"a second auto besides {auto[0].split('.')[1]} ({settings[auto[0]].place})",
            allowed="at most one of ulysses_size, ring_size and tp_size is auto",
            hint="write a number",
        )
        for path in auto[1:]
    ]


def _backends(settings: Settings) -> list[Problem]:
    inner, outer = settings.get("parallelism_config.attention_backend"), settings.get("attention_backend")
    if inner is None or outer is None or inner.value == outer.value:
        return []
    return [
        Problem(
            place=inner.place,
            path="parallelism_config.attention_backend",
            found=f"{inner.value}, but attention_backend is {outer.value} ({outer.place})",
            allowed="one attention backend",
            hint="remove one of the two",
        )
    ]
