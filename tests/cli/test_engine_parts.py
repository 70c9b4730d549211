"""Parts of the engine without a model: what recipes, reports and processes are made of, each at its borders."""

import errno
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image, JpegImagePlugin

import pure
from pure import Decision, Info
from pure.configs import Facts, load_text, resolve
from pure.distributed import Sizes as MeshSizes
from pure.engine import libraries, quantizing, ranks, tuned, writing
from pure.engine.caching import Caching, Sources, recipe, threshold_of, transforms_of
from pure.engine.checkpoint import Checkpoint
from pure.engine.engine import Engine, Order
from pure.engine.errors import Misuse, Stopping
from pure.engine.export import _fingerprint
from pure.engine.report import finite, run_report
from pure.engine.result import Result
from pure.engine.sample import Sample
from pure.engine.saving import encode_image
from pure.engine.unsupported import Refusal
from pure.experts import Experts
from pure.models.common.sizes import AllowedSizes
from pure.notes import Note
from pure.statistics import quantiles, tally
from pure.testing import toys
from pure.transforms import calibrated, dbcache, scm

# ------------------------------------------------------------------------------ recipes


class Pipeline:
    """Makes videos of 1, 5, 9, ... frames; takes no pictures."""

    def request(self, prompt: str, negative: str | None, **options: Any) -> Any:
        if options.get("frames", 1) % 4 != 1:
            raise ValueError(f"frames={options['frames']} is not possible")
        return SimpleNamespace(options=options, notes=(Note("of the request"),), negative=negative)

    def guide(self, base: Any, request: Any) -> Any:
        if request.options.get("width") == 10**9:
            raise OverflowError("too large")
        return base, request

    def schedule(self, request: Any) -> Any:
        return pure.FlowMatchEuler().schedule(4)


def engine(**defaults: Any) -> Engine:
    found: Any = SimpleNamespace(
        defaults=SimpleNamespace(fps=8, steps=4, **defaults),
        kind=SimpleNamespace(pipeline="WanPipeline", task="text-to-video"),
        transformers=("transformer",),
        sizes=AllowedSizes(height=8, width=8, frames=4, numbers=64),
        image_count=(0, 1),
    )
    pipeline: Any = Pipeline()
    return Engine(checkpoint=Checkpoint(path=None, found=found), pipeline=pipeline, base=toys.random_denoiser())


def made(order: Order, **settings: Any) -> Any:
    return engine().recipe(order, Caching.of(resolve(facts=Facts(), **settings)))


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"), [(1.0, None, 5), (1.0, 9, 9), (0.01, None, 1), (2.0, None, 13), (1.1, 8, 9)]
)
def test_seconds_are_the_nearest_number_of_frames_that_is_not_more(seconds, fps, frames):
    found = made(Order(seconds=seconds, fps=fps))
    assert found.request.options["frames"] == frames and found.fps == (fps or 8)
    assert made(Order(seconds=seconds, fps=fps, options={"frames": 17})).request.options["frames"] == 17


def test_a_recipe_has_the_notes_of_all_it_is_made_of():
    file = load_text("cache_config: {Fn_compute_blocks: 1, max_warmup_steps: 9, enable_separate_cfg: true}", "c.yaml")
    found = made(Order(notes=(Note("of a picture"),) * 2), file=file)
    texts = [note.text for note in found.notes]
    assert (found.notes[0].kind, found.notes[1].kind) == ("note", "warning")
    assert texts[1:3] == ["of a picture", "of the request"] and "enable_separate_cfg has no effect" in texts[0]
    assert [note.text for note in found.idle] == texts[3:] and "nothing will be skipped" in texts[3]
    assert found.plain is found.uncached.denoiser and found.denoiser != found.plain
    base: Any = engine().base
    whole = len(base.blocks)
    found = made(Order(), file=load_text(f"cache_config: {{Fn_compute_blocks: {whole}, max_warmup_steps: 0}}"))
    assert any(note.text.startswith("no block is left to skip: the first") for note in found.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 4}, "frames=4 is not possible"),
        ({"width": 10**9}, "too large"),
        ({"images": (1, 2)}, "a WanPipeline reads 0 to 1 input pictures; this request has 2"),
        ({"guidance_scale_2": 0.0}, "guidance_scale_2 is for the second expert of a model, and this one has one"),
    ],
)
def test_what_cannot_be_made_is_a_mistake_of_the_order(options, message):
    with pytest.raises(Misuse, match=message):
        made(Order(options=options))


@attrs.frozen
class Prompts:
    """The part of a request that a batch changes."""

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...] | None


