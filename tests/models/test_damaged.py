"""A damaged checkpoint: whatever is wrong with whichever file, one error that names it, and no traceback."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pure.engine.libraries import quiet_libraries
from pure.models import CheckpointError, load_pipeline
from tests.support import tiny

Damage = Callable[[Path], Any]
JSON = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "text_encoder/config.json",
    "vae/config.json",
)
WEIGHTS = (
    "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder_2/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
VOCABULARIES = ("tokenizer/tokenizer.json", "tokenizer_2/tokenizer.json")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    quiet_libraries()
    folder = tmp_path_factory.mktemp("sound") / "flux"
    tiny.pipeline(dynamic=True).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy; files that are not damaged are links."""
    return Path(shutil.copytree(sound, tmp_path / "flux", copy_function=os.link))


def written(content: bytes) -> Damage:
    def write(file: Path) -> None:
        file.unlink()  # the link: what it leads to is for the other tests
        file.write_bytes(content)

    return write


def half(file: Path) -> None:
    content = file.read_bytes()
    written(content[: len(content) // 2])(file)


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def changed(**values: Any) -> Damage:
    return lambda file: written(json.dumps({**json.loads(file.read_bytes()), **values}).encode())(file)


def without(key: str) -> Damage:
    return lambda file: written(
        json.dumps({k: v for k, v in json.loads(file.read_bytes()).items() if k != key}).encode()
    )(file)


def first(change: Callable[[torch.Tensor], torch.Tensor | None]) -> Damage:
    """Change the first tensor, or leave it out."""

    def rewrite(file: Path) -> None:
        tensors = load_file(file)
        name = min(tensors)
        new = change(tensors.pop(name))
        file.unlink()
        save_file(tensors if new is None else {**tensors, name: new}, file, metadata={"format": "pt"})

    return rewrite


def header_of(length: int) -> Damage:
    return lambda file: written(struct.pack("<Q", length) + file.read_bytes()[8:])(file)


ANY: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": written(b""),
    "half": half,
    "random": written(bytes(range(256)) * 3),
    "folder": folder_instead,
    "loop": loop,
}
OTHER_JSON: dict[str, Damage] = {
    "list": written(b"[1, 2]"),
    "number": written(b"3"),
    "null": written(b"null"),
    "deep": written(b"[" * 100_000),
    "long number": written(b'{"a": ' + b"9" * 5000 + b"}"),
    "zeros": written(b"\0" * 50),
    "utf-16": written("{}".encode("utf-16")),
}
OTHER_WEIGHTS: dict[str, Damage] = {
    "header beyond memory": header_of(10**12),
    "header beyond file": header_of(10**6),
    "shape": first(lambda tensor: torch.zeros(3, 5)),
    "whole numbers": first(lambda tensor: tensor.to(torch.int32)),
    "one less": first(lambda tensor: None),
}


def cases() -> list[Any]:
    found = [(file, name, damage) for file in (*JSON, *WEIGHTS, *VOCABULARIES) for name, damage in ANY.items()]
    found += [(file, name, damage) for file in JSON for name, damage in OTHER_JSON.items()]
    found += [(file, name, damage) for file in WEIGHTS for name, damage in OTHER_WEIGHTS.items()]
    return [pytest.param(file, damage, id=f"{file}-{name}") for file, name, damage in found]


@pytest.mark.parametrize(("file", "damage"), cases())
def test_a_damaged_file_is_named(folder, file, damage):
    damage(folder / file)
    with pytest.raises(CheckpointError) as raised:
        load_pipeline(folder)
    said = str(raised.value)
    assert str(folder / file) in said or str((folder / file).parent) in said
    assert len(said) < 1200 and said.count("\n") < 8


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model_index.json", changed(_class_name="\ud800"), "describes a \ud800; supported: FluxPipeline"),
        ("model_index.json", changed(vae=["diffusers", "UNet"]), "vae is a UNet; supported: AutoencoderKL"),
        ("model_index.json", changed(transformer=3), "transformer is a None; supported: FluxTransformer2DModel"),
        ("transformer/config.json", changed(num_layers="2"), "num_layers is '2'; it must be"),
        ("transformer/config.json", changed(num_layers=-1), "num_layers is -1; it must be"),
        ("transformer/config.json", changed(axes_dims_rope=[4, 4]), "that sum to attention_head_dim 16"),
        ("transformer/config.json", changed(attention_head_dim=[16]), r"attention_head_dim is \[16\]; it must be"),
        ("transformer/config.json", changed(num_layers=3), "do not fit its config.json"),
        ("scheduler/scheduler_config.json", changed(shift="x"), r"Schedule\(shift='x'\): the shift must be a finite"),
        ("scheduler/scheduler_config.json", changed(base_image_seq_len=-1), "the number of tokens must be a whole"),
        ("scheduler/scheduler_config.json", changed(shift=float("nan")), r"Schedule\(shift=nan\): the shift must be"),
        ("scheduler/scheduler_config.json", changed(num_train_timesteps=None), r"train_timesteps=None\): the number"),
        ("scheduler/scheduler_config.json", without("_class_name"), "describes a None; supported: FlowMatchEuler"),
        ("vae/config.json", changed(block_out_channels=[8]), "vae"),
        ("text_encoder/config.json", changed(hidden_size=10**9), "text_encoder"),
        ("text_encoder/config.json", changed(num_hidden_layers="x"), "text_encoder"),
        ("tokenizer/tokenizer.json", Path.unlink, r"holds no vocabulary \(vocab.json, merges.txt, tokenizer.json\)"),
    ],
)
def test_what_does_not_fit_is_named(folder, file, damage, message):
    damage(folder / file)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}},
            r"names \.\./vae/.*, which is not beside",
        ),
        ({"weight_map": {"a": "/etc/passwd"}}, "names /etc/passwd, which is not beside it"),
        ({"weight_map": {"a": "shard.safetensors"}}, r"names shard\.safetensors, missing in"),
        ({"weight_map": {"a": 3}}, "has no weight_map"),
        ({"weight_map": []}, "has no weight_map"),
        ({}, "has no weight_map"),
        ([], "should hold an object and holds a list"),
    ],
)
def test_an_index_names_files_beside_it(folder, index, message):
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder)
