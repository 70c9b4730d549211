"""The sizes of a mesh from all sources; `auto` and missing sizes are filled in.

The product of the sizes is the number of processes. Without any size all of them are `ulysses`.
"""

import math
from collections.abc import Mapping

import attrs

from pure.configs.consistency import SIZES
from pure.configs.facts import Facts
from pure.configs.layer import Setting, Settings
from pure.configs.report import Problem

__all__ = ["PARALLEL", "count_of", "settle_sizes", "without_effect"]

PARALLEL = "parallelism_config."
"""What the paths of its keys start with."""
ULYSSES, RING, TP = (PARALLEL + size for size in SIZES)
CFG = PARALLEL + "cfg_size"

OF_ULYSSES = ("ulysses_float8", "ulysses_async")
OF_RING = ("ring_rotate_method", "ring_convert_to_fp32")
OF_SEVERAL = ("ulysses_anything", *OF_ULYSSES, *OF_RING, "extra_parallel_modules", "extra_parallel_kwargs")


def settle_sizes(settings: Settings, facts: Facts) -> tuple[dict[str, Setting], list[str], list[Problem]]:
    """Fill in the sizes that are `auto` or left open, and check that they fit the processes.

    Args:
        settings: the effective ones, none of them None.
        facts: the number of processes, and of those that share the sequence where that is set.

    Returns:
        The sizes that were filled in; notes on them; problems.
    """
    given = {path: settings[path] for path in (ULYSSES, RING, TP, CFG) if path in settings}
    sizes = {path: setting.value for path, setting in given.items() if setting.value != "auto"}
    filled: dict[str, Setting] = {}
    notes: list[str] = []
    for path in _open(given, facts):
        of_sequence = facts.sequence is not None and path != TP
        whole = facts.sequence if of_sequence and facts.sequence else facts.processes
        others = [size for other, size in sizes.items() if not (of_sequence and other in (TP, CFG))]
        sizes[path] = max(1, whole // math.prod(others))
        count = count_of(facts.processes)
        if path not in given:
            filled[path] = Setting(value=sizes[path], place=f"what is left of {count}")
            continue
        place = given[path].place
        filled[path] = attrs.evolve(given[path], value=sizes[path], place=f"{place} (auto, {count})")
        notes.append(f"{place}: auto is {sizes[path]} here, as the run has {count}")
    return filled, notes, _misfits(given, sizes, facts)


def _open(given: Settings, facts: Facts) -> list[str]:
    """Return the sizes to fill in: those of the sequence first, whose product may be given."""
    auto = [path for path in (ULYSSES, RING, TP) if path in given and given[path].value == "auto"]
    if ULYSSES not in given and RING not in auto and (facts.sequence is not None or (facts.processes > 1 and not auto)):
        return [ULYSSES, *auto]
    return auto


def _misfits(given: Settings, sizes: Mapping[str, int], facts: Facts) -> list[Problem]:
    """Return what is wrong with sizes that are all numbers."""
    names = ", ".join(f"{path.removeprefix(PARALLEL)}: {setting.value}" for path, setting in given.items())
    total = math.prod(sizes.values())
    found = []
    shared = sizes.get(ULYSSES, 1) * sizes.get(RING, 1)
    if facts.sequence is not None and shared != facts.sequence:
        why = f"ulysses {sizes.get(ULYSSES, 1)} x ring {sizes.get(RING, 1)} is {shared}, not {facts.sequence}"
        cure = f"write --sp-degree {shared} or leave it out, or change --ulysses-degree and --ring-degree"
        found.append(Problem(place="flag --sp-degree", path="", found=why, allowed="", hint=cure))
    if total != facts.processes and sizes:
        loud = next((path for path, setting in given.items() if setting.value not in (1, "auto")), None)
        path = loud or next(iter(given), "")
        place = given[path].place if path else "flag --sp-degree"
        names = names if path else f"--sp-degree {facts.sequence}"
        each = f" in each of {facts.groups} groups (dp)" if facts.groups > 1 else ""
        why = f"{names} needs {count_of(total)}, this run has {facts.processes}{each}"
        found.append(Problem(place=place, path=path, found=why, allowed="", hint=_cure(sizes, total, facts)))
    return found


def _cure(sizes: Mapping[str, int], total: int, facts: Facts) -> str:
    cure = f"start with --num-gpus {total * facts.groups}, or remove the sizes"
    if facts.processes == 1:
        return cure
    if facts.sequence is not None and not {TP, CFG} & set(sizes) and not facts.processes % facts.sequence:
        return f"{cure}, or add --tp-size {facts.processes // facts.sequence}"
    return f"{cure}, or write auto for one"


def without_effect(sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the keys that have no effect with these sizes, and why.

    >>> without_effect({"ulysses_size": 4, "ring_size": 1, "tp_size": 1})["ring_rotate_method"]
    'the ring has one process'
    """
    if math.prod(sizes.values()) == 1:
        return dict.fromkeys(OF_SEVERAL, "there is one process")
    idle = {"ulysses_anything": "any number of heads and tokens always works"}
    idle |= {"extra_parallel_kwargs": "the other modules have no options"}
    if sizes.get("ulysses_size", 1) == 1:
        idle |= dict.fromkeys(OF_ULYSSES, "ulysses_size is 1")
    if sizes.get("ring_size", 1) == 1:
        idle |= dict.fromkeys(OF_RING, "the ring has one process")
    return idle


def count_of(processes: int) -> str:
    """Return the number of processes in words."""
    return f"{processes} process" + ("es" if processes > 1 else "")
