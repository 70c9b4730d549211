"""The rooms of the house: their order of imports, and who imports whom."""

from tests.structure.source import imported, modules, syntax

# A room imports itself and those of the lines above it. Rooms of one line do not know each other, but for the
# arrows that are named. "pure" holds the modules directly in pure/.
HOUSE = (
    ("pure",),
    ("pure.transforms", "pure.models", "pure.distributed"),
    ("pure.configs", "pure.testing"),
    ("pure.engine",),
    ("pure.serving", "pure.cli"),
)
ARROWS = {
    ("pure.cli.serve", "pure.serving"),
    ("pure", "pure.models.accelerate"),  # lazy
    ("pure", "pure.engine.tuning"),  # lazy
    ("pure", "pure.engine.notebook"),  # lazy
    ("pure.__main__", "pure.cli"),
}
FOLDERS = {room.split(".")[1] for rooms in HOUSE for room in rooms if "." in room}
NOT_SHIPPED = {"training", "tests", "benchmarks", "examples"}


def room(name: str) -> tuple[int, str] | None:
    """The room that a dotted name belongs to, with its line; None for other people's modules."""
    fits = [
        (line, each)
        for line, rooms in enumerate(HOUSE)
        for each in rooms
        if name == each or name.startswith(f"{each}.")
    ]
    return max(fits, default=None)


def violation(module: str, name: str) -> str | None:
    """Why `module` must not import `name`; None when it may."""
    own, other = room(module), room(name)
    top = name.split(".")[0]
    if top in FOLDERS:
        return f"import pure.{name}: `{name}` would be a second copy of it"
    if own is not None and other is not None and own != other and own[0] <= other[0]:
        if not any(module == a and name.startswith(b) for a, b in ARROWS):
            return f"{own[1]} must not import {other[1]} ({name})"
    if own is not None and top in NOT_SHIPPED:
        return f"the package must not import {name}, which is not part of it"
    return None


def graph() -> dict[str, set[str]]:
    """Which modules of the package each one imports: lazily, or for type checkers only, counts too."""
    shipped = modules()
    edges: dict[str, set[str]] = {}
    for module, path in shipped.items():
        package = path.name == "__init__.py"
        edges[module] = {name for _, name in imported(syntax(path), module, package) if name in shipped} - {module}
    return edges


def arrows() -> set[tuple[str, str]]:
    """Which room imports which, without those that follow from others."""
    direct = {
        (a[1], b[1])
        for module, found in graph().items()
        for name in found
        if (a := room(module)) and (b := room(name)) and a != b and a[0] >= b[0]
    }
    lines = {each: line for line, rooms in enumerate(HOUSE) for each in rooms}
    reach = {(a, b) for a, b in direct if lines[a] != lines[b]}  # an arrow beside a room is no way down
    for _ in HOUSE:
        reach |= {(a, d) for a, b in reach for c, d in reach if b == c}
    return {(a, c) for a, c in direct if not any((a, b) in reach and (b, c) in reach for _, b in reach)}
