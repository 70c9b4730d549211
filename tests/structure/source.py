"""Where the source is, and how its syntax is read."""

import ast
import functools
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCE = {"__pycache__", "build", "dist", "outputs"}


def python_files() -> list[Path]:
    """Every Python file of the project, once."""
    found = []
    for folder, subfolders, files in os.walk(ROOT):
        subfolders[:] = [name for name in subfolders if name not in NOT_SOURCE and not name.startswith(".")]
        found += [Path(folder, file) for file in files if file.endswith(".py")]
    return sorted(found)


def package_files() -> list[Path]:
    """Every file a user of the package gets, under its path in the package: `pure/transforms/...`."""
    found = []
    for folder, subfolders, files in os.walk(ROOT / "pure", followlinks=True):
        subfolders[:] = [name for name in subfolders if name not in NOT_SOURCE and not name.startswith(".")]
        found += [Path(folder, file).relative_to(ROOT) for file in files if not file.startswith(".")]
    return sorted(found)


def modules() -> dict[str, Path]:
    """The modules of the package: `{"pure.transforms.dbcache": path, ...}`."""
    found = {}
    for path in package_files():
        if path.suffix == ".py":
            parts = path.with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ROOT / path
    return found


@functools.cache
def syntax(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def at(path: Path, node: ast.AST) -> str:
    """Where a node is, as an editor understands it."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def dotted(node: ast.AST) -> str:
    """`torch.nn.functional` for the expression of that name, "" for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[ast.AST, str]]:
    """What the code of a module imports, wherever it does: each module and each name taken from one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            yield node, base
            for alias in node.names:
                yield node, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in {"import_module", "__import__"}:
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node, str(node.args[0].value)
