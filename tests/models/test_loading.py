"""Checkpoints on disk: what is read, and every way in which one can be wrong."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from pure import FlowMatchEuler, Schedule
from pure.models import CheckpointError, load_pipeline
from pure.models.checkpoint import loading
from pure.models.checkpoint.description import describe
from pure.models.checkpoint.hub import EVERYTHING, locate
from pure.models.checkpoint.weights import read_weights, survey
from tests.support import tiny


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "flux"
    tiny.pipeline(dynamic=True).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "flux"))


def edit(file: Path, **changes) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **changes}))


def weights(folder: Path) -> Path:
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def light(monkeypatch) -> None:
    """Fail when anything heavy is loaded: every check comes before that."""

    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded before the checkpoint was checked")

    monkeypatch.setattr(loading, "_model", refuse)
    monkeypatch.setattr(loading, "read_weights", refuse)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, None])
def test_tensors_are_those_that_diffusers_reads(tmp_path, stored, sharded, wanted):
    model = tiny.transformer().to(stored)
    model.save_pretrained(tmp_path, max_shard_size="200KB" if sharded else "5GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == sharded
    read = read_weights(survey(tmp_path), dtype=wanted)
    theirs = FluxTransformer2DModel.from_pretrained(tmp_path, dtype=wanted or stored).state_dict()
    assert read.keys() == theirs.keys()
    assert all(torch.equal(read[name], theirs[name]) and read[name].dtype == (wanted or stored) for name in theirs)


def test_a_sharded_pipeline_in_half_precision_generates(tmp_path):
    made = tiny.pipeline()
    made.transformer.to(torch.float16)
    made.text_encoder.to(torch.bfloat16)
    made.save_pretrained(tmp_path / "flux", max_shard_size="100KB")
    pipeline: Any = load_pipeline(tmp_path / "flux")
    assert pipeline.dtype == pipeline.reader.text_encoder.dtype == pipeline.codec.vae.dtype == torch.float32
    assert pipeline.generate("a", steps=1, max_sequence_length=8).pixels.isfinite().all()


def test_stored_types_are_kept(tmp_path):
    made = tiny.pipeline()
    made.transformer.to(torch.bfloat16)
    made.text_encoder.to(torch.bfloat16)
    made.save_pretrained(tmp_path / "flux")
    pipeline: Any = load_pipeline(tmp_path / "flux", dtype=None)
    assert pipeline.dtype == pipeline.reader.text_encoder.dtype == torch.bfloat16
    assert pipeline.reader.text_encoder_2.dtype == pipeline.codec.vae.dtype == torch.float32
    assert pipeline.generate("a", steps=1, max_sequence_length=8).pixels.isfinite().all()


def test_a_component_of_two_types_is_of_that_of_most_tensors_and_nothing_is_widened(tmp_path):
    made = tiny.pipeline()
    made.text_encoder.to(torch.bfloat16)
    made.save_pretrained(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    stored = load_file(file)
    first = min(stored)
    save_file({**stored, first: stored[first].float()}, file, metadata={"format": "pt"})
    pipeline: Any = load_pipeline(tmp_path, dtype=None)
    assert pipeline.reader.text_encoder.dtype == torch.bfloat16
    found = survey(tmp_path / "text_encoder")
    for dtype, kept in ((None, torch.bfloat16), (torch.float16, torch.float32)):
        assert read_weights(found, dtype=dtype, keep_fp32=("mlp",))[next(n for n in found if "mlp" in n)].dtype == kept


def test_loading_leaves_the_random_state_as_it_was(original):
    state = torch.get_rng_state()
    load_pipeline(original)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_solver_is_that_of_the_checkpoint(original):
    solver = load_pipeline(original).solver
    assert isinstance(solver, FlowMatchEuler)
    assert (solver.schedule.shift, solver.schedule.dynamic, solver.schedule.max_tokens) == (3.0, True, 4096)


def test_every_setting_of_the_scheduler_is_read(folder):
    """None of them as it is by default."""
    edit(
        folder / "scheduler" / "scheduler_config.json",
        **{"shift": 2.5, "use_dynamic_shifting": True, "base_shift": 0.4, "max_shift": 1.3, "base_image_seq_len": 100},
        **{"max_image_seq_len": 5000, "time_shift_type": "linear", "shift_terminal": 0.1, "num_train_timesteps": 900},
    )
    limits: Any = {"base_shift": 0.4, "max_shift": 1.3, "base_tokens": 100, "max_tokens": 5000, "train_timesteps": 900}
    schedule = Schedule(shift=2.5, dynamic=True, time_shift="linear", terminal=0.1, **limits)
    assert describe(folder).solver == FlowMatchEuler(schedule)


def test_all_misfits_are_in_one_error(folder, light):
    tensors = load_file(weights(folder))
    del tensors["x_embedder.bias"], tensors["transformer_blocks.1.attn.to_q.weight"]
    tensors["single_transformer_blocks.4.proj_out.bias"] = torch.zeros(3)
    tensors["proj_out.weight"] = torch.zeros(4, 63)
    save_file(tensors, weights(folder))
    expected = (
        f"the tensors in {folder}/transformer do not fit its config.json:\n"
        "  2 missing: transformer_blocks.1.attn.to_q.weight (64, 64), x_embedder.bias (64,)\n"
        "  1 unexpected: single_transformer_blocks.4.proj_out.bias (3,)\n"
        "  1 of another shape: proj_out.weight is (4, 63), expected (4, 64)"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(expected)}$"):
        load_pipeline(folder)


def spoil_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def spoil_json(folder: Path) -> None:
    (folder / "transformer" / "config.json").write_text("{")


def truncate(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:-100])


def replace_by_text(folder: Path) -> None:
    weights(folder).write_text("version https://git-lfs.github.com/spec/v1")


def shard(folder: Path) -> None:
    """Name two shards of which one is there."""
    weights(folder).rename(weights(folder).with_name("a-00001-of-00002.safetensors"))
    files = {"x_embedder.bias": "a-00001-of-00002.safetensors", "proj_out.bias": "a-00002-of-00002.safetensors"}
    index = weights(folder).with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": files}))


def empty_index(folder: Path) -> None:
    weights(folder).with_name("diffusion_pytorch_model.safetensors.index.json").write_text('{"metadata": {}}')


def pickle(folder: Path) -> None:
    weights(folder).unlink()
    torch.save({}, folder / "transformer" / "diffusion_pytorch_model.bin")


def quantise(folder: Path) -> None:
    tensors = load_file(weights(folder))
    tensors["proj_out.weight"] = tensors["proj_out.weight"].to(torch.int8)
    save_file(tensors, weights(folder))


def rename(folder: Path) -> None:
    weights(folder).rename(weights(folder).with_name("weights.safetensors"))


BROKEN = {
    "no model_index.json": (spoil_index, "model_index.json is missing; a checkpoint is a folder as diffusers' save_"),
    "broken json": (spoil_json, r"transformer/config.json is not JSON: .*; download it again"),
    "json list": (
        lambda folder: (folder / "model_index.json").write_text("[]"),
        "should hold an object and holds a list",
    ),
    "truncated weights": (
        truncate,
        r"diffusion_pytorch_model.safetensors is damaged or incomplete \(.*\); download it",
    ),
    "git lfs pointer": (replace_by_text, r"diffusion_pytorch_model.safetensors is damaged or incomplete"),
    "missing shard": (shard, "names a-00002-of-00002.safetensors, missing in .*transformer; download all shards"),
    "empty index": (empty_index, "index.json has no weight_map; download it again"),
    "pickle": (
        pickle,
        r"diffusion_pytorch_model.bin is a pickle, which can run any code .*; convert it once, .*:\n  python",
    ),
    "quantised": (quantise, r"other than F64, F32, F16, BF16: proj_out.weight \(I8\); use the unquantised"),
    "another name": (
        rename,
        r"has no diffusion_pytorch_model.safetensors or .*; it holds config.json, weights.safetensors",
    ),
    "no weights": (
        lambda folder: weights(folder).unlink(),
        r"transformer has no diffusion_.* or model.safetensors, with a variant or without; it holds",
    ),
    "no text encoder": (lambda folder: shutil.rmtree(folder / "text_encoder"), "the folder .*/text_encoder is missing"),
    "no vae weights": (lambda folder: next((folder / "vae").glob("*.safetensors")).unlink(), r"/vae has no diffusion_"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_folders(folder, light, fault):
    spoil, message = BROKEN[fault]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder)


FLOW = "FlowMatchEulerDiscreteScheduler"
UNSUPPORTED = {
    "pipeline": (
        "model_index.json",
        {"_class_name": "FluxPipelin"},
        "describes a FluxPipelin; supported: FluxPipeline.*; the nearest is FluxPipeline.*see pure.accelerate",
    ),
    "no class": ("model_index.json", {"_class_name": None}, "describes a None; supported: FluxPipeline"),
    "transformer": (
        "model_index.json",
        {"transformer": ["diffusers", "WanTransformer3DModel"]},
        "transformer is a WanTransformer3DModel; supported: FluxTransformer2DModel",
    ),
    "absent part": ("model_index.json", {"vae": [None, None]}, "vae is a None; supported: AutoencoderKL"),
    "missing part": ("model_index.json", {"tokenizer_2": None}, "tokenizer_2 is a None; supported: T5Tokenizer, T5Tok"),
    "transformer config": (
        "transformer/config.json",
        {"_class_name": "Flux2Transformer2DModel"},
        "transformer/config.json: the transformer is a Flux2Transformer2DModel; supported is FluxTransformer2DModel",
    ),
    "unknown setting": (
        "transformer/config.json",
        {"sliding": 3},
        "config.json: the transformer's config sets sliding",
    ),
    "fill": ("transformer/config.json", {"in_channels": 24}, "fit its config.json"),
    "control": ("transformer/config.json", {"out_channels": 2}, "4 channels in, 2 out and patch_size 1; text-to-image"),
    "patches": ("transformer/config.json", {"patch_size": 2}, "4 channels in, 4 out and patch_size 2; text-to-image"),
    "scheduler": (
        "scheduler/scheduler_config.json",
        {"_class_name": "UniPCMultistepScheduler"},
        f"describes a UniPCMultistepScheduler; supported: {FLOW}",
    ),
    "time shift": (
        "scheduler/scheduler_config.json",
        {"time_shift_type": "cubic"},
        "sets time_shift_type='cubic', not",
    ),
}
OPTIONS = {
    "use_karras_sigmas": True,
    "use_exponential_sigmas": True,
    "use_beta_sigmas": True,
    "stochastic_sampling": True,
    "invert_sigmas": True,
    "an_option_of_the_future": 3,
}
for option, value in OPTIONS.items():
    UNSUPPORTED[option] = (
        "scheduler/scheduler_config.json",
        {option: value},
        f"sets {option}={value}, not implemented",
    )


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_checkpoints(folder, light, case):
    file, changes, message = UNSUPPORTED[case]
    edit(folder / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder)


def test_scheduler_options_that_are_off_are_accepted(folder):
    edit(folder / "scheduler" / "scheduler_config.json", an_option_of_the_future=False, invert_sigmas=None)
    load_pipeline(folder)


def test_incomplete_encoders_are_refused(folder):
    file = folder / "text_encoder_2" / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"text_encoder_2 .*:\n  1 missing: encoder.final_layer_norm.weight$"):
        load_pipeline(folder)


def test_incomplete_tokenizers_are_refused(folder):
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(CheckpointError, match=r"tokenizer cannot be loaded as CLIPTokenizer: .*; is it complete\?"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("not/a/folder", "there is no folder 'not/a/folder', and a hub id has the form owner/name"),
        ("nothing", "there is no folder 'nothing', and a hub id has the form owner/name"),
        (__file__, "test_loading.py is a file; pass the folder that holds model_index.json"),
        ("nobody/nothing", "there is no folder 'nobody/nothing', and the Hugging Face hub does not give it"),
    ],
)
def test_sources_that_are_not_there(source, message):
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(source)


def test_hub_downloads_leave_pickles_and_single_files(original, monkeypatch):
    asked = []

    def download(source, allow_patterns):
        asked.append((source, allow_patterns))
        return str(original)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_pipeline("somebody/flux")
    (_, first), (source, second) = asked
    assert source == "somebody/flux" and not any("safetensors" in pattern for pattern in first)
    assert not any(pattern.endswith("bin") or pattern.startswith("*.") for pattern in second)
    assert locate("somebody/flux", EVERYTHING) == original
