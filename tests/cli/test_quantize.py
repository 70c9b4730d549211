"""`quantize_config` on the command line."""

import importlib.util
import io
import re

import numpy as np
import pytest
import rich.console
from PIL import Image

from pure.cli.screen import Screen
from pure.configs import Facts, load_text, resolve
from pure.engine.quantizing import quantizer
from pure.transforms.quantize.kinds import KINDS
from tests.support.flux import FLUX_DEV
from tests.support.wan import WAN_EXPERTS

SHORT = ("--prompt", "a red apple", "--num-inference-steps", "2", "--output-file-name", "image.png")
PAGE = "quantize_config: {quant_type: float8, exclude_layers: [embedder, embed], verbose: false}"


@pytest.fixture
def written(tmp_path):
    """Write a configuration; return its path."""

    def write(text):
        path = tmp_path / "q.yaml"
        path.write_text(text)
        return path

    return write


def pixels(tmp_path):
    with Image.open(tmp_path / "outputs" / "image.png") as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["quantize.yaml", "combined.yaml"])
def test_the_files_of_the_page(puredit, tmp_path, name):
    code, _, err = puredit("generate", *SHORT, "--cache-dit-config", name)
    assert code == 0, err
    assert "quantised 52 of 62 layers (float8_per_row: 52): " in err and "; 10 stay: it is outside of the blocks" in err
    assert "UserWarning" not in err and "warning: " not in err.replace("warning: a cache is set", "")
    assert pixels(tmp_path).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_a_slightly_different_picture(puredit, tmp_path, written, kind):
    code, _, err = puredit("generate", *SHORT)
    exact = pixels(tmp_path)
    code, _, err = puredit(
        "generate", *SHORT, "--cache-dit-config", written(f"quantize_config: {{quant_type: {kind}}}")
    )
    assert code == 0, err
    assert 0 < np.abs(pixels(tmp_path) - exact).max() < 40
    if kind == "float8_per_block":
        assert "(float8_per_tensor: 52)" in err, "the tiny model has no blocks of 128 x 128"


def test_verbose_lists_every_layer(puredit, written):
    text = "quantize_config: {quant_type: int8_weight_only, exclude_layers: [to_q], verbose: true}"
    code, _, err = puredit("generate", *SHORT, "--cache-dit-config", written(text))
    assert code == 0
    assert "note: transformer_blocks.0.attn.to_k: int8_weight_only\n" in err
    assert "note: transformer_blocks.0.attn.to_q: stays (its name contains 'to_q')\n" in err
    assert "note: proj_out: stays (it is outside of the blocks)\n" in err


def test_quiet_says_nothing(puredit, written):
    code, out, err = puredit("generate", *SHORT, "--cache-dit-config", written(PAGE), "--log-level", "error")
    assert (code, err) == (0, "") and out.strip().endswith("image.png")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("quant_type: svdq_int4_r32", "SVDQuant, which calibrates on prompts, is not implemented"),
        ("quant_type: nvfp4", "nvfp4 needs kernels of the newest GPUs"),
        ("components_to_quantize: [text_encoder]", "text_encoder is a module of another library"),
        ("components_to_quantize: [transformer_2]", "the model has no transformer_2"),
        ("quant_type: flaot8", "did you mean float8?"),
    ],
)
def test_what_cannot_be_is_refused_before_loading(puredit, unloaded, written, keys, words):
    code, out, err = puredit("generate", *SHORT, "--cache-dit-config", written(f"quantize_config: {{{keys}}}"))
    assert (code, out) == (2, "") and words in err


def test_without_the_extra(puredit, unloaded, written, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torchao" else found(name, *rest)
    )
    code, out, err = puredit("generate", *SHORT, "--cache-dit-config", written(PAGE))
    assert (code, out) == (2, "") and "torchao is not installed; pip install 'puredit[quant]'" in err


def test_nothing_left_to_quantise(puredit, written):
    text = "quantize_config: {exclude_layers: [transformer_blocks]}"
    code, out, err = puredit("generate", *SHORT, "--cache-dit-config", written(text))
    assert (code, out) == (2, "")
    assert "quantize_config: nothing would be quantised: it is outside of the blocks; its name contains" in err


def made(text, denoiser, experts):
    notes = io.StringIO()
    screen = Screen(rich.console.Console(file=io.StringIO()), rich.console.Console(file=notes, width=500))
    effective = resolve(file=load_text(text, "q.yaml"), facts=Facts(experts=experts))
    return quantizer(effective, denoiser, screen.note), notes


def test_no_section_no_quantizer():
    assert made("cache_config: {Fn_compute_blocks: 1}", FLUX_DEV.denoiser, 1)[0] is None


@pytest.mark.parametrize(
    ("components", "counts"), [("[transformer, transformer_2]", (40, 40)), ("[transformer_2]", (0, 40))]
)
def test_components_are_the_experts_in_their_order(components, counts):
    text = f"quantize_config: {{quant_type: int8_weight_only, components_to_quantize: {components}, verbose: true}}"
    quantize, notes = made(text, WAN_EXPERTS.denoiser, 2)
    assert quantize is not None
    params = quantize(WAN_EXPERTS.params)
    plain = [
        sum(tensor is WAN_EXPERTS.params[name][key] for key, tensor in part.items()) for name, part in params.items()
    ]
    total = [len(part) for part in params.values()]
    assert tuple(all_ - same for all_, same in zip(total, plain, strict=True)) == counts
    assert f"quantised {sum(counts)} of " in notes.getvalue() and "note: low: blocks.0." in notes.getvalue()
    assert ("note: high: blocks.0." in notes.getvalue()) == (counts[0] > 0)


@pytest.mark.slow
def test_every_process_quantises_its_part(puredit, tmp_path, written):
    """Of a weight whose inputs are split the scales belong to parts of a row: nearly the same picture."""
    config = written("parallelism_config: {tp_size: auto}\nquantize_config: {quant_type: int8_weight_only}")
    found, sizes = [], []
    for processes in (1, 2):
        code, _, err = puredit("generate", *SHORT, "--cache-dit-config", config, "--num-gpus", processes)
        assert code == 0, err
        found.append(pixels(tmp_path))
        sizes.append(re.search(r"quantised 52 of 62 layers .*: ([0-9.]+) MB of weights are ([0-9.]+) MB", err))
    assert np.abs(found[0] - found[1]).max() < 10
    (whole, _), (part, quantised) = ([float(size) for size in each.groups()] for each in sizes)
    assert part < 0.7 * whole and quantised < 0.6 * part