@pytest.mark.parametrize(("negative", "several"), [(None, None), (("b",), ("b", "b"))])
def test_a_batch_has_a_negative_prompt_for_every_prompt(negative, several):
    found = attrs.evolve(made(Order()), request=Prompts(("",), negative))
    assert found.of(["x", "y"]) == Prompts(("x", "y"), several)


def test_frames_per_second_are_those_that_are_given():
    checkpoint = engine().checkpoint
    assert (checkpoint.fps(None), checkpoint.fps(3)) == (8, 3)
    still: Any = SimpleNamespace(kind=SimpleNamespace(task="text-to-image"), defaults=None)
    assert attrs.evolve(checkpoint, found=still).fps(3) is None


def test_latents_of_all_frames_are_counted():
    checkpoint = engine(height=64, width=2048, frames=5).checkpoint
    checkpoint.check_pixels(4096, 4096, 1)
    checkpoint.check_pixels(4096, None, 5)
    with pytest.raises(Misuse, match="4096 x 4096 x 5 pixels are latents of 33,554,432 numbers, the most are 16,777,"):
        checkpoint.check_pixels(4096, 4096, None)
    with pytest.raises(Misuse, match="--height 4096: 2048 x 4096 x 9 pixels are latents of 25,165,824 numbers"):
        checkpoint.check_pixels(4096, None, 9)


# ------------------------------------------------------------------------------ caches


TWO = "cache_config: {Fn_compute_blocks: 2}\nsecondary: {cache_config: {Fn_compute_blocks: 3}}"


def test_settings_and_transforms_of_two_experts():
    caching = Caching.of(resolve(file=load_text(TWO, "c.yaml"), facts=Facts(experts=2)))
    assert caching.settings["Fn_compute_blocks"] == {"value": 2, "origin": "file c.yaml:1:35"}
    one, two = caching.transform, caching.secondary
    assert (one, two) == tuple(dbcache(front=front, threshold=0.08, warmup=8, max_continuous=None) for front in (2, 3))
    plain = toys.random_denoiser()
    both = Experts({"high": dbcache(threshold=0.1)(plain), "low": dbcache(threshold=0.2)(plain)})
    assert transforms_of(caching, both) == {"high": one, "low": two} and transforms_of(caching, plain) == one
    assert threshold_of(both) == 0.1 and threshold_of(plain) is None


def test_a_request_chooses_its_attention_over_a_flag():
    sources = Sources(flags={"attention_backend": "native", "enabled": True}, spelling={})
    found = sources.settle({}, Facts(steps=7), None, None, "flex")
    assert (found.attention_backend, found.enabled, found.facts.steps) == ("flex", True, 7)
    assert sources.settle({}, Facts()).attention_backend == "native"
    assert recipe(pure.identity) == "no cache"


def test_a_mask_is_written_as_text_and_a_long_table_by_its_rows():
    rows = tuple(((0,), target, (1.0,)) for target in range(1, 30))
    made = pure.compose(dbcache(threshold=0.5), scm(mask=(1, 0, 1)), calibrated(table=rows))
    found = recipe(made)
    assert (
        "scm(mask='101'" in found
        and "calibrated(order=1, table=<29 rows>" in found
        and "dbcache(front=1, threshold=0.5" in found
    )
    assert "table=(((0,), 1, (1.0,)),)" in recipe(calibrated(table=rows[:1]))


# ------------------------------------------------------------------------------ processes


def test_processes_are_noted_by_their_axes():
    assert ranks.notes_on(MeshSizes(), "cpu") == ()
    (note,) = ranks.notes_on(MeshSizes(ring=2, tp=3), "cpu")
    assert (note.text, note.kind) == ("6 processes on the CPU, as there is no GPU: ring 2 x tp 3", "note")
    assert ranks.notes_on(MeshSizes(cfg=2), "cuda")[0].text == "2 processes on a GPU each: cfg 2"


LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_launcher_is_all_of_its_variables():
    assert ranks.count_processes(None, LAUNCHED) == ranks.count_processes(2, LAUNCHED) == 2
    assert ranks.count_processes(3, {}) == 3 and ranks.count_processes(None, {}) == 1
    for name in LAUNCHED:
        assert ranks.count_processes(None, {k: v for k, v in LAUNCHED.items() if k != name}) == 1
    for wanted in (1, 3):
        with pytest.raises(Misuse, match=f"--num-gpus {wanted}: the launcher started 2 processes"):
            ranks.count_processes(wanted, LAUNCHED)
    for name in ("RANK", "WORLD_SIZE"):
        with pytest.raises(Misuse, match=f"environment {name}='a' is no number"):
            ranks.count_processes(None, {**LAUNCHED, name: "a"})
    assert not ranks.is_follower({**LAUNCHED, "RANK": "a"}) and not ranks.is_follower({**LAUNCHED, "RANK": "0"})


