"""Imports go one way, and nothing but the core dependencies is needed to import the package."""

import ast
import importlib.metadata
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.structure.source import ROOT, at, imported, modules, python_files, syntax

# A layer imports itself and those before it. "pure" holds the modules directly in pure/. The server works with the
# parts of the command line; the command that starts it, and the one that knows all commands, come last.
LAYERS = (
    "pure",
    "pure.transforms",
    "pure.models",
    "pure.distributed",
    "pure.configs",
    "pure.cli",
    "pure.serving",
    "pure.cli.serve",
    "pure.cli.main",
)
FOLDERS = {layer.split(".")[1] for layer in LAYERS if "." in layer}
NOT_SHIPPED = {"training", "tests", "benchmarks", "examples"}


def layer(name: str) -> int | None:
    """The layer that a dotted name belongs to; None for other people's modules."""
    return max((i for i, root in enumerate(LAYERS) if name == root or name.startswith(f"{root}.")), default=None)


def violation(module: str, name: str) -> str | None:
    """Why `module` must not import `name`; None when it may."""
    own, other = layer(module), layer(name)
    top = name.split(".")[0]
    if top in FOLDERS:
        return f"import pure.{name}: `{name}` would be a second copy of it"
    if own is not None and other is not None and other > own:
        return f"{LAYERS[own]} must not import {LAYERS[other]} ({name})"
    if own is not None and top in NOT_SHIPPED:
        return f"the package must not import {name}, which is not part of it"
    return None


@pytest.mark.parametrize(
    ("module", "code", "wrong"),
    [
        ("pure.state", "import pure.transforms", True),
        ("pure.state", "from pure import transforms", True),
        ("pure.transforms.dbcache", "def f():\n    from pure.models.flux import apply", True),
        ("pure.transforms.dbcache", "from ..models import flux", True),
        ("pure.transforms.dbcache", "import importlib\nimportlib.import_module('pure.models')", True),
        ("pure.models.flux", "from transforms import dbcache", True),
        ("pure.configs.schema", "import pure.cli.main", True),
        ("pure.serving.engine", "import pure.cli.main", True),
        ("pure.serving.engine", "from pure.cli.serve import serve", True),
        ("pure.cli.running", "import pure.serving.engine", True),
        ("pure.serving.engine", "import pure.cli.running", False),
        ("pure.models.flux", "import training.model", True),
        ("pure.transforms.dbcache", "from .. import state\nfrom . import scm\nimport torch", False),
        ("pure.cli.main", "import pure.serving.engine, pure.configs", False),
        ("pure.models.flux", "from pure.denoiser import Denoiser", False),
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
                    if found != "puredit" and not (extras[found] == "serve" and module.startswith("pure.serving"))
                ]
    assert not wrong, "\n".join(sorted(set(wrong)))
