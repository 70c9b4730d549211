"""`puredit generate` from flags to files, on a tiny random checkpoint."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import pure
from pure.cli.main import run
from pure.models import Pipeline, load_pipeline
from pure.transforms import dbcache

FEW = ("--num-inference-steps", "4", "--max-sequence-length", "8")
SKIPPING = ("--cache-dit-params", '{"residual_diff_threshold": 1, "max_warmup_steps": 1}')


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_one_prompt_becomes_one_image(puredit, tmp_path):
    code, out, err = puredit("generate", "--prompt", "a red apple", *FEW[:2])
    assert code == 0, err
    (file,) = (tmp_path / "outputs").iterdir()
    assert file.name.startswith("a_red_apple_") and file.suffix == ".png"
    assert out.splitlines()[0] == f"outputs/{file.name}"
    assert "steps computed" in out and "4 of 4" in out
    assert err == "image ████ 4/4  4 computed  0 skipped\n"


def test_the_image_is_the_librarys(puredit, checkpoint, tmp_path):
    assert puredit("generate", "--prompt", "a", *FEW, *SKIPPING, "--output-file-path", "x/a.png")[0] == 0
    made = load_pipeline(checkpoint).generate(
        "a", steps=4, seed=42, max_sequence_length=8, transform=dbcache(threshold=1.0, warmup=1)
    )
    expected = (made.pixels[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(pixels(tmp_path / "x/a.png"), expected)


def test_prompts_seeds_and_outputs_multiply(puredit, tmp_path):
    (tmp_path / "prompts.txt").write_text("c\n\n  d \n")
    words = ("--prompt", "a", "b", "--seed", "1", "7", "--num-outputs", "2", "--prompt-file-path", "prompts.txt")
    code, _, err = puredit("generate", *words, *FEW, "--perf-dump-path", "perf.json")
    assert code == 0, err
    images = json.loads((tmp_path / "perf.json").read_text())["images"]
    assert [(image["prompt"], image["seed"]) for image in images] == [
        (prompt, seed) for prompt in "abcd" for seed in (1, 2, 7, 8)
    ]
    assert len({image["path"] for image in images}) == 16 == len(list((tmp_path / "outputs").iterdir()))


def test_an_image_does_not_depend_on_its_neighbours(puredit, tmp_path):
    assert puredit("generate", "--prompt", "a", "--seed", "1", "2", *FEW, "--output-path", "both")[0] == 0
    assert puredit("generate", "--prompt", "a", "--seed", "2", *FEW, "--output-path", "one")[0] == 0
    both = [pixels(path) for path in (tmp_path / "both").iterdir()]
    (one,) = [pixels(path) for path in (tmp_path / "one").iterdir()]
    assert sum(np.array_equal(image, one) for image in both) == 1


@pytest.mark.parametrize("words", [("--no-save-output",), ("--save-output", "false"), ("--output-path", "")])
def test_nothing_is_saved_where_nothing_should_be(puredit, tmp_path, words):
    assert puredit("generate", "--prompt", "a", *FEW, *words)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_sizes(puredit, tmp_path):
    words = ("--height", "16", "--width", "24", "--output-file-path", "a.webp")
    assert puredit("generate", "--prompt", "a", *FEW, *words)[0] == 0
    assert pixels(tmp_path / "a.webp").shape == (16, 24, 3)


def test_the_report_tells_every_decision(puredit, tmp_path):
    words = ("--true-cfg-scale", "2", "--negative-prompt", "b", "--perf-dump-path", "perf.json")
    code, out, err = puredit("generate", "--prompt", "a", *FEW, *SKIPPING, *words)
    assert code == 0, err
    read = json.loads((tmp_path / "perf.json").read_text())
    assert (read["computed_steps"], read["skipped_steps"]) == ([0], [1, 2, 3])
    assert read["branches"]["unconditional"]["skipped_steps"] == [1, 2, 3]
    decisions = read["images"][0]["decisions"]
    assert len(decisions) == 8
    assert decisions[-1]["reason"] == "threshold" and decisions[-1]["blocks"] == 1
    assert len(read["denoise_steps_ms"]) == 4 and read["total_duration_ms"] > 0
    assert read["settings"]["cache"].startswith("dbcache(front=1, threshold=1.0, warmup=1")
    assert "--cache-dit-params" in read["settings"]["cache_settings"]["residual_diff_threshold"]["origin"]
    assert "steps skipped (unconditional)" in out and "report: perf.json" in out


def test_compare_and_plot(puredit, tmp_path):
    code, out, err = puredit("generate", "--prompt", "a", *FEW, *SKIPPING, "--plot", "p/plot.png")
    assert code == 0, err
    assert pixels(tmp_path / "p/plot.png").shape[0] > 800
    cached, plain = sorted((tmp_path / "outputs").iterdir(), key=lambda path: "without-cache" in path.name)
    assert plain.name == f"{cached.stem}-without-cache.png"
    assert "time ratio" in out and "PSNR" in out and "SSIM" in out and "plot: p/plot.png" in out
    assert "image █░░░ 4/4  1 computed  3 skipped" in err
    assert "without cache ████ 4/4" in err
    assert puredit("generate", "--prompt", "a", *FEW, "--output-file-path", "alone.png")[0] == 0
    assert np.array_equal(pixels(plain), pixels(tmp_path / "alone.png"))


def test_a_comparison_without_a_cache_takes_the_default(puredit):
    code, _, err = puredit("generate", "--prompt", "a", *FEW, "--compare")
    assert code == 0
    assert "note: no cache is set, so --compare takes the default one: dbcache(front=1, threshold=0.24" in err
    assert "warning: nothing will be skipped: warm-up computes every one of 4 steps" in err
    assert "no step was skipped" not in err, "once is enough"


@pytest.mark.parametrize("size", [1, 3, 5])
def test_images_are_made_in_batches(puredit, tmp_path, size):
    words = ("--prompt", "a", "bb", "--seed", "1", "2", *FEW, *SKIPPING)
    code, out, err = puredit("generate", *words, "--batch-size", size, "--output-path", "batches")
    assert code == 0, err
    counts = {"image 1 of 4": 1, "image 4 of 4": 1, "images 1 to 3 of 4": 3, "images 1 to 4 of 4": 4}
    titles = {1: ["image 1 of 4"], 3: ["images 1 to 3 of 4", "image 4 of 4"], 5: ["images 1 to 4 of 4"]}[size]
    for title in titles:
        assert f"{title} █░░░ 4/4  {counts[title]} computed  {3 * counts[title]} skipped" in err
    assert err.count("4/4") == -(-4 // size) and "4 images" in out
    for number, (prompt, seed) in enumerate([("a", 1), ("a", 2), ("bb", 1), ("bb", 2)]):
        path = f"one-{number}.png"
        assert (
            puredit("generate", "--prompt", prompt, "--seed", seed, *FEW, *SKIPPING, "--output-file-path", path)[0] == 0
        )
        alone, (file,) = pixels(tmp_path / path), [out.splitlines()[number]]
        # Matrices of other heights are rounded otherwise: 1e-5, which may be one level of 255.
        assert np.abs(pixels(tmp_path / file).astype(int) - alone).max() <= 1


def test_a_picture_that_is_not_finite_fails_and_the_others_are_saved(puredit, tmp_path, monkeypatch):
    """Latents that overflow would be a black picture."""
    real = Pipeline.noise

    def noise(self, request, seed):
        found = real(self, request, seed)
        rows = [row for row, each in enumerate(seed) if each == 2]
        return found.index_fill(0, torch.tensor(rows, dtype=torch.int64), float("inf"))

    monkeypatch.setattr(Pipeline, "noise", noise)
    words = ("--prompt", "a dog", "--seed", "1", "2", "3", *FEW, "--perf-dump-path", "perf.json")
    for more in (("--batch-size", "3"), ("--batch-size", "1"), SKIPPING):
        code, out, err = puredit("generate", *words, *more, "--output-path", more[1][-1])
        assert code == 1
        assert "error: 'a dog' with seed 2 is not finite from step 1 of 4 on (infinite or NaN)" in err
        assert "raise the threshold" not in err and "Traceback" not in err
        assert len(list((tmp_path / more[1][-1]).iterdir())) == 2 and "2 images" in out
        images = json.loads((tmp_path / "perf.json").read_text())["images"]
        assert [image["seed"] for image in images] == [1, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seed", 2**63), f"'{2**63}' is not a whole number of at least 0; at most {2**63 - 1}"),
        (
            ("--seed", 2**63 - 1, "--num-outputs", 2),
            f"--num-outputs-per-prompt: 2 seeds from {2**63 - 1} on go beyond 2**63 - 1; begin at {2**63 - 2} or below",
        ),
        (("--height", 100_000, "--width", 100_000), "'100000' is not a whole number from 1 to 16384"),
        (("--num-inference-steps", 10**9), "10000"),
        (("--guidance-scale", "1e308"), "is not a finite number of at least 0 and at most 1000"),
        (("--batch-size", 0), "--batch-size"),
    ],
)
def test_numbers_out_of_range(puredit, tmp_path, words, message):
    code, out, err = puredit("generate", "--prompt", "a", *words)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_environment_switches_the_cache_on(puredit, monkeypatch, tmp_path):
    monkeypatch.setenv("SGLANG_CACHE_DIT_ENABLED", "true")
    monkeypatch.setenv("SGLANG_CACHE_DIT_RDT", "1")
    monkeypatch.setenv("SGLANG_CACHE_DIT_WARMUP", "2")
    assert "2 computed  2 skipped" in puredit("generate", "--prompt", "a", *FEW)[2]
    code, _, err = puredit("generate", "--prompt", "a", *FEW, "--enable-cache-dit", "false")
    assert code == 0 and "4 computed  0 skipped" in err


def test_files_of_flags_and_their_precedence(puredit, tmp_path):
    (tmp_path / "run.yaml").write_text("prompt: a\nnum_inference_steps: 3\nseed: [5, 6]\noutput_path: here\n")
    code, _, err = puredit("generate", "--config", "run.yaml", "--seed", "9", *FEW[2:])
    assert code == 0, err
    assert "3/3" in err and len(list((tmp_path / "here").iterdir())) == 1
    (tmp_path / "run.yaml").write_text("prompt: a\nheight: tall\n")
    code, _, err = puredit("generate", "--config", "run.yaml")
    assert code == 2 and "run.yaml" in err and "--height" in err and "'tall'" in err


def test_warming_up_changes_nothing(puredit, tmp_path):
    for name, words in {"a": (), "b": ("--warmup", "--warmup-steps", "3", "--warmup-resolutions", "16x24")}.items():
        assert (
            puredit("generate", "--prompt", "a", *FEW, *SKIPPING, *words, "--output-file-path", f"{name}.png")[0] == 0
        )
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_a_quiet_run_prints_the_file_only(puredit, tmp_path):
    code, out, err = puredit("generate", "--prompt", "a", *FEW, "--log-level", "warning", "--output-file-path", "a.jpg")
    assert (code, out, err) == (0, "a.jpg\n", "")


def test_a_flag_without_effect_is_said(puredit, checkpoint, tmp_path):
    from tests.support import tiny

    tiny.pipeline(guidance_embeds=False).save_pretrained(tmp_path / "schnell")
    code, _, err = puredit("generate", "--prompt", "a", *FEW[2:], "--guidance-scale", "5", model=tmp_path / "schnell")
    assert code == 0 and "4/4" in err
    assert "warning: guidance_scale=5.0 has no effect: this checkpoint embeds none; set true_cfg_scale" in err
    code, _, err = puredit("generate", "--prompt", "a", *FEW, "--negative-prompt", "b")
    assert code == 0 and "warning: the negative prompt has no effect: set true_cfg_scale above 1" in err


def test_a_cut_prompt_is_said_once_whatever_the_batches_and_seeds(puredit):
    words = ("--prompt", "a", "b" * 20, "--seed", "1", "2", *FEW, "--num-inference-steps", "1")
    for size in (1, 4):
        code, _, err = puredit("generate", *words, "--batch-size", size)
        said = [line for line in err.splitlines() if line.startswith("warning: ")]
        assert code == 0 and len(said) == 1
        assert said[0].startswith(f"warning: the text embedding (T5) reads 8 tokens and the prompt '{'b' * 20}' has ")


def test_what_is_known_of_the_configuration_is_shown(puredit, tmp_path):
    code, out, _ = puredit("config", "--reference")
    assert code == 0 and "`residual_diff_threshold`" in out and "`SGLANG_CACHE_DIT_RDT`" in out
    (tmp_path / "run.yaml").write_text("seed: 3\n")
    words = ("--config", "run.yaml", "--cache-dit-config", "cache.yaml", "--height", "64")
    code, out, _ = puredit("config", "--show", *words)
    assert code == 0
    found = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines() if len(line.split()) > 2}
    assert found["cache_config.residual_diff_threshold"][0] == "0.12"
    assert found["cache_config.residual_diff_threshold"][1].startswith("file cache.yaml:8:28")
    assert [word.strip() for word in found["height"]] == ["64", "flag --height"]
    assert [word.strip() for word in found["seed"]] == ["3", "file run.yaml"]
    assert [word.strip() for word in found["num_inference_steps"]] == ["28", "model default"]
    assert puredit("config")[0] == 2


@pytest.mark.parametrize("words", [("--help",), ("generate", "--help"), ("-h",), ()])
def test_help(puredit, words):
    code, out, _ = puredit(*words, model=None)
    assert code == 0 and "Usage: puredit" in out


def test_version(capsys):
    assert run(["--version"]) == 0
    assert pure.__version__ in capsys.readouterr().out
