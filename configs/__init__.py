"""Configuration: files, environment, flags and requests, translated once into transforms.

    from pure.configs import ConfigError, Facts, build, configure, describe, reference_table

    effective = configure(
        params={"residual_diff_threshold": 0.2},       # cache_dit_params: a mapping or JSON
        flags={"attention_backend": "native"},         # by path; spelling= names the flags in reports
        file="cache.yaml",                             # a path, or the name of a packaged file
        environ=os.environ,                            # when a request starts
        facts=Facts(processes=1, device="cpu", steps=28, blocks=6),
    )
    for note in effective.notes: ...                   # tell a person
    transform = build(effective)                       # a pure.Transform; identity without a cache
    kernel = attend_by(effective)                      # likewise, of attention
    shares = parallel(effective)                       # sizes of the mesh, options of context_parallel

Every function raises `ConfigError`, whose text lists all problems and whose `exit_code`
is 2. `configure` is `read_request`, `read_flags`, `load_config`, `read_environment` and
`resolve` in one, with one report for all of them. `describe(effective)` gives the rows of `puredit config --show`,
`effective.refusals` what `build` would refuse; `reference()` and `reference_table()` give
`puredit config --reference`. What wins over what is written in `precedence.py`; all
keys are in `schema.py`.
"""

import importlib as _importlib
import typing as _typing

import pure.overwritten  # noqa: F401  (says so where another package has replaced this one)

if _typing.TYPE_CHECKING:
    from pure.configs.building import Parallel, attend_by, build, parallel, quantizations, translate
    from pure.configs.configuring import configure
    from pure.configs.describing import Reference, Row, describe, reference, reference_table
    from pure.configs.effective import Effective
    from pure.configs.environment import read_environment
    from pure.configs.layer import Layer, Setting
    from pure.configs.load import dump, load_config, load_text, names
    from pure.configs.precedence import read_flags, read_model_defaults, resolve
    from pure.configs.report import ConfigError, Problem
    from pure.configs.request import REQUEST_KEYS, read_request
    from pure.configs.schema import CacheConfig, ParallelismConfig, QuantizeConfig
    from pure.configs.support import Facts

__all__ = [
    "REQUEST_KEYS",
    "CacheConfig",
    "ConfigError",
    "Effective",
    "Facts",
    "Layer",
    "Parallel",
    "ParallelismConfig",
    "Problem",
    "QuantizeConfig",
    "Reference",
    "Row",
    "Setting",
    "attend_by",
    "build",
    "configure",
    "describe",
    "dump",
    "load_config",
    "load_text",
    "names",
    "parallel",
    "quantizations",
    "read_environment",
    "read_flags",
    "read_model_defaults",
    "read_request",
    "reference",
    "reference_table",
    "resolve",
    "translate",
]

# Imported where they are first read, as in `pure`: flags are read by the kinds of this package, and need no torch.
# No module is called as a public name: importing it would put the module in the place of the function.
_MODULES = {
    "building": "Parallel attend_by build parallel quantizations translate",
    "configuring": "configure",
    "effective": "Effective",
    "environment": "read_environment",
    "layer": "Layer Setting",
    "load": "dump load_config load_text names",
    "precedence": "read_flags read_model_defaults resolve",
    "describing": "Reference Row describe reference reference_table",
    "report": "ConfigError Problem",
    "request": "REQUEST_KEYS read_request",
    "schema": "CacheConfig ParallelismConfig QuantizeConfig",
    "support": "Facts",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(_importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
