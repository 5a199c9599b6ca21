"""English text that comes with the packages puzzle is tested with: their docstrings.

python benchmarks/common/texts.py        # says how much there is
"""

from __future__ import annotations

import ast
import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("torch", "transformers", "scipy", "numpy", "datasets", "accelerate", "huggingface_hub")
# Shorter ones are mostly "Returns the x."; the code of an example is not prose.
SHORTEST, PROSE = 400, 0.7


def docstrings(packages: tuple[str, ...] = PACKAGES, seed: int = 0) -> list[str]:
    """Returns the longer docstrings of some installed packages, each once, shuffled.

    Args:
        packages: Import names of the packages, which are read and not imported.
        seed: Of the order.
    """
    unique: dict[str, None] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for file in sorted(Path(root).rglob("*.py")):
                unique.update(dict.fromkeys(_of_file(file)))
    texts = sorted(unique)
    random.Random(seed).shuffle(texts)
    return texts


def _of_file(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) >= SHORTEST and _prose(text):
                yield text


def _prose(text: str) -> bool:
    letters = len(re.findall(r"[A-Za-z ]", text))
    return letters > PROSE * len(text) and ">>>" not in text


if __name__ == "__main__":
    longer = docstrings()
    print(f"{len(longer)} docstrings, {sum(map(len, longer)) / 1e6:.1f} MB")
