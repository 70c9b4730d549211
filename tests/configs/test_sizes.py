"""How many processes share what, from flags, files and what nobody says."""

import itertools
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pure.configs import ConfigError, Facts, Parallel, describe, load_config, load_text, parallel, read_flags, resolve
from pure.distributed import Sizes

SIZES = ("ulysses_size", "ring_size", "tp_size")


def settled(sizes=None, processes=1, sequence=None, flags=None, groups=1):
    """The effective configuration of a file with sizes, and flags."""
    layers: Any = {"file": load_text(str({"parallelism_config": sizes}), "p.yaml")} if sizes else {}
    spelling = {f"parallelism_config.{size}": f"--{size}" for size in SIZES}
    flags = read_flags({f"parallelism_config.{size}": value for size, value in (flags or {}).items()}, spelling)
    return resolve(flags=flags, **layers, facts=Facts(processes=processes, sequence=sequence, groups=groups))


@pytest.mark.parametrize("one", [True, False])
def test_every_key_reaches_its_field(one):
    sizes = {"ulysses_size": 2, "ring_size": 3, "tp_size": 5, "cfg_size": 2}
    ways = {"ulysses_float8": one, "ulysses_async": not one, "ring_convert_to_fp32": one}
    more = {"ring_rotate_method": "allgather", "extra_parallel_modules": ["vae"]}
    assert parallel(settled({**sizes, **ways, **more}, processes=60, groups=7)) == Parallel(
        sizes=Sizes(ulysses=2, ring=3, tp=5, cfg=2, dp=7),
        float8=one,
        overlap=not one,
        rotate="allgather",
        fp32=one,
        extra=("vae",),
    )
    assert parallel(settled(groups=7)).sizes == Sizes(dp=7)


@pytest.mark.parametrize(
    ("sizes", "processes", "sequence", "wanted"),
    [
        (None, 1, None, Sizes()),
        (None, 4, None, Sizes(ulysses=4)),
        ({"tp_size": 2}, 4, None, Sizes(ulysses=2, tp=2)),
        ({"ring_size": 2}, 4, None, Sizes(ring=2, ulysses=2)),
        ({"ring_size": 2, "tp_size": 2}, 8, None, Sizes(ring=2, ulysses=2, tp=2)),
        ({"ulysses_size": "auto", "tp_size": 2}, 8, None, Sizes(ulysses=4, tp=2)),
        ({"ring_size": "auto"}, 3, None, Sizes(ring=3)),
        ({"tp_size": "auto"}, 4, None, Sizes(tp=4)),
        (None, 4, 4, Sizes(ulysses=4)),
        ({"tp_size": 2}, 4, 2, Sizes(ulysses=2, tp=2)),
        ({"tp_size": "auto"}, 4, 2, Sizes(ulysses=2, tp=2)),
        ({"ring_size": 2}, 4, 4, Sizes(ring=2, ulysses=2)),
        ({"ring_size": "auto"}, 4, None, Sizes(ring=4)),
        ({"ring_size": "auto"}, 4, 4, Sizes(ring=4)),
        ({"ulysses_size": 2, "ring_size": "auto"}, 4, 4, Sizes(ring=2, ulysses=2)),
        ({"ulysses_size": 1}, 1, 1, Sizes()),
    ],
)
def test_what_is_open_takes_what_is_left(sizes, processes, sequence, wanted):
    assert parallel(settled(sizes, processes, sequence)) == Parallel(sizes=wanted)


entry = st.none() | st.just("auto") | st.integers(1, 4)


@given(st.tuples(entry, entry, entry), st.integers(1, 12), st.none() | st.integers(1, 6))
def test_sizes_are_refused_only_where_none_would_do(chosen, processes, sequence):
    assume(chosen.count("auto") <= 1)
    sizes = {name: value for name, value in zip(SIZES, chosen, strict=True) if value is not None}
    effective = settled(sizes, processes, sequence)
    anything = range(1, processes + 1)
    ulysses = [1]
    if "ulysses_size" not in sizes and "auto" not in (sizes.get("ring_size"), "" if sequence else sizes.get("tp_size")):
        ulysses = anything
    choices = [
        anything if value == "auto" else [value] if value else ulysses if name == "ulysses_size" else [1]
        for name, value in zip(SIZES, chosen, strict=True)
    ]
    possible = [
        Sizes(ulysses=u, ring=r, tp=t)
        for u, r, t in itertools.product(*choices)
        if u * r * t == processes and sequence in (None, u * r)
    ]
    if effective.refusals:
        assert not possible
        with pytest.raises(ConfigError, match=r"start with --num-gpus \d+|write --sp-degree \d+"):
            parallel(effective)
    else:
        assert parallel(effective).sizes in possible


