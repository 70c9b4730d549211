"""What flags make of the cache, comparisons, videos and shares, each at its borders; modules that processes share."""

import importlib
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch

from pure.cli import cache_flags
from pure.cli import command as command_of
from pure.cli.cache_flags import BRANCHES, planned
from pure.configs import Facts
from pure.engine import weights
from pure.engine.errors import Misuse
from tests.cli.test_cli_words import values

CHECKPOINT: Any = SimpleNamespace(found=SimpleNamespace(folder=None))


@pytest.mark.parametrize(
    ("words", "size"),
    [((), None), (("--cfg-parallel-size", "2"), 2), (("--enable-cfg-parallel",), 2),
     (("--enable-cfg-parallel", "--cfg-parallel-size", "2"), 2), (("--enable-cfg-parallel", "false"), None),
     (("--enable-cfg-parallel", "false", "--cfg-parallel-size", "1"), 1)],
)  # fmt: skip
def test_branches_of_guidance_have_two_flags(words, size):
    found = cache_flags._sources(values(*words), {})
    assert found.flags[BRANCHES] == size
    named = (
        "--enable-cfg-parallel" if "--enable-cfg-parallel" in words and "false" not in words else "--cfg-parallel-size"
    )
    assert found.spelling[BRANCHES] == named


@pytest.mark.parametrize(("enable", "size"), [("true", 1), ("false", 2), ("true", 3)])
def test_flags_of_branches_that_contradict_each_other(enable, size):
    message = f"--enable-cfg-parallel {enable} contradicts --cfg-parallel-size {size}; give only one of the two"
    with pytest.raises(Misuse, match=message):
        cache_flags._sources(values("--enable-cfg-parallel", enable, "--cfg-parallel-size", str(size)), {})


def test_every_flag_of_the_configuration_is_a_setting_under_its_name():
    words = (
        *("--enable-cache-dit", "--attention-backend", "flex", "--ulysses-degree", "2", "--ring-degree", "3"),
        *("--tp-size", "4", "--extra-parallel-modules", "vae", "--cache-dit-config", "c.yaml", "--lenient-config"),
    )
    found = cache_flags._sources(values(*words), {"mine": "--mine"})
    size = "parallelism_config."
    assert {path: value for path, value in found.flags.items() if value is not None} == {
        "enabled": True, "attention_backend": "flex", f"{size}ulysses_size": 2, f"{size}ring_size": 3,
        f"{size}tp_size": 4, f"{size}extra_parallel_modules": ("vae",),
    }  # fmt: skip
    assert (found.file, found.lenient, found.spelling["mine"]) == ("c.yaml", True, "--mine")
    assert found.spelling[f"{size}ulysses_size"] == "--ulysses-degree"
    assert cache_flags._sources(values(), {}).flags[f"{size}extra_parallel_modules"] is None


@pytest.mark.parametrize(
    ("words", "enabled"),
    [((), False), (("--enable-cache-dit",), True),
     (("--cache-dit-params", "{}", "--enable-cache-dit"), True),
     (("--cache-dit-params", "{}", "--enable-cache-dit", "false"), False),
     (("--cache-dit-params", '{"Fn_compute_blocks": 2}'), True)],
)  # fmt: skip
def test_parameters_of_a_run_switch_its_cache_on(words, enabled):
    assert cache_flags.settle(values(*words), {}, Facts()).enabled is enabled
    environ = {"SGLANG_CACHE_DIT_ENABLED": "true"}
    assert cache_flags.settle(values(*words), environ, Facts()).enabled is ("false" not in words)


def test_a_plan_is_a_configuration(monkeypatch):
    monkeypatch.setattr(cache_flags, "find_plan", lambda plan, found: f"folder/{plan}.yaml")
    assert planned(values("--seed", "3"), CHECKPOINT)["cache_dit_config"] is None
    found = planned(values("--plan", "fast", "--seed", "3"), CHECKPOINT)
    assert (found["cache_dit_config"], found["seed"]) == ("folder/fast.yaml", (3,))
    for other, named in (
        (("--cache-dit-config", "c.yaml"), "--cache-dit-config"),
        (("--enable-teacache",), "--enable-teac"),
    ):
        with pytest.raises(Misuse, match=f"(--plan and )?{named}.* both say which steps to compute; give only one"):
            planned(values("--plan", "fast", *other), CHECKPOINT)


