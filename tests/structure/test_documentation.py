"""Every public name says what it is, and every example in a docstring is true."""

import ast
import collections
import contextlib
import doctest
import importlib
import io
import itertools
import pkgutil
from collections.abc import Iterator

import pytest

import pure
from tests.structure.source import ROOT, at, modules, syntax

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def undocumented(source: str, exported: set[str]) -> Iterator[tuple[ast.AST, str]]:
    """The public names of a module that nothing describes: itself, functions, classes, methods, exported values.

    A value is described by a string below it, or a comment above it or in its line.
    """
    tree, lines = ast.parse(source), ["", *source.splitlines()]
    if not ast.get_docstring(tree):
        yield tree, "the module"
    yield from _undocumented_definitions(tree.body)
    for node, below in itertools.pairwise([*tree.body, ast.Pass()]):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            comment = lines[node.lineno - 1].startswith("#") or "  # " in lines[node.lineno]
            if comment or (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((node, t.id) for t in targets if isinstance(t, ast.Name) and t.id in exported)


def _undocumented_definitions(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[ast.AST, str]]:
    for node in body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            decorators = {ast.unparse(decorator).split(".")[-1] for decorator in node.decorator_list}
            if not ast.get_docstring(node) and not decorators & {"overload", "setter"}:
                yield node, owner + node.name
            if isinstance(node, ast.ClassDef):
                yield from _undocumented_definitions(node.body, f"{owner}{node.name}.")


def exports(tree: ast.Module) -> dict[str, str]:
    """The names in `__all__`, each with the module it is imported from ("" when defined here)."""
    origin = {
        alias.asname or alias.name: node.module or ""
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    return {name: origin.get(name, "") for names in lists for name in ast.literal_eval(names)}


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("x = 1", ["the module"]),
        ('"""M."""\ndef f(): ...', ["f"]),
        ('"""M."""\nclass A:\n  """A."""\n  def f(self): ...\n  def _g(self): ...', ["A.f"]),
        ('"""M."""\n__all__ = ["A"]\nA = 1\n', ["A"]),
        ('"""M."""\n__all__ = ["A"]\nA = 1\n"""What A is."""\nb = 2', []),
        ('"""M."""\n__all__ = ["A", "B"]\n# What A is.\nA = 1\nB = 2  # what B is', []),
        ('"""M."""\ndef f():\n  """F."""\n  def inner(): ...\ndef _g(): ...', []),
    ],
)
def test_the_check_sees(code, missing):
    assert [name for _, name in undocumented(code, set(exports(ast.parse(code))))] == missing


def test_every_public_name_is_documented():
    exported = collections.defaultdict[str, set[str]](set)
    for module, path in modules().items():
        for name, origin in exports(syntax(path)).items():
            exported[origin or module].add(name)
    wrong = [
        f"{at(path, node)}: {name}"
        for module, path in modules().items()
        for node, name in undocumented(path.read_text(encoding="utf-8"), exported[module])
    ]
    assert not wrong, "nothing says what these are:\n" + "\n".join(wrong)


@pytest.mark.parametrize("module", list(modules()))
def test_exports_exist(module):
    loaded = importlib.import_module(module)
    missing = [name for name in getattr(loaded, "__all__", ()) if not hasattr(loaded, name)]
    assert not missing, f"{module}.__all__ names what is not there: {missing}"


def test_the_package_is_found_under_one_name():
    found = {module.name for module in pkgutil.walk_packages(pure.__path__, "pure.")}
    assert found | {"pure"} == set(modules()), "a folder without __init__.py, or a missing link in pure/"


@pytest.mark.parametrize("module", [name for name, path in modules().items() if ">>>" in path.read_text("utf-8")])
def test_examples_in_docstrings(module):
    loaded = importlib.import_module(module)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(optionflags=flags)
    examples = [test for test in finder.find(loaded, module) if test.examples]
    assert examples, f"{module}: examples that doctest does not find (a docstring of something private or wrapped?)"
    with contextlib.redirect_stdout(io.StringIO()) as output:
        for test in examples:
            runner.run(test)
    assert runner.failures == 0, output.getvalue()


def test_links_lead_to_the_folders_beside_the_package():
    for link in filter(lambda path: path.is_symlink(), (ROOT / "pure").iterdir()):
        assert link.resolve() == ROOT / link.name
