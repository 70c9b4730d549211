"""Everything public is in the lists that the laws are tried on."""

import inspect
from collections.abc import Iterator

import attrs

import pure.distributed
import pure.transforms
from pure.distributed import Sizes, context_parallel
from pure.models.registry import FAMILIES
from pure.transforms import attention
from pure.transforms.attention.names import BACKENDS
from tests.laws.laws import CASES
from tests.laws.sharded import GUIDED, LAYOUTS, WAYS
from tests.structure.source import ROOT
from tests.support.sharded import Way

NO_TRANSFORMS = {"Quantization", "QuantizedLayer", "check_attention", "nbytes", "survey", "quantize"}
PLACED = {"context_parallel", "guidance_parallel", "tensor_agreement", "tensor_parallel"}  # what `shard` applies
OF_PARTS = {"place_parts", "row_parallel", "tensor_parallel_module"}  # of encoders and decoders: tests/distributed
NO_WAYS = {"Hosts", "HostsDiffer", "HostsError", "Sizes", "check_tensor_parallel", "make_mesh", "run"}


def test_every_transform_has_a_case():
    tried = {type(part).__name__ for case in CASES for each in case.directed() for part in each.parts}
    assert tried - {"Composed"} == set(pure.transforms.__all__) - NO_TRANSFORMS


def test_quantised_weights_have_cases():
    assert {"int8_weight_only", "float8_per_row"} <= {case.model.name.rpartition("-")[2] for case in CASES}


def test_every_family_has_a_case_and_runs_on_ranks():
    folders = {path.parent.name for path in (ROOT / "models").glob("*/denoiser.py")}
    assert len(folders) == len(FAMILIES)
    tried = {case.model.name.split("-")[0] for case in CASES}
    assert {folder.split("_")[0] for folder in folders} <= tried


def test_every_setting_of_a_transform_is_tried():
    """Each at another value than its default, in what is tried every time or drawn."""
    tried = {(type(part), name) for case in CASES for each in case.directed() for part, name in _settings(each.parts)}
    drawn = {"order", "interval", "retention", "threshold", "policy", "streams", "warmup"}  # see the recipes
    of_its_own = {
        "regional",
        "mode",
        "dynamic",
        "options",
        "steps",
    }  # tests/laws/test_compiled.py, tests/core/test_scm.py
    missing = [
        f"{kind.__name__}({field.name}=...)"
        for kind in {kind for kind, _ in tried}
        for field in attrs.fields(kind)
        if field.init and (kind, field.name) not in tried and field.name not in drawn | of_its_own
    ]
    assert not missing, missing


def _settings(parts: tuple) -> Iterator[tuple[object, str]]:
    for part in parts:
        for field in attrs.fields(type(part)):
            if getattr(part, field.name) != field.default:
                yield part, field.name


def test_every_way_to_divide_is_tried():
    assert set(pure.distributed.__all__) == PLACED | OF_PARTS | NO_WAYS
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "distributed").glob("test_*.py")]
    assert all(any(name in text for text in texts) for name in OF_PARTS)
    ways = [*WAYS.values(), *GUIDED.values(), *(Way(sizes=sizes) for sizes in LAYOUTS)]
    for field in attrs.fields(Sizes):
        assert any(getattr(way.sizes, field.name) > 1 for way in ways), f"no way divides along {field.name}"
    options = [name for name in inspect.signature(context_parallel).parameters if name != "mesh"]
    assert options and set(options) == {name for way in ways for name in way.options}
    assert any(way.parameters for way in ways)


def test_kernels_that_run_here_are_tried():
    kernels = [each.part(attention) for case in CASES for each in case.directed()]
    tried = {kernel.name for kernel in kernels if kernel is not None}
    assert tried <= set(BACKENDS) and {"flex", "_native_math"} <= tried