# ------------------------------------------------------------------------------ comparisons


@pytest.mark.parametrize(
    ("flag", "words"), [("--compare", ("--compare",)), ("--plot", ("--plot", "a.png", "--compare"))]
)
def test_a_comparison_needs_a_cache_and_takes_the_default_one(monkeypatch, flag, words):
    needed: list[Any] = []
    monkeypatch.setattr(command_of, "require", lambda *each: needed.append(each))
    given = values(*words)
    caching, (note,) = command_of._caching(given, {}, Facts(), True)
    assert caching.enabled and needed == [("plot", flag)] and note.kind == "note"
    assert note.text.startswith(f"no cache is set, so {flag} takes the default one: dbcache(front=1, threshold=0.24")
    caching, notes = command_of._caching(values(*words, "--enable-cache-dit"), {}, Facts(), True)
    assert caching.enabled and notes == ()
    with pytest.raises(Misuse, match=f"{flag} compares with and without a cache; --enable-cache-dit false switches"):
        command_of._caching(values(*words, "--enable-cache-dit", "false"), {}, Facts(), True)
    needed.clear()
    caching, notes = command_of._caching(given, {}, Facts(), False)
    assert not caching.enabled and notes == () and needed == []


# ------------------------------------------------------------------------------ videos and sizes


def test_flags_of_videos_are_for_models_of_videos(monkeypatch):
    needed: list[Any] = []
    monkeypatch.setattr(command_of, "require", lambda *each: needed.append(each))
    scales: list[Any] = []
    checkpoint: Any = SimpleNamespace(
        video=False, name="FluxPipeline", check_expert_scale=lambda *each: scales.append(each)
    )
    command_of._check_video(values("--num-frames", "1", "--save-frames", "false"), checkpoint)
    for flag, word in (("--num-frames", "5"), ("--fps", "8"), ("--save-frames", "True")):
        with pytest.raises(Misuse, match=f"{flag} {word}: a FluxPipeline makes images, not videos; leave it out"):
            command_of._check_video(values(flag, word.lower()), checkpoint)
    assert not needed
    checkpoint.video = True
    command_of._check_video(values("--num-frames", "5", "--guidance-scale-2", "3"), checkpoint)
    assert needed == [("video", "a FluxPipeline makes videos, and that")] and scales[-1] == (3.0, "--guidance-scale-2")


def test_all_sizes_are_checked_with_the_frames(monkeypatch):
    asked: list[Any] = []
    checkpoint: Any = SimpleNamespace(
        found=SimpleNamespace(defaults=SimpleNamespace(longest=9)),
        check_pixels=lambda *each, **flag: asked.append((each, flag)),
    )
    given = values("--height", "8", "--width", "4", "--num-frames", "5")
    command_of._check_sizes(given, checkpoint, [(16, 32), (64, 128)])
    named = {"flag": "--warmup-resolutions"}
    assert asked == [((8, 4, 5), {}), ((16, 32, 5), named), ((64, 128, 5), named)]
    assert command_of.read_size("32X16") == (16, 32)
    for text in ("32", "32x", "0x16", "16385x16", "16x16385", "32x16x8"):
        with pytest.raises(
            Misuse, match=r"--warmup-resolutions .*: write WIDTHxHEIGHT, like 64x64, each side at most 16384"
        ):
            command_of.read_size(text)
    assert command_of.read_size("16384x1") == (1, 16384)


@pytest.mark.parametrize(
    ("words", "place"),
    [((), ("outputs/", None)), (("--output-path", "a", "--output-file-name", "b.png"), ("a", "b.png")),
     (("--output-file-path", "a/b.png"), ("a", "b.png")), (("--output-file-path", "b"), (".", "b"))],
)  # fmt: skip
def test_where_results_go(words, place):
    assert command_of._place(values(*words), False) == place


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--output-file-path", "a.png", "--output-file-name", "b.png"), "both name the image; give only one of the two"),
     (("--output-file-path", "a/"), "'a/' ends in a folder; add a file name, or use --output-path a/"),
     (("--output-file-path", "a/b.mp4"), "--output-file-path b.mp4: .mp4 is a video")],
)  # fmt: skip
def test_places_that_cannot_be(words, message):
    with pytest.raises(Misuse) as error:
        command_of._place(values(*words), False)
    assert message in error.value.message


