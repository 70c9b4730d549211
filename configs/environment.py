"""The environment: SGLANG_CACHE_DIT_* and DIFFUSERS_ATTN_BACKEND, with the defaults and the grammar users know.

`read_environment` takes a mapping and is called when a request starts; nothing here looks
at the process's own environment.
"""

from collections.abc import Mapping
from typing import ClassVar

import attrs

from pure.checks import check_argument, cut
from pure.configs.kinds import FALSE, TRUE, Bool, Choice, Counts, ValueKind
from pure.configs.layer import KINDS, SECOND, Layer, Source, instead_of
from pure.configs.report import did_you_mean
from pure.configs.schema import PRESETS, CacheConfig
from pure.transforms.attention.names import OF_DIFFUSERS

__all__ = ["METHOD_KEYS", "PREFIX", "VARIABLES", "read_environment"]

PREFIX = "SGLANG_CACHE_DIT_"
"""What the names of SGLang start with."""

ATTENTION = "DIFFUSERS_ATTN_BACKEND"

KNOBS = {
    "FN": "Fn_compute_blocks",
    "BN": "Bn_compute_blocks",
    "WARMUP": "max_warmup_steps",
    "RDT": "residual_diff_threshold",
    "MC": "max_continuous_cached_steps",
    "TAYLORSEER": "enable_taylorseer",
    "TS_ORDER": "taylorseer_order",
    "DMD": "enable_dmd",
    "DMD_HISTORY": "dmd_history",
    "DMD_RANK": "dmd_rank",
    "DMD_RIDGE": "dmd_ridge",
    "DMD_SVD_PRECISION": "dmd_svd_precision",
}
SHARED = {
    "SCM_PRESET": "steps_computation_mask",
    "SCM_COMPUTE_BINS": "scm_compute_bins",
    "SCM_CACHE_BINS": "scm_cache_bins",
    "SCM_POLICY": "steps_computation_policy",
}
METHOD_KEYS = ("cache_type", "cache_options", "calibrator_type", "calibrator_cache_type", "enable_foca")
"""Keys that a request sets and no variable does."""
VARIABLES = {
    f"{PREFIX}ENABLED": "enabled",
    **{f"{PREFIX}{name}": f"cache_config.{key}" for name, key in {**KNOBS, **SHARED}.items()},
    ATTENTION: "attention_backend",
    **{f"{PREFIX}SECONDARY_{name}": f"secondary.cache_config.{key}" for name, key in KNOBS.items()},
}
"""The path that each variable sets."""


@attrs.frozen
class BooleanVariable(Bool):
    """A boolean variable."""

    wording: ClassVar[str] = f"{', '.join(TRUE)} for true; {', '.join(word or 'nothing' for word in FALSE)} for false"


def read_environment(environ: Mapping[str, str]) -> Layer:
    """Read the variables, each of which is optional.

    Args:
        environ: such as `os.environ`, read at the start of a request.

    Raises:
        ConfigError: lists every variable whose value is not allowed. (SGLang takes an
            unreadable boolean for false and an unreadable list of bins for none.)
        TypeError: this is no mapping.

    >>> read_environment({"SGLANG_CACHE_DIT_FN": "2"}).settings["cache_config.Fn_compute_blocks"].value
    2
    """
    check_argument(environ, Mapping, "an environment is a mapping of text, such as os.environ")
    source = Source()
    for name in sorted(key for key in environ if isinstance(key, str) and (key.startswith(PREFIX) or key == ATTENTION)):
        if name not in VARIABLES:
            hint = _hint(name, environ[name])
            source.notes.append(f"environment {name}: unknown and without effect" + (f"; {hint}" if hint else ""))
            continue
        kind = _kind(VARIABLES[name])
        if not (isinstance(kind, Counts) or name == ATTENTION) or environ[name].strip():
            source.take(VARIABLES[name], kind.read(environ[name].strip()), f"environment {name}", kind=kind)
    return source.layer("environment")


def _hint(name: str, value: str) -> str:
    """Say what sets what a variable that does not exist is guessed to set."""
    bare = name.removeprefix(PREFIX)
    both = PREFIX + bare.removeprefix("SECONDARY_")
    if both != name and both in VARIABLES:
        return f"{both} is of both experts"
    guess = bare.removeprefix("SECONDARY_").lower()
    keys = {field.name for field in attrs.fields(CacheConfig)}
    key = next((each for each in (guess, f"enable_{guess}") if each in keys), "")
    if variable := next((each for each, path in VARIABLES.items() if path == f"cache_config.{key}"), ""):
        return f"{variable} sets {key}"
    written = f"{key}: {cut(value.strip(), 40)}" if key else instead_of(guess)
    if not written:
        return did_you_mean(name, VARIABLES)
    where = "cache_config of a file (--cache-dit-config)"
    if bare != guess.upper():
        where = f"secondary: {where}"
    elif key in METHOD_KEYS or not key:
        where += " or in --cache-dit-params"
    return f"no variable sets that: write {written} in {where}"


def _kind(path: str) -> ValueKind:
    path = path.removeprefix(SECOND)
    if path == "attention_backend":
        return Choice(OF_DIFFUSERS)  # diffusers reads the variable too, and fails on any other word
    kind = Choice(PRESETS) if path == "cache_config.steps_computation_mask" else KINDS[path]
    return BooleanVariable() if isinstance(kind, Bool) else kind