@pytest.mark.parametrize(("rank", "printed"), [(0, "lead mesh\n"), (1, "")])
def test_the_first_rank_leads_and_the_others_print_nothing(monkeypatch, capsys, rank, printed):
    monkeypatch.setattr("pure.distributed.mesh.make_mesh", lambda sizes, device: "mesh")
    monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
    followed: list[Any] = []

    def follow(payload: Any, mesh: Any) -> None:
        followed.append((payload, mesh))
        print("follow")

    def lead(payload: Any, mesh: Any) -> None:
        print(payload, mesh)

    ranks._rank("lead", MeshSizes(), lead, follow, "cpu")
    assert capsys.readouterr().out == printed and followed == [("lead", "mesh")] * rank


# ------------------------------------------------------------------------------ what is told


@pytest.mark.parametrize("verbose", [False, True])
def test_what_became_of_the_weights_is_told(monkeypatch, verbose):
    one, two = (
        SimpleNamespace(expert="low", name="q", kind="int8", reason=""),
        SimpleNamespace(expert="", name="out", kind="", reason="it is outside of the blocks"),
    )
    monkeypatch.setattr("pure.transforms.quantize", lambda *_: {"q": torch.ones(250_000, dtype=torch.int8)})
    monkeypatch.setattr("pure.transforms.survey", lambda *_: (one, two))
    said: list[Any] = []
    settings: Any = None
    quantise = quantizing.Quantizer(
        denoiser=toys.random_denoiser(), settings=settings, verbose=verbose, say=lambda *each: said.append(each)
    )
    assert quantise({"q": torch.ones(250_000)})["q"].dtype == torch.int8
    whole = "quantised 1 of 2 layers (int8: 1): 1.0 MB of weights are 0.2 MB; 1 stays: it is outside of the blocks"
    lines = ["low: q: int8", "out: stays (it is outside of the blocks)"] if verbose else []
    assert said == [(text, "note") for text in (whole, *lines)]


def test_a_change_of_nothing_is_a_change():
    decisions = [Decision(0, True, "first", None, 6), Decision(1, False, "threshold", 0.0, 1)]
    found = tally([Info((each,)) for each in decisions])[decisions[0].branch]
    assert (found.changes, found.computed, found.skipped) == ((0.0,), (0,), (1,))
    assert (found.blocks_run, found.blocks, found.limit) == (7, 12, 12 / 7)
    assert quantiles([0.0, 1.0]) == (0.0, 0.25, 0.5, 0.75, 1.0) and quantiles([]) is None


def test_the_times_of_a_report_are_milliseconds():
    frames = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1).repeat(3, axis=3)
    info = Info((Decision(0, True, "first", None, 6),))
    sample = Sample(prompt="a", seed=1)
    made = Result(
        sample=sample, frames=frames, infos=(info,), step_seconds=(0.5,), encode_seconds=0.25, decode_seconds=2.0
    )
    found = run_report(made)
    assert found["stages_ms"] == {"encode": 250.0, "denoise": 500.0, "decode": 2000.0}
    assert found["duration_ms"] == 2750.0 and found["denoise_steps_ms"] == [{"step": 0, "duration_ms": 500.0}]


def test_a_fingerprint_reads_names_shapes_and_numbers():
    params = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}
    others: list[dict[str, torch.Tensor]] = [
        {"a": torch.zeros(3, 2), "b": torch.zeros(2, 3)},
        {"a": torch.zeros(2, 3), "c": torch.zeros(2, 3)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([[0.0, 0, 0], [0, 0, 1]])},
    ]
    assert _fingerprint(dict(reversed(params.items()))) == _fingerprint(params)
    assert len({_fingerprint(each) for each in (params, *others)}) == 4


def test_decisions_of_experts_are_reported_by_expert():
    decision = Decision(0, True, "first", None, 6)
    infos = (Info((decision, attrs.evolve(decision, expert="low", branch="b", change=0.5, computed=False))),)
    made = Result(sample=Sample(prompt="a", seed=1), frames=np.zeros((1, 1, 1, 3)), infos=infos, step_seconds=(0.5,))
    one, other = run_report(made)["decisions"]
    assert "expert" not in one and (one["step"], one["computed"], one["change"]) == (0, True, None)
    assert (other["expert"], other["branch"], other["change"], other["computed"]) == ("low", "b", 0.5, False)


