"""Kernels of packages, which need a GPU: diffusers imports and calls stand-ins for them, in a process of its own."""

import json
import subprocess
import sys

import pytest

from tests.support import stand_ins

SCRIPT = r"""
import json, sys
import torch
from pure.attention import attend, parts_of
from pure.transforms.attention.kernels import kernel_of
from pure.transforms.attention.machine import obstacle, working
from pure.transforms.attention.names import canonical
from tests.support import stand_ins
from pure.testing import toys

q, k, v = toys.normal(2, 5, 4, 16, seed=0), toys.normal(2, 7, 2, 16, seed=1), toys.normal(2, 7, 2, 16, seed=2)
# Keys with holes; a sample of which no key takes part.
holes = torch.tensor([[1, 0, 1, 1, 0, 0, 1], [0] * 7]).bool()[:, None, None]
any_mask = toys.normal(2, 4, 5, 7, seed=3) > 0
any_mask[..., 0] = True
added = toys.normal(2, 1, 1, 7, seed=4)
folder, found = __import__("pathlib").Path(sys.argv[1]), {}
for name in json.loads(sys.argv[2]):
    canonical_name = canonical(name)
    assert obstacle(name, "cpu", torch.float32) is None, obstacle(name, "cpu", torch.float32)
    kernel = kernel_of(canonical_name)
    stand_ins.calls(folder)
    errors = {}
    for label, mask in (("none", None), ("keys", holes), ("added", added), ("any", any_mask)):
        try:
            errors[label] = float((kernel(q, k, v, mask) - attend(q, k, v, mask)).abs().max())
        except ValueError as error:
            errors[label] = str(error)
    parts = parts_of(kernel)
    if parts is not None:
        pairs = zip(parts(q, k, v, None), parts_of(attend)(q, k, v, None))
        errors["parts"] = max(float((one - other).abs().max()) for one, other in pairs)
    found[name] = errors, sorted(set(stand_ins.calls(folder)))
print(json.dumps({"found": found, "working": working("cpu", torch.float32)}))
"""
# What takes which masks, whether it gives parts, and the functions of packages that were called.
NO, KEYS, ALL = ("none",), ("none", "keys"), ("none", "keys", "added", "any")
EXPECTED = {
    "flash": (NO, True, ["flash"]),
    "fa": (NO, True, ["flash"]),
    "fa2": (NO, True, ["flash"]),
    "flash_varlen": (KEYS, False, ["flash_varlen"]),
    "flash_hub": (NO, True, ["flash"]),
    "sage": (NO, True, ["sage"]),
    "sage_attn": (NO, True, ["sage"]),
    "sage_varlen": (KEYS, False, ["sage_varlen"]),
    "_sage_qk_int8_pv_fp16_triton": (NO, False, ["sage"]),
    "xformers": (ALL, False, ["xformers", "xformers mask"]),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    environment = stand_ins.install(folder)
    command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(list(EXPECTED))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", EXPECTED)
def test_is_imported_and_called_and_drops_nothing(found, name):
    masks, parts, called = EXPECTED[name]
    errors, calls = found["found"][name]
    for kind in ALL:
        if kind in masks:
            assert errors[kind] <= 2e-6, kind  # rounding of fp32 sums, as of the kernels of torch
        else:
            assert "takes no" in errors[kind] and "choose native or flex" in errors[kind]
    assert calls == called
    assert ("parts" in errors) == parts and errors.get("parts", 0.0) <= 2e-6


def test_they_are_among_those_that_run_here(found):
    assert {"flash", "flash_varlen", "sage", "sage_varlen", "xformers"} <= set(found["working"])
    assert "_flash_3" not in found["working"]


OLD = """
from pure.transforms import check_attention
check_attention("flash")
"""


def test_a_package_that_is_too_old_is_refused(tmp_path):
    environment = stand_ins.install(tmp_path, "flash_attn")
    about = tmp_path / "flash_attn-2.8.3.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("2.8.3", "2.5.0"))
    done = subprocess.run([sys.executable, "-c", OLD], env=environment, capture_output=True, text=True, timeout=300)
    assert "ValueError: the attention flash does not run here: it was tried on cpu and failed" in done.stderr
    assert "version is too old" in done.stderr and "here run native, _native_math" in done.stderr


PAGE = r"""
import json, os, sys
from pathlib import Path
from pure.cli.main import run
from tests.support import stand_ins

folder, calls = Path(sys.argv[1]), []
common = ["generate", "--prompt", "a red apple", "--num-inference-steps", "2", "--output-path", str(folder)]
for number, (flags, variables) in enumerate(json.loads(sys.argv[2])):
    os.environ.update(variables)
    assert run([*common, *flags, "--output-file-name", f"{number}.png"]) == 0
    calls.append(len(stand_ins.calls(folder)))
print(json.dumps(calls))
"""


def test_the_page_of_the_seed_runs(tmp_path):
    """`attention_backend: "flash"`, from the packaged file, from the flag and from the environment of diffusers."""
    environment = stand_ins.install(tmp_path, "flash_attn")
    ways = (
        (["--cache-dit-config", "attention.yaml"], {}),
        (["--diffusers-attention-backend", "flash"], {}),
        ([], {"DIFFUSERS_ATTN_BACKEND": "flash"}),
    )
    command = [sys.executable, "-c", PAGE, str(tmp_path), json.dumps(ways)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # The steps of each, of at least one call by block; and a trial of the kernel, which the process makes once.
    calls = json.loads(done.stdout.splitlines()[-1])
    assert len(calls) == 3 and min(calls) > 10
    pictures = [(tmp_path / f"{number}.png").read_bytes() for number in range(3)]
    assert pictures[0] == pictures[1] == pictures[2]
