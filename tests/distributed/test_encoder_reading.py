"""Text encoders of which a rank reads only its part: the numbers that a part of the whole has, and their memory."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pure.models import encoder_sharding, load_pipeline
from pure.models.checkpoint.encoders import read_part
from pure.models.checkpoint.weights import survey
from tests.distributed.test_encoders import MADE, made
from tests.support import ranks, tiny
from tests.support.sparse import write_zeros


def read(encoder: Any, folder: Path, share: tuple[int, int], dtype: torch.dtype = torch.float32) -> Any:
    return read_part(type(encoder), folder, survey(folder), dtype=dtype, device="cpu", share=share)


@pytest.mark.parametrize("name", MADE)
def test_a_part_that_was_read_is_a_part_of_the_whole(name, tmp_path):
    made(name).save_pretrained(tmp_path)
    whole = type(made(name)).from_pretrained(tmp_path)
    sharding = encoder_sharding(whole)
    assert sharding is not None
    for rank in range(2):
        part = read(whole, tmp_path, (rank, 2))
        found, expected = dict(part.named_parameters()), dict(whole.named_parameters())
        assert found.keys() == expected.keys() and not part.training
        for key, tensor in expected.items():
            cut = sharding.cut(key, rank, 2)
            assert torch.equal(found[key], tensor if cut is None else cut.of(tensor.detach())), key
            assert not found[key].requires_grad
        buffers = dict(whole.named_buffers())
        assert dict(part.named_buffers()).keys() == buffers.keys()
        assert all(torch.equal(buffer, buffers[key]) for key, buffer in part.named_buffers())
        assert part.config._attn_implementation == whole.config._attn_implementation


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_are_those_of_transformers(dtype, tmp_path):
    """Of T5 some weights stay in fp32 where the others are fp16."""
    made("t5").save_pretrained(tmp_path)
    whole = transformers.T5EncoderModel.from_pretrained(tmp_path, dtype=dtype)
    types = {key: tensor.dtype for key, tensor in whole.named_parameters()}
    assert {key: tensor.dtype for key, tensor in read(whole, tmp_path, (0, 2), dtype).named_parameters()} == types
    assert (torch.float32 in types.values()) == (dtype is torch.float16)


def test_what_is_read_whole(tmp_path):
    """One rank, an encoder that is not split, and names that transformers translates."""
    made("t5").save_pretrained(tmp_path)
    assert read(made("t5"), tmp_path, (0, 1)) is None
    tiny.clip().save_pretrained(tmp_path / "clip")
    assert read(tiny.clip(), tmp_path / "clip", (0, 2)) is None
    made("qwen3").save_pretrained(tmp_path / "bare")
    file = tmp_path / "bare" / "model.safetensors"
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}, file)
    assert read(made("qwen3"), tmp_path / "bare", (0, 2)) is None


def test_more_ranks_than_heads_read_the_part_of_their_group(tmp_path):
    made("llama").save_pretrained(tmp_path)  # three heads of keys
    parts = [read(made("llama"), tmp_path, (rank, 4)).layers[0].mlp.up_proj.weight for rank in range(4)]
    assert torch.equal(parts[0], parts[2]) and torch.equal(parts[1], parts[3])
    assert torch.equal(torch.cat(parts[:2]), made("llama").layers[0].mlp.up_proj.weight)


def test_a_part_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r"encoder_part=\(2, 2\): give \(rank, ranks\), the rank from 0"):
        load_pipeline(tmp_path, encoder_part=(2, 2))


# ------------------------------------------------------------------------------ memory

# Above 32 MiB, from where on glibc gives every tensor pages of its own: what is freed leaves no holes.
LARGE = {"d_model": 3072, "d_kv": 64, "num_heads": 48, "d_ff": 4096, "num_layers": 1, "vocab_size": 1024}


def _status(name: str) -> int:
    """Return a line of the kernel on this process' memory, in bytes."""
    (found,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024


def _read(folder: Path, small: Path, share: tuple[int, int], limit: int) -> tuple[int, int]:
    """Read under a limit of memory beyond what this process has; return bytes held, and at most."""
    read(made("t5"), small, share)  # what is imported when it is first used
    resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + limit, resource.RLIM_INFINITY))
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    part = read(made("t5"), folder, share)
    return sum(parameter.nbytes for parameter in part.parameters()), _status("VmHWM") - before


def test_a_rank_needs_the_memory_of_its_part_and_one_tensor(tmp_path):
    """Counted by the kernel."""
    config = transformers.T5Config(**{**LARGE, "feed_forward_proj": "gated-gelu"})
    with torch.device("meta"):
        shapes = {key: each.shape for key, each in transformers.T5EncoderModel(config).named_parameters()}
    for name in ("large", "small"):
        (tmp_path / name).mkdir()
    config.save_pretrained(tmp_path / "large")
    made("t5").save_pretrained(tmp_path / "small")
    whole, tensor = write_zeros(tmp_path / "large" / "model.safetensors", shapes)
    limit = int(0.53 * whole) + tensor
    for rank in range(2):
        ((held, peak),) = ranks.run(_read, 1, tmp_path / "large", tmp_path / "small", (rank, 2), limit)
        assert whole > 300_000_000 and whole / 2 < held < 0.51 * whole and limit < 0.7 * whole
        assert peak <= held + tensor + 4_000_000  # and the objects of the model's layers
