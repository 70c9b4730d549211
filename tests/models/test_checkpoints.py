"""Checkpoints as the world stores them: variants, caches, pickles, other names; and what their errors say."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from pure.models import CheckpointError, convert_pickles, load_pipeline
from pure.models.checkpoint import loading
from tests.support import tiny

STEM = {"text_encoder": "model", "text_encoder_2": "model"}
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
SIZES = {False: "5GB", True: "60KB"}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "flux"
    tiny.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "flux"))


@pytest.fixture
def light(monkeypatch) -> None:
    """Fail when anything heavy is loaded: every check comes before that."""

    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded before the checkpoint was checked")

    monkeypatch.setattr(loading, "_model", refuse)
    monkeypatch.setattr(loading, "read_weights", refuse)


def weights(folder: Path, part: str = "transformer") -> Path:
    return folder / part / f"{STEM.get(part, 'diffusion_pytorch_model')}.safetensors"


def change(file: Path, rename=lambda name: name, **more: torch.Tensor) -> None:
    tensors = {rename(name): tensor for name, tensor in load_file(file).items()}
    save_file({**tensors, **more}, file, metadata={"format": "pt"})


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def tensors_of(pipeline: Any) -> dict[str, torch.Tensor]:
    """Every weight of a pipeline of ours or of diffusers, by component and name."""
    ours = not hasattr(pipeline, "transformer")
    parts = {
        "transformer": pipeline.params if ours else pipeline.transformer.state_dict(),
        "vae": (pipeline.codec.vae if ours else pipeline.vae).state_dict(),
        "text_encoder": (pipeline.reader.text_encoder if ours else pipeline.text_encoder).state_dict(),
        "text_encoder_2": (pipeline.reader.text_encoder_2 if ours else pipeline.text_encoder_2).state_dict(),
    }
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def assert_same(ours: Any, theirs: Any) -> None:
    one, other = tensors_of(ours), tensors_of(theirs)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def with_variants(folder: Path, *variants: str | None, sharded: bool = False) -> None:
    """Save one pipeline under each variant, with weights that tell them apart."""
    for number, variant in enumerate(variants):
        made = tiny.pipeline()
        for part in PARTS:
            with torch.no_grad():
                for tensor in getattr(made, part).parameters():
                    tensor.mul_(1 + number / 4)
        made.save_pretrained(folder, variant=variant, max_shard_size=SIZES[sharded])


@pytest.mark.parametrize("sharded", [False, True])
def test_the_only_variant_is_read(tmp_path, sharded):
    with_variants(tmp_path / "flux", "fp16", sharded=sharded)
    names = {file.name for file in (tmp_path / "flux" / "transformer").iterdir()}
    assert ("diffusion_pytorch_model.safetensors.index.fp16.json" in names) is sharded
    theirs = FluxPipeline.from_pretrained(tmp_path / "flux", variant="fp16")
    for chosen in (None, "fp16"):
        assert_same(load_pipeline(tmp_path / "flux", variant=chosen), theirs)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_variant_is_chosen(tmp_path, sharded):
    with_variants(tmp_path / "flux", None, "fp16", "bf16", sharded=sharded)
    for chosen in (None, "fp16", "bf16"):
        ours = load_pipeline(tmp_path / "flux", variant=chosen)
        assert_same(ours, FluxPipeline.from_pretrained(tmp_path / "flux", variant=chosen))


def test_a_component_without_the_variant_has_its_plain_files_read(folder):
    weights(folder, "vae").rename(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    assert_same(load_pipeline(folder, variant="fp16"), load_pipeline(folder))


def test_several_variants_have_to_be_chosen_from(tmp_path, light):
    with_variants(tmp_path / "flux", "fp16", "bf16")
    with pytest.raises(CheckpointError, match=r"transformer has the variants bf16 and fp16; choose one with variant="):
        load_pipeline(tmp_path / "flux")


def test_a_variant_that_is_not_there(tmp_path, original, light):
    with pytest.raises(CheckpointError, match=r"has no weights of the variant 'fp8'; it has files without a variant$"):
        load_pipeline(original, variant="fp8")
    with_variants(tmp_path / "flux", None, "fp16")
    with pytest.raises(CheckpointError, match=r"variant 'fp8'; it has fp16 and files without a variant$"):
        load_pipeline(tmp_path / "flux", variant="fp8")


def test_shards_without_an_index(folder, light):
    weights(folder).rename(folder / "transformer" / "diffusion_pytorch_model.fp16-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"holds shards \(.*-00001-of-00002.safetensors\) without their .*index"):
        load_pipeline(folder)


def test_whole_numbers_in_buffers_are_no_quantisation(folder):
    theirs = FluxPipeline.from_pretrained(folder)
    positions = torch.arange(8)[None]
    change(weights(folder, "text_encoder"), **{"text_model.embeddings.position_ids": positions})
    change(weights(folder, "text_encoder_2"), **{"encoder.seen": torch.ones(3, dtype=torch.bool)})
    counts = {"encoder.count": torch.ones(2, dtype=torch.int32), "encoder.mask": torch.ones(2, dtype=torch.uint8)}
    change(weights(folder, "vae"), **counts)
    assert_same(load_pipeline(folder), theirs)


FLOAT8 = torch.ones(2).to(torch.float8_e4m3fn)
NAMES = {
    "comfy": (
        lambda name: f"model.diffusion_model.{name}",
        {},
        "the names begin with 'model.diffusion_model.'; rename",
    ),
    "transformer.": (lambda name: f"transformer.{name}", {}, "the names begin with 'transformer.'; rename"),
    "DeepSpeed": (lambda name: f"module.{name}", {}, "the names hold 'module.', which DataParallel or DeepSpeed puts"),
    "compiled": (lambda name: f"_orig_mod.{name}", {}, "the names hold '_orig_mod.', which torch.compile puts there"),
    "compiled blocks": (
        lambda name: re.sub(r"(blocks\.\d+)\.", r"\1._orig_mod.", name),
        {},
        "the names hold '_orig_mod.', which torch.compile puts there; unwrap the model and save it again",
    ),
    "FSDP": (lambda name: f"_fsdp_wrapped_module.{name}", {}, "which FSDP puts there; unwrap the model"),
    "original": (
        lambda name: name.replace("single_transformer_blocks", "single_blocks"),
        {},
        r"those of a single-file checkpoint \(original or ComfyUI\); convert it with the from_single_file of",
    ),
    "original in ComfyUI": (
        lambda name: "model.diffusion_model." + name.replace("transformer_blocks", "double_blocks"),
        {},
        r"those of a single-file checkpoint \(original or ComfyUI\); convert it with the from_single_file of",
    ),
    "GGUF": (lambda name: name.replace("transformer_blocks", "blk"), {}, "the names are those of GGUF; convert it"),
    "LoRA": (
        lambda name: name.replace("attn.to_q.", "attn.to_q.base_layer."),
        {"transformer_blocks.0.attn.to_q.lora_A.default.weight": torch.ones(4, 64)},
        "a LoRA adapter was saved with the model .*; merge it with pipe.fuse_lora",
    ),
    "fp8": (
        lambda name: name,
        {"scaled_fp8": FLOAT8, "proj_out.scale_weight": torch.ones(1)},
        r"the weights are quantised \(scaled fp8: proj_out.scale_weight\); use the unquantised checkpoint",
    ),
    "bitsandbytes": (
        lambda name: name,
        {"proj_out.weight.absmax": torch.ones(4), "proj_out.weight.quant_map": torch.ones(16)},
        r"quantised \(bitsandbytes: proj_out.weight.absmax.*\); use the unquantised checkpoint; puredit quantises",
    ),
    "GPTQ": (lambda name: name, {"proj_out.qweight": torch.ones(4, dtype=torch.int32)}, "GPTQ or AWQ"),
    "plain fp8": (lambda name: name, {"proj_out.weight": FLOAT8}, r"proj_out.weight \(F8_E4M3\); use the unquantised"),
    "ZeRO-3": (lambda name: name, {"proj_out.weight": torch.ones(0)}, "as DeepSpeed ZeRO-3 leaves them"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_tell_the_cause(folder, light, case):
    rename, more, message = NAMES[case]
    change(weights(folder), rename, **more)
    with pytest.raises(CheckpointError, match=message) as refused:
        load_pipeline(folder)
    assert len(str(refused.value)) < 1200


def test_a_lora_adapter_alone(folder, light):
    adapter = {f"transformer.blocks.{i}.to_q.lora_{side}.weight": torch.ones(2, 2) for i in range(3) for side in "AB"}
    save_file(adapter, weights(folder))
    with pytest.raises(
        CheckpointError, match=r"this is a LoRA adapter .* and not a model; load the model it was trained"
    ):
        load_pipeline(folder)


def test_an_adapter_or_quantised_weights_in_an_encoder(folder, light):
    change(weights(folder, "text_encoder"), **{"text_model.scale_weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"text_encoder: the weights are quantised \(scaled fp8"):
        load_pipeline(folder)


def test_a_prefix_in_an_encoder(folder):
    change(weights(folder, "text_encoder_2"), lambda name: f"module.{name}")
    with pytest.raises(CheckpointError, match=r"text_encoder_2 .*which DataParallel or DeepSpeed puts there"):
        load_pipeline(folder)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_a_config_that_says_quantised(folder, light, part):
    edit(folder / part / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(CheckpointError, match=rf"{part}/config.json: the weights are quantised \(bitsandbytes\); use"):
        load_pipeline(folder)


def test_few_names_are_listed(folder, light):
    file = weights(folder)
    save_file({f"weight.{i}": torch.ones(1) for i in range(500)}, file)
    with pytest.raises(
        CheckpointError, match=r"missing: .* and \d+ more\n  500 unexpected: .* and 496 more$"
    ) as refused:
        load_pipeline(folder)
    assert len(str(refused.value)) < 700


def cached(original: Path, where: Path, *, main: str | None = "abc", snapshots=("abc",)) -> Path:
    """A cache as the hub's library lays it out: files are links to blobs."""
    cache = where / "models--somebody--flux"
    for name in snapshots:
        shutil.copytree(original, cache / "snapshots" / name)
    if main:
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(f"{main}\n")  # as git writes it; the hub writes none
    return cache


