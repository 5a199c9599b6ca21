"""The versions that results depend on, which every artifact is stored with."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from platform import python_version

# Each artifact asks, and each answer would be parsed from a file for milliseconds.
_version = cache(metadata.version)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    installed = {"python": python_version()}
    for label in ("puzzle", "torch", "transformers", "numpy"):
        try:
            installed[label] = _version("puzzle-nas" if label == "puzzle" else label)
        except metadata.PackageNotFoundError:
            installed[label] = "not installed"
    return installed
