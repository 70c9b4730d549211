"""A rank reads its part of every tensor, in the memory of that part and one tensor; it is quantised after it is cut."""

import json
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pure.distributed import Sizes, make_mesh, place_parts, tensor_parallel
from pure.distributed.tensor_parallel import part_of
from pure.engine.libraries import quiet_libraries
from pure.models import CheckpointError, load_pipeline
from pure.models.checkpoint.weights import read_weights, survey
from pure.sharding import Cut
from pure.testing import toys
from pure.transforms.quantize.kinds import KINDS
from tests.support import ranks, tiny, wan_pipelines
from tests.support.sparse import write_zeros
from tests.support.split import MODELS

NAME = "diffusion_pytorch_model"
MB = 2**20


def written(params: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write two shards of a variant, with an index; numbers are those of bfloat16."""
    names = list(params)
    files = {f"{NAME}-0000{i + 1}-of-00002.bf16.safetensors": names[i::2] for i in range(2)}
    for file, some in files.items():
        save_file({name: params[name].to(torch.bfloat16).contiguous() for name in some}, folder / file)
    index = {"weight_map": {name: file for file, some in files.items() for name in some}}
    (folder / f"{NAME}.safetensors.index.bf16.json").write_text(json.dumps(index))


def equal(found: dict, wanted: dict) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "wan-experts"])
def test_what_a_rank_reads_is_its_part_of_the_whole(name, tmp_path):
    """Of shards of a variant, in another type; 4 heads over 3 ranks are 2, 1 and 1."""
    model = MODELS[name]
    sharding = model.first.sharding
    assert sharding is not None
    written(model.params, tmp_path)
    stored, options = survey(tmp_path, "bf16"), {"dtype": torch.float32, "keep_fp32": ("norm",)}
    whole = read_weights(stored, **options)
    for rank in range(3):
        parts = read_weights(stored, **options, cuts=lambda name, rank=rank: sharding.cut(name, rank, 3))
        assert equal(parts, part_of(whole, sharding, rank, 3))
        assert all(part.is_contiguous() for part in parts.values())


def test_numbers_without_dimensions_and_tensors_without_numbers(tmp_path):
    wanted = {"one": torch.tensor(2.5), "none": torch.zeros(0, 3), "rows": torch.arange(12.0).view(4, 3)}
    save_file(wanted, tmp_path / f"{NAME}.safetensors")
    cuts = {"rows": Cut(0, ((1, 2), (3, 4)), 4)}
    assert equal(read_weights(survey(tmp_path), cuts=cuts.get), {**wanted, "rows": wanted["rows"][[1, 3]]})
    with pytest.raises(ValueError, match=r"rows is \(4, 3\), and its placement splits 5 features of dimension 0"):
        read_weights(survey(tmp_path), cuts={"rows": Cut(0, ((1, 2),), 5)}.get)


def test_a_file_that_became_shorter_is_named(tmp_path):
    file = tmp_path / f"{NAME}.safetensors"
    save_file({"rows": torch.zeros(4, 3)}, file)
    stored = survey(tmp_path)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"safetensors cannot be read \(it has become shorter\); download it"):
        read_weights(stored, cuts=lambda name: None)


# ------------------------------------------------------------------------------ pipelines


def _placed(folder: Path) -> bool:
    """Whether parts that were read and parts that were cut are the same weights."""
    mesh = make_mesh(Sizes(tp=2))
    part, whole = load_pipeline(folder, part=(mesh.get_local_rank("tp"), 2)), load_pipeline(folder)
    read = place_parts(part.params, part.denoiser, mesh)
    cut = tensor_parallel(whole.params, whole.denoiser, mesh)
    return all(
        type(read[expert][name]) is type(tensor)
        and torch.equal(getattr(read[expert][name], "local", read[expert][name]), getattr(tensor, "local", tensor))
        for expert in cut
        for name, tensor in cut[expert].items()
    )


def test_experts_are_read_in_parts(tmp_path):
    quiet_libraries()
    wan_pipelines.pipeline("t2v-2.2").save_pretrained(tmp_path)
    assert ranks.run(_placed, 2, tmp_path) == [True, True]


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0), (0, True), (0.0, 2), (0,)])
def test_parts_that_there_are_not(part):
    with pytest.raises(ValueError, match=r"part=\(.*\): give \(rank, ranks\), the rank from 0 to ranks - 1"):
        load_pipeline("nowhere", part=part)


# ------------------------------------------------------------------------------ memory


LARGE = {"num_layers": 1, "num_single_layers": 5, "attention_head_dim": 192, "axes_dims_rope": [64, 64, 64]}


def large(folder: Path) -> tuple[int, int]:
    """Make the transformer large, of zeros that take no room on the disk; return its bytes and those of a tensor."""
    config = json.loads((folder / "transformer" / "config.json").read_text()) | LARGE
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in tiny.transformer(**LARGE).state_dict().items()}
    return write_zeros(folder / "transformer" / f"{NAME}.safetensors", shapes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> tuple[Path, int, int]:
    quiet_libraries()
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny.pipeline(dynamic=True).save_pretrained(folder / "small")
    load_pipeline(folder / "small")  # before processes are forked: it imports much
    shutil.copytree(folder / "small", folder / "large")
    return folder, *large(folder / "large")


def _status(name: str) -> int:
    """Return a line of the kernel on this process' memory, in bytes."""
    (found,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024


def _load(folder: Path, part: tuple[int, int], limit: int) -> str:
    """Load under a limit of memory beyond what this process has; return bytes held and at most, or the error."""
    load_pipeline(folder / "small", part=part)
    for kind, used in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        resource.setrlimit(kind, (_status(used) + limit, resource.RLIM_INFINITY))
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    try:
        pipeline = load_pipeline(folder / "large", part=part)
    except Exception as error:
        return type(error).__name__
    held = sum(tensor.nbytes for tensor in pipeline.params.values())
    return f"{held} {_status('VmHWM') - before}"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_needs_the_memory_of_its_part_and_one_tensor(checkpoint, rank):
    """Counted by the kernel: what was in memory at most, and what may be asked for, of which a limit is set."""
    folder, whole, tensor = checkpoint
    limit = int(0.53 * whole) + tensor
    held, peak = map(int, ranks.run(_load, 1, folder, (rank, 2), limit)[0].split())
    assert whole > 250 * MB and whole / 2 < held < 0.53 * whole and tensor < whole / 16
    assert peak <= held + tensor
    assert ranks.run(_load, 1, folder, (0, 1), limit)[0].isalpha(), "the limit does not limit"


# ------------------------------------------------------------------------------ quantisation


ALIKE = {  # by how scales are shared: rows, all, blocks of 128 x 128, 32 inputs of a row
    "float8_per_row": {0}, "float8_weight_only": {0}, "int8_per_row": {0}, "int8_weight_only": {0},
    "float8_per_tensor": set(), "int8_per_tensor": set(),
    "float8_per_block": {0, 1}, "int4_weight_only": {0, 1},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_quantised_as_a_part_of_the_whole_where_scales_are_not_cut(kind):
    """Else it has scales of its own, which are never larger: no number is rounded further."""
    whole = toys.normal(512, 256, seed=3) * torch.linspace(0.5, 2, 256)  # the largest numbers are on the second rank
    make = KINDS[kind].make
    for dim in (0, 1):
        for rank in range(2):
            half = whole.shape[dim] // 2
            cut = Cut(dim, ((rank * half, (rank + 1) * half),), whole.shape[dim])
            parted, cut_after = make(cut.of(whole)).dequantize(), cut.of(make(whole).dequantize())  # type: ignore
            if dim in ALIKE[kind]:
                assert torch.equal(parted, cut_after)
            else:
                errors = [float((found - cut.of(whole)).square().mean()) for found in (parted, cut_after)]
                assert errors[0] <= 1.01 * errors[1]
    assert ALIKE.keys() == KINDS.keys()