def test_a_cache_of_the_hub(original, tmp_path):
    wanted = load_pipeline(original)
    cache = cached(original, tmp_path, snapshots=("abc", "def"))
    (cache / "snapshots" / "def" / "model_index.json").unlink()
    for source in (cache, cache / "snapshots"):
        assert_same(load_pipeline(source), wanted)
    assert_same(load_pipeline(cached(original, tmp_path / "one", main=None, snapshots=("xyz",))), wanted)


@pytest.mark.parametrize(
    ("main", "snapshots", "message"),
    [
        ("gone", ("abc",), "refs/main names .*snapshots/gone, which is not there; download the checkpoint again"),
        (None, ("abc", "def"), r"has no refs/main and 2 snapshots \(.*abc, .*def\); pass one of them"),
    ],
)
def test_a_cache_that_is_not_whole(original, tmp_path, main, snapshots, message):
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(cached(original, tmp_path, main=main, snapshots=snapshots))


def test_another_level_of_folders(folder, tmp_path, monkeypatch):
    cases = {
        folder / "transformer": f"it is a part of the checkpoint {folder}; pass that folder",
        weights(folder): f"is a file; pass the folder of its checkpoint, {folder}",
        folder / "model_index.json": f"is a file; pass the folder of its checkpoint, {folder}",
        tmp_path: f"model_index.json is missing; pass a folder in it: {folder}",
        tmp_path.parent: r"pass a folder in it: .*flux",
    }
    for source, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            load_pipeline(source)
    monkeypatch.chdir(folder)
    with pytest.raises(CheckpointError, match=f"part of the checkpoint {folder}; pass that folder"):
        load_pipeline("transformer")