@pytest.mark.parametrize(
    ("sizes", "processes", "sequence", "message"),
    [
        (None, 1, 2, "flag --sp-degree: --sp-degree 2 needs 2 processes, this run has 1; start with --num-gpus 2"),
        (None, 4, 2, "this run has 4; start with --num-gpus 2, or remove the sizes, or add --tp-size 2"),
        ({"tp_size": 4}, 4, 2, "this run has 4; start with --num-gpus 8, or remove the sizes, or write auto for one"),
        ({"ulysses_size": 2, "ring_size": 1}, 4, 4,
         "flag --sp-degree: ulysses 2 x ring 1 is 2, not 4; write --sp-degree 2 or leave it out, or change"),
        ({"ulysses_size": 4}, 4, 2,
         "flag --sp-degree: ulysses 4 x ring 1 is 4, not 2; write --sp-degree 4 or leave it out, or change"),
        ({"tp_size": 3}, 4, None, "parallelism_config.tp_size: tp_size: 3 needs 3 processes, this run has 4"),
        ({"ulysses_size": "auto", "tp_size": 3}, 4, None,
         "parallelism_config.tp_size: ulysses_size: auto, tp_size: 3 needs 3 processes, this run has 4"),
        ({"ulysses_size": "auto", "tp_size": 4}, 2, None, "tp_size: 4 needs 4 processes, this run has 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_the_cure(sizes, processes, sequence, message):
    told = [str(problem) for problem in settled(sizes, processes, sequence).refusals]
    assert any(message in problem for problem in told), told


def test_one_process_is_told_to_start_more_and_several_to_leave_a_size_open():
    (one,), (several,) = settled({"tp_size": 3}, 1).refusals, settled({"tp_size": 3}, 2).refusals
    cure = "; start with --num-gpus 3, or remove the sizes"
    assert str(one).endswith(cure) and str(several).endswith(f"{cure}, or write auto for one")
    (grouped,) = settled({"tp_size": 3}, 1, groups=2).refusals
    assert "this run has 1 in each of 2 groups (dp); start with --num-gpus 6, or" in str(grouped)


def test_one_size_is_open_and_the_others_are_numbers():
    sizes = "{ulysses_size: auto, ring_size: 2, tp_size: auto}"
    with pytest.raises(ConfigError, match=r"tp_size: found a second auto besides ulysses_size \(p\.yaml:1:\d+\)"):
        load_text(f"parallelism_config: {sizes}", "p.yaml")


def test_groups_share_nothing():
    assert parallel(settled(groups=2)).sizes == Sizes(dp=2)
    assert parallel(settled({"tp_size": 2}, 2, groups=3)).sizes == Sizes(tp=2, dp=3)


def test_all_that_does_not_fit_is_said():
    both = settled({"ulysses_size": 2}, 8, 4).refusals
    assert len(both) == 2 and "--sp-degree" in str(both[0]) and "needs 2 processes" in str(both[1])


def test_a_flag_wins_over_the_file_key_by_key():
    effective = settled({"ulysses_size": "auto", "tp_size": 4}, 4, flags={"tp_size": 2})
    assert parallel(effective).sizes == Sizes(ulysses=2, tp=2)
    assert effective.origins["parallelism_config.tp_size"] == "flag --tp_size"


def test_what_nobody_says_has_an_origin():
    rows = {row.key: row for row in describe(settled(None, 4))}
    row = rows["parallelism_config.ulysses_size"]
    assert (row.value, row.origin) == ("4", "what is left of 4 processes")
    assert "parallelism_config.ulysses_size" not in {row.key for row in describe(settled(None, 1))}


@pytest.mark.parametrize(
    ("name", "processes", "wanted"),
    [
        ("parallel.yaml", 4, Parallel(sizes=Sizes(ulysses=4))),
        ("parallel_2d.yaml", 4, Parallel(sizes=Sizes(ulysses=2, tp=2))),
        ("parallel_3d.yaml", 8, Parallel(sizes=Sizes(ulysses=2, ring=2, tp=2))),
        ("parallel_uaa.yaml", 3, Parallel(sizes=Sizes(ulysses=3))),
        ("parallel_fp8.yaml", 4, Parallel(sizes=Sizes(ulysses=4), float8=True)),
        ("parallel_async.yaml", 4, Parallel(sizes=Sizes(ulysses=4), overlap=True)),
        ("parallel_extra.yaml", 2, Parallel(sizes=Sizes(ulysses=2), extra=("text_encoder", "vae"))),
        ("hybrid.yaml", 4, Parallel(sizes=Sizes(ulysses=4), extra=("text_encoder", "vae"))),
    ],
)
def test_the_files_of_the_page(name, processes, wanted):
    assert parallel(resolve(file=load_config(name), facts=Facts(processes=processes))) == wanted


def test_options_of_the_ring():
    options = {"ring_size": 2, "ring_rotate_method": "allgather", "ring_convert_to_fp32": False}
    assert parallel(settled(options, 2)) == Parallel(sizes=Sizes(ring=2), rotate="allgather", fp32=False)


@pytest.mark.parametrize(
    ("values", "key", "why"),
    [
        ({"ulysses_anything": True}, "ulysses_anything", "any number of heads and tokens always works"),
        ({"extra_parallel_kwargs": {"a": 1}}, "extra_parallel_kwargs", "the other modules have no options"),
        ({"ring_rotate_method": "allgather"}, "ring_rotate_method", "the ring has one process"),
        ({"ring_size": 2, "ulysses_float8": True}, "ulysses_float8", "ulysses_size is 1"),
    ],
)
def test_what_has_no_effect_in_two_processes_is_noted(values, key, why):
    assert any(note.endswith(f"{key} has no effect: {why}") for note in settled(values, 2).notes)


def test_what_has_an_effect_is_not_noted():
    values = {"ulysses_size": 2, "ring_size": 2, "ulysses_float8": True, "ring_rotate_method": "allgather"}
    assert settled(values, 4).notes == ()
    assert settled({"cfg_size": 2, "extra_parallel_modules": ["vae"]}, 2).notes == ()
