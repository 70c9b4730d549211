"""`puredit models` says what the loader can load."""

import json

import attrs

from pure.cli.models import capabilities
from pure.engine.checkpoint import look
from pure.models.registry import FAMILIES, pipelines


def test_every_kind_of_pipeline_is_listed(puredit):
    code, out, err = puredit("models")
    assert code == 0, err
    assert all(name in out for name in pipelines()) and all(family.name in out for family in FAMILIES)


def test_json_has_everything(puredit):
    code, out, _ = puredit("models", "--json")
    rows = json.loads(out)
    assert code == 0 and {row["pipeline"] for row in rows} == set(pipelines())
    assert {row[can] for row in rows for can in ("cache", "context parallel", "tensor parallel")} == {"yes"}
    assert any("black-forest-labs/FLUX.1-dev" in row["checkpoints"] for row in rows)


def test_a_checkpoint_is_described_from_its_files(puredit, checkpoint, tmp_path):
    misnamed = tmp_path / "Wan2.1-schnell"
    misnamed.symlink_to(checkpoint)
    code, out, _ = puredit("models", "--model-path", str(misnamed), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["family"], found["pipeline"], found["blocks"]) == ("FLUX.1", "FluxPipeline", 6)
    assert found["default steps"] == 50 == look(str(misnamed)).found.defaults.steps


def test_what_is_no_checkpoint(puredit, tmp_path):
    code, out, err = puredit("models", "--model-path", str(tmp_path))
    assert (code, out) == (2, "") and "model_index.json is missing" in err


def test_what_a_denoiser_does_not_say_it_cannot():
    denoiser = attrs.evolve(FAMILIES[0].denoiser({}), per_token=None)
    assert capabilities(denoiser) == {"cache": "yes", "context parallel": "no", "tensor parallel": "yes"}
    assert capabilities(attrs.evolve(denoiser, sharding=None))["tensor parallel"] == "no"