def test_parts_and_single_files_alone(folder, tmp_path):
    alone = tmp_path / "elsewhere" / "deep" / "vae"
    shutil.copytree(folder / "vae", alone)
    whole = "; a checkpoint is a folder as diffusers' save_pretrained writes it: model_index.json beside"
    single = tmp_path / "x" / "y" / "z"
    single.mkdir(parents=True)
    shutil.copy(weights(folder), single / "flux1-dev.safetensors")
    (single / "flux1-Q4.gguf").write_bytes(b"GGUF")
    cases = {
        alone: "it holds diffusion_pytorch_model.safetensors, the weights of one component" + whole,
        single: "it holds flux1-Q4.gguf, flux1-dev.safetensors, a single-file checkpoint" + whole,
        single
        / "flux1-dev.safetensors": "is a file; single-file checkpoints are not read: load it with diffusers' from",
        single / "flux1-Q4.gguf": r"is a file; its weights are quantised \(GGUF\), which is not read",
    }
    for source, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            load_pipeline(source)


def to_pickles(folder: Path, parts=PARTS) -> None:
    """Turn the safetensors of a checkpoint, sharded or not, into pickles under the names of the libraries."""
    for part in parts:
        for file in sorted((folder / part).glob("*.safetensors*")):
            name = file.name.replace(".safetensors", ".bin")
            name = "pytorch_" + name if name.startswith("model") else name
            if file.suffix == ".json":
                index = json.loads(file.read_text())
                shards = {k: v.replace(".safetensors", ".bin") for k, v in index["weight_map"].items()}
                shards = {k: "pytorch_" + v if v.startswith("model") else v for k, v in shards.items()}
                (folder / part / name).write_text(json.dumps({**index, "weight_map": shards}))
            else:
                torch.save(load_file(file), folder / part / name)
            file.unlink()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("parts", [PARTS, ("transformer",), ("text_encoder_2", "vae")], ids=["all", "one", "others"])
