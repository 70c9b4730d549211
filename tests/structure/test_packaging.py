"""What is installed is what is here: requirements, pins, wheel and source distribution."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.structure.source import NOT_SOURCE, ROOT, modules, package_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> list[Requirement]:
    """Every requirement of the core and of all extras."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [found for line in lines if (found := Requirement(line)).name != PROJECT["name"]]


def pins() -> dict[str, str]:
    """The exact version of everything, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


def test_every_requirement_is_a_range_with_a_pin_in_it():
    pinned = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} has no pin in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} does not admit the pin {pinned[name]}"
        assert "==" not in str(requirement.specifier), f"{requirement}: exact pins belong to constraints.txt"


def test_the_tested_versions_are_the_pinned_ones():
    wrong = []
    for name, pin in pins().items():
        try:
            installed = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that the tests do not need
        if installed != pin:
            wrong.append(f"{name} {installed}, pinned {pin}")
    assert not wrong, f"run `make` again or renew constraints.txt: {wrong}"


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Run a command to its end; its output is the message when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel made from that sdist, of a clean copy of the tree."""
    folder = tmp_path_factory.mktemp("build")
    leave = shutil.ignore_patterns(*NOT_SOURCE, ".git", ".venv", ".*_cache", ".hypothesis", "*.egg-info")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=leave)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "out", ".", folder=folder / "tree")
    return folder / "out"


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
        (commands,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/entry_points.txt"))
    assert {name for name in names if ".dist-info/" not in name} == {path.as_posix() for path in package_files()}
    assert "pure/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "Requires-Python: >=3.11" in metadata
    assert "puredit = pure.cli.main:main" in commands


@pytest.mark.slow
def test_sdist_holds_what_building_and_testing_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        links = [member.name for member in archive.getmembers() if member.issym() or member.islnk()]
    assert not links
    beside = {"LICENSE", "README.md", "pyproject.toml", "constraints.txt", "Makefile", ".ci/run"}
    for folder in ("tests", "training", "benchmarks", "examples", "docs"):
        beside |= {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
    missing = {path.as_posix() for path in package_files()} | beside
    assert not missing - files


@pytest.mark.slow
def test_wheel_works_away_from_the_checkout(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = f"import importlib, pure; [importlib.import_module(m) for m in {list(modules())}]; print(pure.__file__)"
    command = (sys.executable, "-W", "error", "-P", "-c", code)
    output = run(*command, folder=tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    assert Path(output.splitlines()[-1]).is_relative_to(tmp_path)
