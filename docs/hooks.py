"""What `make docs` adds to the documents: README, changelog, contributing, and the reference of all public names.

Nothing is written into the repository: pages are made from the files and the code while the site is built. Links that
lead out of docs/ become addresses of the repository.
"""

import ast
import importlib
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from pure.links import REPOSITORY

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
NAMESPACES = ("pure", "pure.transforms", "pure.models", "pure.distributed", "pure.configs", "pure.testing")
LINK = re.compile(r"(!?\[[^\]]*\]\()(?!https?:|#|mailto:)([^)#\s]+)((?:#[^)]*)?\))")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/."""
    pages = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in TEXTS.items()}
    pages |= {f"reference/{name.split('.')[-1]}.md": reference(name) for name in NAMESPACES}
    pages["methods.md"] = methods()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to other files of the repository into links that lead there from the site."""
    source = {made: name for name, made in TEXTS.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(lambda link: moved(link, source, page.file.src_uri), part) for part in parts[::2]]
    return "".join(parts)


def moved(link: re.Match[str], source: str, page: str) -> str:
    """Return a link as it is on the site, of a page that was made from the file `source`."""
    start, target, end = link.groups()
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    inside = TEXTS.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if inside is not None:
        return start + posixpath.relpath(inside, posixpath.dirname(page) or ".") + end
    if page.startswith("reference/") or page == "methods.md":
        return link.group(0)  # written by mkdocstrings' own rules
    if not (ROOT / path).exists():
        raise FileNotFoundError(f"{source}: the link to {target} leads nowhere")
    return f"{start}{REPOSITORY}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}{end}"


def home(namespace: str, name: str) -> str:
    """Return where a public name is defined: a function may be called as the file that it is in."""
    found = getattr(importlib.import_module(namespace), name)
    own = getattr(found, "__name__", "") == name and found.__module__.startswith("pure.")  # else a constant
    return f"{found.__module__ if own else namespace}.{name}"


def reference(namespace: str) -> str:
    """Return the page of a namespace: its docstring, then every public name."""
    module = importlib.import_module(namespace)
    public = [f"::: {home(namespace, name)}\n    options: {{heading_level: 2}}" for name in module.__all__]
    whole = f"::: {namespace}\n    options: {{heading_level: 1, members: [], show_root_full_path: true}}"
    return "\n\n".join([whole, *public]) + "\n"


def methods() -> str:
    """Return the page of methods: what every file of transforms/ says of its equation, and where it was published."""
    public = importlib.import_module("pure.transforms").__all__
    found = [
        "# Methods",
        "Each is a transform that edits the plan of a denoiser, in a file of its own. They compose in any order.",
    ]
    for path in sorted(ROOT.glob("transforms/*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if path.stem in public and docstring:
            call = f"[`{path.stem}`][{home('pure.transforms', path.stem)}]"
            found += [f"## `{path.stem}`", docstring, f"Arguments and reference: {call}."]
    return "\n\n".join(found) + "\n"