def test_the_recommended_conversion_works(tmp_path, sharded, parts):
    made = tiny.pipeline()
    folder = tmp_path / "it's flux"
    made.save_pretrained(folder, max_shard_size=SIZES[sharded])
    to_pickles(folder, parts)
    with pytest.raises(CheckpointError, match="is a pickle, which can run any code") as refused:
        load_pipeline(folder)
    _, _, code = shlex.split(str(refused.value).splitlines()[-1])
    exec(code, {})
    assert_same(load_pipeline(folder), made)


def test_tied_weights_are_written_twice(tmp_path):
    tied = torch.arange(6.0).view(2, 3)
    torch.save({"wte.weight": tied, "head.weight": tied, "turned": tied.T}, tmp_path / "pytorch_model.bin")
    found = load_file(convert_pickles(tmp_path)[0])
    assert torch.equal(found["wte.weight"], tied) and torch.equal(found["turned"], tied.T)


def test_the_recommended_command_runs_in_a_shell(folder):
    to_pickles(folder, ("vae",))
    with pytest.raises(CheckpointError) as refused:
        load_pipeline(folder)
    command = str(refused.value).splitlines()[-1].strip().replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True)
    load_pipeline(folder)


def test_pickles_beside_safetensors_are_left_alone(folder):
    torch.save({"proj_out.weight": torch.zeros(1)}, folder / "transformer" / "diffusion_pytorch_model.bin")
    load_pipeline(folder)
    with pytest.raises(CheckpointError, match="has no component whose weights are pickles"):
        convert_pickles(folder)


class Evil:
    def __reduce__(self):
        return (print, ("code of a pickle has run",))


def test_conversion_runs_no_code(folder, capsys):
    weights(folder).unlink()
    torch.save({"proj_out.weight": Evil()}, folder / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors, or is damaged"):
        convert_pickles(folder)
    assert "has run" not in capsys.readouterr().out


def test_a_gguf_file_in_a_component(folder, light):
    weights(folder).rename(folder / "transformer" / "flux1-Q4.gguf")
    with pytest.raises(CheckpointError, match=r"flux1-Q4.gguf is a GGUF file, whose weights are quantised; use"):
        load_pipeline(folder)


def test_a_class_that_the_library_does_not_have(folder, monkeypatch):
    older = types.SimpleNamespace(__name__="transformers", __version__="4.1.0")
    monkeypatch.setattr(loading, "importlib", types.SimpleNamespace(import_module=lambda name: older))
    with pytest.raises(CheckpointError, match=r"vae needs AutoencoderKL, which transformers 4.1.0 does not have; inst"):
        load_pipeline(folder)


def test_errors_of_libraries_keep_their_cause(folder, monkeypatch):
    def fail(*args, **kwargs):
        try:
            raise ImportError("no module named sentencepiece")
        except ImportError as error:
            raise ValueError("\n".join(f"line {number}" for number in range(40))) from error

    monkeypatch.setattr("transformers.CLIPTokenizer.from_pretrained", fail)
    with pytest.raises(CheckpointError, match=r"line 5 \.\.\. \(because of: no module named sentencepiece\); is it"):
        load_pipeline(folder)
