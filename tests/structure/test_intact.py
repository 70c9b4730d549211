"""A broken installation says what is wrong with it, and how to mend it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.structure.source import ROOT


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package without its checkpoint."""
    shutil.copytree(ROOT / "pure", tmp_path / "pure", ignore=shutil.ignore_patterns("emoji", "__pycache__"))
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run Python with a package."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("room", ["transforms", "configs", "models", "distributed"])
def test_another_package_over_this_one(copied: Path, room: str) -> None:
    (copied / "pure" / "__init__.py").write_text('__all__ = ["prompt"]\n')
    done = run(copied, "-c", f"import pure.{room}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "ImportError: another package named `pure` was installed over puredit"
    )
    assert "pip uninstall --yes pure puredit && pip install puredit" in done.stderr


def test_the_command_says_so_without_a_traceback(copied: Path) -> None:
    (copied / "pure" / "__init__.py").write_text("")
    done = run(copied, "-c", "from pure.cli.main import main; main()", "--help")
    assert done.returncode == 1 and done.stderr.startswith("error: another package named `pure`")
    assert len(done.stderr.splitlines()) == 1


def test_a_checkout_without_links(copied: Path) -> None:
    shutil.rmtree(copied / "pure" / "transforms")
    (copied / "pure" / "transforms").write_text("../transforms")
    done = run(copied, "-c", "import pure")
    assert done.returncode == 1 and "git clone -c core.symlinks=true" in done.stderr.splitlines()[-1]


def test_a_whole_package(copied: Path) -> None:
    done = run(copied, "-c", "import pure, pure.transforms; print(pure.transforms.dbcache())")
    assert done.returncode == 0 and done.stdout.startswith("dbcache(") and not done.stderr