def test_what_is_known_of_the_processes_of_a_run(monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(command_of, "count_processes", lambda *each: asked.append(each) or 12)
    checkpoint: Any = SimpleNamespace(facts=lambda *each: each)
    words = ("--num-gpus", "12", "--dp-size", "3", "--nnodes", "2", "--sp-degree", "4", "--num-inference-steps", "9")
    assert command_of.facts_of(values(*words), checkpoint, {"a": "b"}) == (9, 4, 4, 3)
    assert command_of.facts_of(values(), checkpoint, {}) == (None, 12, None, 1)
    assert asked == [(12, {"a": "b"}, 3, 2), (None, {}, 1, 1)]


# ------------------------------------------------------------------------------ modules that processes share


@attrs.frozen
class Codec:
    vae: Any


@attrs.frozen
class Loaded:
    codec: Codec
    encoders: Any


@pytest.mark.parametrize("names", [(), ("vae",), ("text_encoder",), ("vae", "text_encoder")])
def test_modules_are_shared_where_that_is_set_and_possible(monkeypatch, names):
    encoders = {
        "text_encoder": torch.nn.Linear(1, 1),
        "text_encoder_2": torch.nn.ReLU(),
        "text_encoder_3": torch.nn.Tanh(),
    }
    shardings = {"Linear": SimpleNamespace(heads=2), "Tanh": SimpleNamespace(heads=8)}
    monkeypatch.setattr(weights, "text_encoders", lambda pipeline: encoders)
    monkeypatch.setattr(weights, "with_text_encoders", lambda pipeline, parts: attrs.evolve(pipeline, encoders=parts))
    monkeypatch.setattr(weights, "with_autoencoder", lambda pipeline, vae: attrs.evolve(pipeline, codec=Codec(vae)))
    monkeypatch.setattr("pure.models.encoder_sharding", lambda one: shardings.get(type(one).__name__))
    monkeypatch.setattr("pure.distributed.mesh.companions", lambda mesh: 4)
    monkeypatch.setattr(weights, "group_size", lambda count, heads: min(count, heads))
    for module, name in (("tensor_parallel_module", "tensor_parallel_module"), ("row_parallel", "row_parallel")):
        monkeypatch.setattr(
            importlib.import_module(f"pure.distributed.{module}"), name, lambda one, *rest: ("part", one, *rest)
        )
    said: list[Any] = []
    mesh: Any = "mesh"
    pipeline: Any = Loaded(Codec("vae"), "whole")
    found: Any = weights.share_modules(pipeline, names, mesh, lambda *each: said.append(each))
    assert found.codec.vae == (("part", "vae", "mesh") if "vae" in names else "vae")
    if "text_encoder" not in names:
        assert found.encoders == "whole" and said == []
        return
    assert found.encoders == {
        name: ("part", encoders[name], shardings[kind], "mesh")
        for name, kind in (("text_encoder", "Linear"), ("text_encoder_3", "Tanh"))
    }
    begin = "extra_parallel_modules: text_encoder"
    assert said == [
        (f"{begin} is split over groups of 2 processes, which its 2 heads of keys allow", "note"),
        (f"{begin}_2 stays whole in every process, as a ReLU is not split", "note"),
    ]


def test_a_decoder_that_cannot_be_shared_stays_whole_and_says_why(monkeypatch):
    def fail(*_: Any) -> None:
        raise ValueError("it has no rows")

    monkeypatch.setattr(importlib.import_module("pure.distributed.row_parallel"), "row_parallel", fail)
    said: list[Any] = []
    pipeline: Any = Loaded(Codec("vae"), "whole")
    mesh: Any = "mesh"
    assert weights.share_modules(pipeline, ("vae",), mesh, lambda *each: said.append(each)) == pipeline
    assert said == [("extra_parallel_modules: vae has no effect: it has no rows", "note")]
