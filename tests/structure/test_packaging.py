"""What is installed is what is here: requirements, pins, wheel and source distribution."""

import email
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pure.links import REPOSITORY
from tests.structure.source import NOT_SOURCE, ROOT, modules, package_files, python_files
from tests.structure.test_types import PACKAGES

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
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "out", ".")
    (folder / "log").write_text(run(*command, folder=folder / "tree"), encoding="utf-8")
    return folder / "out"


@pytest.mark.slow
def test_building_warns_of_nothing(built):
    lines = (built.parent / "log").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if re.search("warn|deprecat", line, re.IGNORECASE)]
    assert not [line for line in told if "byte-compiling is disabled" not in line]  # as the environment asks for


@pytest.mark.slow
def test_the_long_description_reads_outside_the_repository(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    metadata = email.message_from_string(text)
    body, readme = metadata.get_payload(), (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]*)\)", str(body))
    assert len(links) == len(re.findall(r"\]\(([^)#]*)\)", readme)) > 10
    assert all(link.startswith("https://") for link in links), links
    assert f"({REPOSITORY}/raw/main/docs/demo.png)" in str(body)
    assert metadata["Author"] == "puredit contributors"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_addresses_come_from_one_constant():
    assert all(address.startswith(REPOSITORY) for address in PROJECT["urls"].values())
    files = [path for path in python_files() if path.name != "links.py" and "tests" not in path.parts]
    assert not [path for path in files if REPOSITORY in path.read_text(encoding="utf-8")]


def test_every_tested_python_is_classified():
    tested = f"Programming Language :: Python :: {sys.version_info.major}.{sys.version_info.minor}"
    assert tested in PROJECT["classifiers"]


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
    assert "puredit = pure.cli.start:start" in commands


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


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The Python of an environment with the wheel, and everything else from this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    libraries = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(libraries)
    (libraries / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def readme_loop() -> str:
    """The loop of the README."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.mark.slow
def test_the_loop_of_the_readme_passes_strict_type_checks_against_the_installed_wheel(installed, tmp_path):
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    (tmp_path / "loop.py").write_text(readme_loop())
    (tmp_path / "wrong.py").write_text(readme_loop().replace("seed=42", "seed='42'").replace("(latents)", "(steps)"))
    pyright = (sys.executable, "-m", "pyright", "--pythonpath", installed)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", installed)
    for command in (pyright, mypy):  # both files at once: what they import is read once
        with pytest.raises(AssertionError, match=r'(?s)wrong\.py.*"str".*"tuple\[Step, \.\.\.\]"') as told:
            run(*command, "loop.py", "wrong.py", folder=tmp_path, PYTHONPATH="")
        assert set(re.findall(r"(\w+\.py):\d+", str(told.value))) == {"wrong.py"}


@pytest.mark.slow
def test_lazy_names_have_types_in_the_installed_wheel(installed, tmp_path):
    """Imported when they are first read, or not: a type checker sees what they are."""
    names = [f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__]
    lines = [*(f"import {package}" for package in PACKAGES), *(f"reveal_type({name})" for name in names)]
    (tmp_path / "names.py").write_text("\n".join(lines))
    told = run(sys.executable, "-m", "pyright", "--pythonpath", installed, "names.py", folder=tmp_path, PYTHONPATH="")
    types = dict(re.findall(r'Type of "([\w.]+)" is "(.*)"', told))
    assert types.keys() == set(names)
    assert not {name: kind for name, kind in types.items() if kind in ("Unknown", "Any", "object", "Module")}
