"""Claims about an installed puzzle, in processes of their own."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("puzzle", "puzzle_vllm", "search_space", "solvers")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
ABOVE = "import site, sys; site.addsitedir(sys.argv[1]); import puzzle; print(puzzle.__file__)"


def test_python_started_above_a_clone_named_puzzle_imports_the_package(tmp_path):
    clone, wheels, installed = tmp_path / "puzzle", tmp_path / "wheels", tmp_path / "installed"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, clone / name)
    wheels.mkdir()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, str(wheels)],
        cwd=clone,
        check=True,
        capture_output=True,
    )
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ABOVE, str(installed)],
        cwd=tmp_path,
        env={"PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(clone / "puzzle" / "__init__.py")
