"""Imports go one way, and nothing but the core dependencies is needed to import the package."""

import ast
import importlib.metadata
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.structure.house import FOLDERS, NOT_SHIPPED, graph, violation
from tests.structure.source import ROOT, at, imported, modules, python_files, syntax


@pytest.mark.parametrize(
    ("module", "code", "wrong"),
    [
        ("pure.state", "import pure.transforms", True),
        ("pure.state", "from pure import transforms", True),
        ("pure.transforms.dbcache", "def f():\n    from pure.models.flux import apply", True),
        ("pure.transforms.dbcache", "from ..models import flux", True),
        ("pure.transforms.dbcache", "import importlib\nimportlib.import_module('pure.models')", True),
        ("pure.models.flux.denoiser", "from transforms import dbcache", True),
        ("pure.configs.schema", "import pure.cli.main", True),
        ("pure.serving.worker", "import pure.cli.main", True),
        ("pure.serving.worker", "from pure.cli.serve import serve", True),
        ("pure.engine.denoising", "import pure.serving.worker", True),
        ("pure.models.flux.denoiser", "import training.model", True),
        ("pure.transforms.dbcache", "from .. import state\nfrom . import scm\nimport torch", False),
        ("pure.cli.main", "import pure.engine.denoising, pure.configs", False),
        ("pure.models.flux.denoiser", "from pure.denoiser import Denoiser", False),
    ],
)
def test_the_check_sees(module, code, wrong):
    found = [violation(module, name) for _, name in imported(ast.parse(code), module, is_package=False)]
    assert any(found) == wrong


def test_imports_go_one_way():
    shipped = modules()
    files = {path: name for name, path in shipped.items()}
    files |= {path: "" for path in python_files() if path.relative_to(ROOT).parts[0] in NOT_SHIPPED}
    assert len(shipped) > len(FOLDERS), "the package was not found"
    wrong = [
        f"{at(path, node)}: {reason}"
        for path, module in files.items()
        for node, name in imported(syntax(path), module, is_package=path.name == "__init__.py")
        if (reason := violation(module, name))
    ]
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_no_circle_of_imports():
    # A package's __init__ collects its modules, which import each other by their own names: it is no part of a way.
    edges = {module: found for module, found in graph().items() if modules()[module].name != "__init__.py"}
    done: set[str] = set()
    way: list[str] = []
    circles = []

    def visit(module: str) -> None:
        if module in way:
            circles.append(" -> ".join([*way[way.index(module) :], module]))
            return
        if module in done:
            return
        way.append(module)
        for other in sorted(edges[module] & edges.keys()):
            visit(other)
        way.pop()
        done.add(module)

    for module in sorted(edges):
        visit(module)
    assert not circles, "\n".join(circles)


def on_import(tree: ast.Module) -> list[ast.stmt]:
    """The statements that run when a module is imported: no function bodies, nothing for type checkers only."""
    pending, found = list(tree.body), []
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


# Files that are of an extra from end to end, and are themselves imported where they are used.
OWN = {
    "serve": ("pure.serving",),
    "quant": ("pure.transforms.quantize.exact_int8",),
    "testing": ("pure.testing.checking", "pure.testing.recipes", "pure.testing.strategies"),
}


def test_extras_are_imported_where_they_are_used():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        canonicalize_name(Requirement(line).name): extra
        for extra, lines in project["optional-dependencies"].items()
        for line in lines
    }
    provided_by = importlib.metadata.packages_distributions()
    wrong = []
    for module, path in modules().items():
        for statement in on_import(syntax(path)):
            for node, name in imported(statement, module, is_package=path.name == "__init__.py"):
                names = {canonicalize_name(provider) for provider in provided_by.get(name.split(".")[0], ())}
                wrong += [
                    f"{at(path, node)}: {name} is in the extra {extras[found]!r}; import it where it is used"
                    for found in names & set(extras)
                    if found != "puredit" and not module.startswith(OWN.get(extras[found], ()))
                ]
    assert not wrong, "\n".join(sorted(set(wrong)))


@pytest.mark.parametrize("package", ["pure", "pure.configs"])
def test_no_module_takes_the_place_of_a_public_name(package):
    # These packages import a module where a name of it is first read, and importing a module sets it in its package.
    lazy = importlib.import_module(package)
    inside = {name.rpartition(".")[2] for name in modules() if name.rpartition(".")[0] == package}
    assert "__getattr__" in vars(lazy) and inside
    assert not inside & set(lazy.__all__)
