"""The core draws no hidden random number, writes into no tensor and has no side effect."""

import ast

import pytest

from tests.structure.purity import impurities
from tests.structure.source import at, modules, syntax

CORE = (
    "pure.transforms",
    "pure.models",
    "pure.distributed",
    "pure.configs",
    "pure.engine",
    "pure.serving",
    "pure.cli",
    "pure.testing",
)


def test_core_and_transforms_are_pure():
    checked = {
        name: path
        for name, path in modules().items()
        if name.startswith("pure.transforms") or not name.startswith(CORE)
    }
    assert "pure" in checked and "pure.transforms" in checked
    wrong = [f"{at(path, node)}: {message}" for path in checked.values() for node, message in impurities(syntax(path))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "code",
    [
        "torch.randn(3)",
        "torch.rand(3, generator=None)",
        "torch.randn_like(x)",
        "from torch import randint\nrandint(0, 3, (2,))",
        "x.bernoulli()",
        "torch.manual_seed(0)",
        "import random\nrandom.random()",
        "import numpy as np\nnp.random.default_rng()",
        "x.add_(1)",
        "x[0].mul_(2)",
        "torch.relu_(x)",
        "torch.add(x, y, out=z)",
        "import torch.nn.functional as F\nF.relu(x, inplace=True)",
        "def f(x: torch.Tensor): x += 1",
        "def f(x: Tensor | None): x[0] = 1",
        "def f(x: Tensor): return lambda y: [x.add_(y)]",
        "def f(x: Tensor):\n y = x * 2\n for i in range(3):\n  y += i",
        "def f(xs):\n total = torch.zeros(3)\n def g():\n  y = total[0]\n  y *= 2",
        "def f(x):\n x[:, 0] = 1",
        "def f(x):\n x[..., 0] = 1",
        "def f(x: Tensor, i):\n x[i] += 1",
        "def f(x, i):\n x[:, i] += 1",
        "x.data = y",
        "print(x)",
        "import os\nos.environ['A']",
        "from os import environ\nenviron.get('A')",
    ],
)
def test_the_check_sees(code):
    assert list(impurities(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "torch.randn(3, generator=generator)",
        "torch.Generator().manual_seed(seed)",
        "x.add(1)",
        "obj.__setattr__('a', 1)",
        "super().__init__()",
        "names = {}\nnames['a'] = x",
        "def f(counts, i):\n counts[i] += 1",
        "def f(x: Tensor):\n rows = list(x)\n rows[0] = 1",
        "def f(x: Tensor):\n count = x.shape[0]\n count += 1\n size = x.size(0)\n size -= 1",
        "def f(x: Tensor):\n return {name: x for name in 'ab'}",
        "def f(index):\n index += 1",
        "x = x + 1",
    ],
)
def test_the_check_lets_pass(code):
    assert not list(impurities(ast.parse(code)))
