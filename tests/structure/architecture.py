"""The picture of the architecture, made from the code: `python -m tests.structure.architecture` writes it.

It shows the rooms, which of them import each other, and the walk from a prompt to pixels: a real run of
`puredit generate`, watched, in the order in which it enters functions of another room.
"""

import ast
import contextlib
import html
import importlib
import io
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

from tests.structure.house import HOUSE, arrows, room
from tests.structure.source import ROOT, modules, syntax

PICTURE, GUIDE = ROOT / "docs" / "architecture.svg", ROOT / "docs" / "architecture.md"
MARKS = "<!-- walk -->", "<!-- /walk -->"
COMMAND = ["generate", "--prompt", "a red apple", "--num-inference-steps", "3", "--cache-dit-config", "cache.yaml"]
STAGES = {"make_command": "check", "load": "load", "perform": "make"}
"""The functions of the shell that the run goes through, and what the stages of the walk are called."""
VALUES = ("pure.configs.kinds", "pure.checks")  # how single values are read and checked is no part of the way
BOX, GAP, HEIGHT, RISE, EDGE = 330, 30, 124, 40, 20  # pixels
STYLE = """
    text { font-family: sans-serif; font-size: 13px; fill: #222 }
    .name { font-weight: bold; font-size: 15px }
    .room { fill: #eef3fa; stroke: #5b7fa6 }
    .arrow { stroke: #5b7fa6; stroke-width: 1.5; marker-end: url(#head) }
"""


def purpose(name: str) -> str:
    """The first sentence of a module's docstring."""
    return (ast.get_docstring(syntax(modules()[name])) or "").split("\n")[0]


def walk() -> list[tuple[str, str, str]]:
    """The functions of a room that another room calls, as `(stage, module, function)`, in the order of their calls.

    A function stands once, in the stage that calls it first.
    """
    # Imported before anything is watched: they would be watched too, call by call.
    from diffusers import AutoencoderKL, FluxTransformer2DModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer  # noqa: F401

    from pure.cli.main import run

    found: dict[tuple[str, str], str] = {}

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (entered := _entered(frame)) and entered not in found:
            found[entered] = _stage(frame)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        before = sys.getprofile()
        sys.setprofile(watch)
        try:
            code = run([*COMMAND, "--output-path", folder, "--log-level", "error"])
        finally:
            sys.setprofile(before)
    assert code == 0
    return [(found[name], *name) for name in _of_note(found)]


def _stage(frame: FrameType | None) -> str:
    """The stage of the run that a call belongs to; empty before the first."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("pure.cli.") and frame.f_code.co_name in STAGES:
            return STAGES[frame.f_code.co_name]
        frame = frame.f_back
    return ""


def _entered(frame: FrameType) -> tuple[str, str] | None:
    """The function that a call enters, if it is of another room than whoever calls it."""
    module = frame.f_globals.get("__name__", "")
    here = room(module)
    if here is None or module in VALUES:
        return None
    caller = frame.f_back
    while caller is not None and room(caller.f_globals.get("__name__", "")) is None:
        caller = caller.f_back
    if caller is not None and (room(caller.f_globals["__name__"]) == here or _imports(caller)):
        return None
    if caller is not None and here[1] == "pure.cli":  # what the command was asked to show on the way
        return None
    return module, frame.f_code.co_qualname


def _imports(frame: FrameType) -> bool:
    """Whether a frame runs while a module is imported: the module itself, or the body of a class."""
    return frame.f_locals is frame.f_globals or "__qualname__" in frame.f_locals


def _of_note(found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Leave out what is no step of the way: records that are made, properties, private and local functions."""
    for module, name in found:
        thing: Any = importlib.import_module(module)
        owner = None
        for part in name.split("."):
            owner, thing = thing, getattr(thing, part, None)
        parts = name.split(".")
        private = any(part.startswith(("_", "<")) and part != "__call__" for part in parts)
        function = getattr(thing, "__func__", thing)
        if private or not callable(thing) or not isinstance(getattr(function, "__code__", None), CodeType):
            continue
        if isinstance(vars(owner).get(parts[-1]) if isinstance(owner, type) else None, property):
            continue
        yield module, name


