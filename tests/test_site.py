"""The documentation site: it builds without a warning, and has every guide, every method and every public name."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pure.transforms

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The module of the hooks, which is in no package."""
    found = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site; strict, so that a link without an end fails it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path, hooks: ModuleType) -> None:
    for namespace in hooks.NAMESPACES:
        page = (site / "reference" / namespace.split(".")[-1] / "index.html").read_text(encoding="utf-8")
        for name in importlib.import_module(namespace).__all__:
            assert f'id="{hooks.home(namespace, name)}"' in page, f"{namespace}.{name}"


@pytest.mark.slow
def test_records_have_their_arguments_and_doctests_are_code(site: Path) -> None:
    page = (site / "reference" / "transforms" / "index.html").read_text(encoding="utf-8")
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page))
    assert "max_accumulated: float | None = None" in words
    assert "&gt;&gt;&gt; </span>" in page and "<blockquote>" not in page


@pytest.mark.slow
def test_every_method_and_every_document_has_its_page(site: Path) -> None:
    methods = (site / "methods" / "index.html").read_text(encoding="utf-8")
    files = {path.stem for path in (ROOT / "transforms").glob("*.py")} & set(pure.transforms.__all__)
    assert len(files) > 8 and all(f'id="{name}"' in methods for name in files)
    assert methods.count('class="arithmatex"') >= 8
    pages = {path.parent.name for path in site.glob("*/index.html")}
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"contributing", "changelog"}
    assert documents <= pages
    assert "Diffusion-transformer inference" in (site / "index.html").read_text(encoding="utf-8")


def test_links_out_of_the_documents_become_addresses(hooks: ModuleType) -> None:
    def moved(text: str, page: str) -> str:
        return hooks.on_page_markdown(text, page=_Page(page), config=None, files=None)

    address = hooks.REPOSITORY
    assert moved("[a](docs/models.md#b)", "index.md") == "[a](models.md#b)"
    assert moved("[a](pure/rules.py) [b](tests)", "index.md") == (
        f"[a]({address}/blob/main/pure/rules.py) [b]({address}/tree/main/tests)"
    )
    assert moved("[a](../README.md)", "models.md") == "[a](index.md)"
    assert moved("```\n[a](nothing)\n```", "models.md") == "```\n[a](nothing)\n```"
    with pytest.raises(FileNotFoundError, match=r"docs/models\.md: the link to \.\./nothing\.md leads nowhere"):
        moved("[a](../nothing.md)", "models.md")


class _Page:
    """As much of a page as the hook reads."""

    def __init__(self, path: str) -> None:
        self.file = self
        self.src_uri = path
