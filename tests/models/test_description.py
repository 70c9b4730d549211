"""What `model_index.json` may say of a component: its library and its class, and nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pure.models import CheckpointError
from pure.models.checkpoint.description import describe
from tests.support import tiny


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "flux"
    tiny.pipeline().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("component", "entry", "message"),
    [
        (
            "transformer",
            ["transformers", "FluxTransformer2DModel"],
            "transformer is from transformers; supported: ",
        ),
        ("transformer", ["diffusers", "FluxTransformer"], "transformer is a FluxTransformer; supported: FluxTransf"),
        ("transformer", ["diffusers", "FluxTransformer2DModel", 1], "transformer is a None; supported: FluxTransf"),
        ("transformer", "FluxTransformer2DModel", "transformer is a None; supported: FluxTransformer2DModel"),
        ("vae", ["mine", "AutoencoderKL"], "vae is from mine; supported: "),
        ("vae", [None, None], "vae is a None; supported: AutoencoderKL"),
        ("vae", {}, "vae is a None; supported: AutoencoderKL"),
    ],
)
def test_a_component_that_is_not_what_it_should_be(original, tmp_path, component: str, entry: Any, message: str):
    folder = Path(shutil.copytree(original, tmp_path / "flux"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, component: entry}))
    with pytest.raises(CheckpointError) as error:
        describe(folder)
    assert str(error.value).startswith(f"{folder / 'model_index.json'}: {message}")
