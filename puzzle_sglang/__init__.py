"""The plugin that lets SGLang serve children of Llama-like families as they are saved.

SGLang finds `register_sglang` by the entry-point group `sglang.srt.plugins`, in each of its
processes; versions without that group take `SGLANG_EXTERNAL_MODEL_PACKAGE=puzzle_sglang`.
"""

from __future__ import annotations

import importlib
import os
import sys

from puzzle_sglang.sglang_children import CLASSES

REGISTRY = "sglang.srt.models.registry"


def register_sglang() -> None:
    """Makes the children known to SGLang; it calls this when a process of it starts."""
    external = os.environ.setdefault("SGLANG_EXTERNAL_MODEL_PACKAGE", __name__)
    if external == __name__ and REGISTRY not in sys.modules:
        return  # it reads the variable once a model is looked up, and imports no others then
    registry = importlib.import_module(REGISTRY).ModelRegistry
    if not CLASSES.keys() <= registry.models.keys():
        registry.register(__name__)
