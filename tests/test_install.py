"""Claims about an installed puzzle, in processes of their own."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from site import getsitepackages

ROOT = Path(__file__).parents[1]
PACKAGES = ("puzzle", "puzzle_sglang", "puzzle_vllm", "search_space", "solvers")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
ABOVE = """
import site, sys
site.addsitedir(sys.argv[1])
sys.path += sys.argv[2:]
import puzzle
print(puzzle.__file__)
"""


def build(kind, tmp_path):
    """Builds a wheel from a copy of the sources; returns the copy and the wheel's files."""
    clone, wheels, installed = tmp_path / "puzzle", tmp_path / "wheels", tmp_path / "installed"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, clone / name)
    wheels.mkdir()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD.format(kind=kind), str(wheels)],
        cwd=clone,
        check=True,
        capture_output=True,
    )
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return clone, installed


def test_a_wheel_has_every_file_of_the_packages_and_runs_without_a_checkout(tmp_path):
    clone, installed = build("wheel", tmp_path)
    for package in PACKAGES:
        ours = {p.relative_to(clone) for p in (clone / package).rglob("*") if p.is_file()}
        assert ours == {p.relative_to(installed) for p in (installed / package).rglob("*.*")}
    shutil.rmtree(clone)
    for line, words in ((("--version",), "puzzle"), (("layouts",), "nemotron")):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "puzzle", *line],
            cwd=installed,
            env={"PATH": "", "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert words in done.stdout
    (metadata,) = installed.glob("*.dist-info/METADATA")
    text = metadata.read_text()
    assert {"Author", "Keywords", "License"} <= set(re.findall(r"^([\w-]+):", text, re.M))
    assert "Provides-Extra: notebook" in text


def test_python_started_above_a_clone_named_puzzle_imports_the_package(tmp_path):
    clone, installed = build("editable", tmp_path)
    done = subprocess.run(
        # Not as a site, where an editable install of another checkout would come first.
        [sys.executable, "-S", "-W", "ignore", "-c", ABOVE, str(installed), *getsitepackages()],
        cwd=tmp_path,
        env={"PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(clone / "puzzle" / "__init__.py")
