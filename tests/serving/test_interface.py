"""What clients may send and read does not change unnoticed: routes, fields, words, statuses and counters.

`python -m tests.serving.test_interface` writes the file anew; a change of it belongs into the change log.
"""

from pathlib import Path
from typing import Any

from starlette.routing import Route

from pure.serving.http import about, asking, fields, images, pictures, videos
from pure.serving.http.errors import KINDS, STATUSES
from pure.serving.metrics import HELP

FILE = Path(__file__).with_name("fields.txt")


def interface() -> str:
    lines = []
    routes: list[Any] = [each for part in (about, images, videos) for each in part.router.routes]
    lines += [f"{' '.join(sorted(each.methods or ()))} {each.path}" for each in routes if isinstance(each, Route)]
    for name in ("IMAGE", "EDIT", "VIDEO"):
        route = getattr(fields, name)
        lines.append(f"\n{name}: files {', '.join(route.files)}; urls {', '.join(route.urls)}; {route.advice}")
        lines += [f"  {field}: {kind.allowed}" for field, kind in route.kinds.items()]
    lines.append("")
    lines += [f"page {field}: {kind.allowed}" for field, kind in videos.PAGE.items()]
    lines += [f"quality {word} is {value}" for word, value in fields.QUALITIES.items()]
    lines += [f"format {word} is {value}" for word, value in asking.ENCODINGS.items()]
    lines += [f"a picture of {word} is kept as {value}" for word, value in pictures.SUFFIXES.items()]
    lines += [f"{word} is sent as {value}" for word, value in images.MEDIA.items()]
    lines += [f"{word} is no route: {value}" for word, value in about.ABSENT.items()]
    lines += [f"{word} is of LoRA" for word in about.LORA] + [f"{word} answers at once" for word in about.HEALTH]
    lines += [f"{word.__name__} is status {value}" for word, value in STATUSES.items()]
    lines += [f"status {word} is of type {value}" for word, value in KINDS.items()]
    lines += [f"objects of fields: {' '.join(fields.EXTRAS)}", f"pictures: {' '.join(fields.PICTURES)}"]
    lines += [f"{kind} {name}: {help}" for name, (kind, help) in HELP.items()]
    return "\n".join(lines) + "\n"


def test_what_clients_may_send_and_read_is_what_the_file_says() -> None:
    assert interface().splitlines() == FILE.read_text().splitlines()


if __name__ == "__main__":
    FILE.write_text(interface())