EMBEDDING = "time_text_embed.guidance_embedder.linear_1.weight"


@pytest.mark.parametrize(
    ("guidance", "params", "scale"),
    [
        (SimpleNamespace(scale=4.0), {}, 4.0),
        (None, {EMBEDDING: 0}, 3.5),
        (None, {"high": {EMBEDDING: 0}, "low": {}}, 3.5),
        (None, {"high": {"x": 0}}, None),
    ],
    ids=["guided", "embedded", "embedded by an expert", "not read"],
)
def test_a_plan_is_made_for_the_guidance_of_the_run(monkeypatch, guidance, params, scale):
    monkeypatch.setattr(tuned, "guidance_of", lambda denoiser: guidance)
    monkeypatch.setattr(tuned, "fingerprint", lambda pipeline: "abc")
    solver = pure.FlowMatchEuler()
    pipeline: Any = SimpleNamespace(
        solver=solver,
        schedule=lambda request: solver.schedule(4),
        params=params,
        scale=lambda request, name: {"guidance_scale": 3.5}[name],
    )
    request: Any = SimpleNamespace(height=32, width=64, frames=5)
    denoiser: Any = None
    found = tuned.made_for(pipeline, denoiser, request)
    assert (found.model, found.steps, found.height, found.width, found.frames) == ("abc", 4, 32, 64, 5)
    assert (found.guidance, found.solver) == (scale, "FlowMatchEuler, 1.0000 to 0.2500")
    (note,) = tuned.misfits(attrs.evolve(found, guidance=1.5, height=64), found)
    assert f"guidance 1.5, not {scale or 'none'}, 64 x 64 x 5 frames pixels, not 64 x 32 x 5 frames;" in note.text


def test_what_json_cannot_say_is_named():
    given = {1: [float("nan"), float("-inf"), 0, None, "", False], "path": Path("a")}
    assert finite(given) == {"1": ["nan", "-inf", 0, None, "", False], "path": "a"}


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOTDIR, "a part of the path is a file; choose another folder"),
        (errno.ENOSPC, "free some space or choose another folder"),
        (errno.EDQUOT, "free some space or choose another folder"),
        *((each, "choose a folder you may write to") for each in (errno.EROFS, errno.EACCES, errno.EPERM)),
        (errno.EEXIST, "there is a file of that name; choose another folder"),
        (errno.EISDIR, "there is a folder of that name; choose another file name"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.ENOENT, "choose a folder that can be made"),
    ],
)
def test_why_a_file_could_not_be_written(number, cure):
    found = writing.explain("write", Path("a.png"), OSError(number, "no"))
    assert (found.message, found.code) == (f"cannot write a.png: no; {cure}", "storage_failed")


def test_words_and_codes_of_errors():
    assert Stopping().code == "shutting_down"

    assert [Refusal("no", nothing=()).refuses(value) for value in (None, False, 0, 0.0, "", ())] == [False] + [True] * 5
    assert not Refusal("no").refuses(None) and not Refusal("no").refuses(False) and Refusal("no").refuses(0.5)


def test_pixels_are_rounded_and_the_quality_holds():
    shade = np.full((8, 8, 3), 0.999, dtype=np.float32)
    with Image.open(io.BytesIO(encode_image(shade, "PNG", 3))) as opened:
        assert opened.getpixel((0, 0)) == (255, 255, 255)
    noise = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    with Image.open(io.BytesIO(encode_image(noise, "JPEG"))) as opened:
        assert JpegImagePlugin.get_sampling(opened) == 0, "colours are kept for every pixel"
    assert encode_image(noise, "JPEG", 0) != encode_image(noise, "JPEG") == encode_image(noise, "JPEG", 95)
    sizes = [len(encode_image(noise, "JPEG", quality)) for quality in (5, 50, None, 100)]
    assert sizes == sorted(set(sizes))


def test_libraries_show_neither_bars_nor_advice(monkeypatch):
    calls: list[str] = []
    for library in ("diffusers", "transformers"):
        for name in ("set_verbosity_error", "disable_progress_bar"):
            monkeypatch.setattr(f"{library}.utils.logging.{name}", lambda name=f"{library} {name}": calls.append(name))
    monkeypatch.setattr(libraries, "quiet_imports", lambda: calls.append("imports"))
    libraries.quiet_libraries()
    quieted = [
        f"{one} {name}"
        for one in ("diffusers", "transformers")
        for name in ("set_verbosity_error", "disable_progress_bar")
    ]
    assert calls == ["imports", *quieted]
