"""Every key beside methods of each kind: it changes what is built, is noted, or is refused; never none of these."""

import pytest

from pure.configs import ConfigError, build, load_text, resolve
from tests.configs.test_build import OTHER, WITH


def load(values):
    return resolve(file=load_text(str({"cache_config": values}), "c.yaml"))


def built(values):
    try:
        return build(load(values))
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("method", ("DBPrune", "FORA", "EasyCache"))
def test_no_key_is_dropped_silently_by_a_method(method):
    for key, other in OTHER["cache_config"].items():
        if key in ("cache_type", "cache_options"):
            continue
        plain = {"cache_type": method, **WITH.get(key, {})}
        if key.startswith("scm_"):
            plain[key] = [5]
        effective = load({**plain, key: other})
        if plain.keys() & {"steps_computation_mask", "scm_compute_bins"} and effective.refusals:
            continue  # the method is a mask itself
        said = [*effective.notes, *map(str, effective.refusals)]
        assert built({**plain, key: other}) != built(plain) or any(key in each for each in said), key