def visits(steps: list[tuple[str, str, str]]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """The walk by stage and room: each stage enters a room at one place, by functions in the order of their calls."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for stage, module, name in steps:
        found.setdefault((stage, _short(module)), []).append((module, name))
    return [(stage, place, names) for (stage, place), names in found.items()]


def table(steps: list[tuple[str, str, str]]) -> str:
    """The walk as a table of Markdown."""
    rows = ["| | stage | room | functions by which it is entered | what the first of them does |", "| --- " * 5 + "|"]
    for number, (stage, place, names) in enumerate(visits(steps), 1):
        module, name = names[0]
        thing: Any = importlib.import_module(module)
        for part in name.split("."):
            thing = getattr(thing, part)
        says = (thing.__doc__ or "").split("\n")[0]
        functions = ", ".join(f"`{_within(each)}{function}`" for each, function in names)
        rows.append(f"| {number} | {stage} | {place} | {functions} | {says} |")
    return "\n".join(rows)


def _short(module: str) -> str:
    found = room(module)
    assert found is not None
    return f"`{found[1].removeprefix('pure.')}`"


def _within(module: str) -> str:
    found = room(module)
    assert found is not None
    inner = module.removeprefix(found[1]).removeprefix(".")
    return f"{inner}." if inner else ""


def picture(steps: list[tuple[str, str, str]]) -> str:
    """The picture: a box for every room, arrows to those it imports, and the numbers of the walk in it."""
    rows = list(reversed(HOUSE))
    width = max(map(len, rows)) * (BOX + GAP) - GAP + 2 * EDGE
    places: dict[str, tuple[float, float]] = {}
    for line, rooms in enumerate(rows):
        left = (width - len(rooms) * (BOX + GAP) + GAP) / 2
        for place, name in enumerate(rooms):
            places[name] = left + place * (BOX + GAP), EDGE + line * (HEIGHT + RISE)
    height = EDGE * 2 + len(rows) * (HEIGHT + RISE) - RISE
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5b7fa6"/></marker>'
    )
    shapes = [_arrow(places[a], places[b]) for a, b in sorted(arrows())]
    for name, place in places.items():
        numbers = [number for number, (_, short, _) in enumerate(visits(steps), 1) if short == _short(name)]
        shapes += _box(name, place, numbers)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">',
            f"<style>{STYLE}</style><defs>{head}</defs>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *shapes,
            "</svg>\n",
        )
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    if start[1] == end[1]:  # the one between neighbours: cli starts the server
        right = start[0] > end[0]
        x1, x2 = (start[0], end[0] + BOX) if right else (start[0] + BOX, end[0])
        y = start[1] + HEIGHT / 2
        return f'<line class="arrow" x1="{x1:g}" y1="{y:g}" x2="{x2:g}" y2="{y:g}"/>'
    if end[1] - start[1] > HEIGHT + RISE + 1:  # past a room between them, on its right
        side, y = start[0] + BOX + 14, start[1] + HEIGHT / 2
        points = ((start[0] + BOX, y), (side, y), (side, end[1] - RISE / 2), (end[0] + BOX - 40, end[1]))
        return f'<polyline class="arrow" fill="none" points="{" ".join(f"{a:g},{b:g}" for a, b in points)}"/>'
    x1, x2 = start[0] + BOX / 2, end[0] + BOX / 2
    x1 += max(-BOX / 3, min(BOX / 3, (x2 - x1) / 3))
    return f'<line class="arrow" x1="{x1:g}" y1="{start[1] + HEIGHT:g}" x2="{x2:g}" y2="{end[1]:g}"/>'


def _box(name: str, place: tuple[float, float], numbers: list[int]) -> list[str]:
    x, y = place
    label = f"{name.removeprefix('pure.')}/"
    lines = textwrap.wrap(purpose(name), 42)[:3]
    found = [
        f'<rect class="room" x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="6"/>',
        f'<text class="name" x="{x + 12:g}" y="{y + 22:g}">{label}</text>',
    ]
    for number, line in enumerate(lines):
        found.append(f'<text x="{x + 12:g}" y="{y + 42 + 17 * number:g}">{html.escape(line)}</text>')
    if numbers:
        said = textwrap.wrap(f"walk: {_ranges(numbers)}", 46)
        for number, line in enumerate(reversed(said)):
            found.append(f'<text x="{x + 12:g}" y="{y + HEIGHT - 9 - 15 * number:g}">{line}</text>')
    return found


def _ranges(numbers: list[int]) -> str:
    """Say 1-3, 7 for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def guide(steps: list[tuple[str, str, str]]) -> str:
    """The guide with its table renewed."""
    before, rest = GUIDE.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return f"{before}{MARKS[0]}\n{table(steps)}\n{MARKS[1]}{after}"


def main() -> None:
    """Write picture and table; with --check only compare them with what stands there."""
    steps = walk()
    made = {PICTURE: picture(steps), GUIDE: guide(steps)}
    if "--check" in sys.argv:
        stale = [path.name for path, text in made.items() if path.read_text(encoding="utf-8") != text]
        sys.exit(f"out of date: {', '.join(stale)}; run: python -m tests.structure.architecture" if stale else 0)
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
