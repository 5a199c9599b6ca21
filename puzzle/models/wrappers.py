"""Models that hold a decoder of text beside other parts, such as a vision tower."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from puzzle.models.families import FAMILIES

# What the files of such models, and their modules in memory, put before the decoder's names.
_DECODER = re.compile(r"^(?:model\.language_model\.(?:model\.)?|language_model\.model\.)")
_HEAD = re.compile(r"^(?:model\.)?language_model\.lm_head\.")


def text_config(config: Any) -> Any:
    """Returns the config of the decoder in a model, if its family is known; else the model's."""
    inner = getattr(config, "text_config", None)
    kinds = [getattr(each, "model_type", None) for each in (config, inner)]
    if inner is None or kinds[0] in FAMILIES or kinds[1] not in FAMILIES:
        return config
    inner = copy.deepcopy(inner)
    # Whether head and embedding are one is said by the model that has the head.
    inner.tie_word_embeddings = getattr(config, "tie_word_embeddings", inner.tie_word_embeddings)
    return inner


def text_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the names of the decoder's tensors in a model, by their names in the decoder alone.

    Of a model that is nothing but a decoder, all names are returned as they are.
    """
    stored = list(names)
    inner = {_HEAD.sub("lm_head.", _DECODER.sub("model.", name)): name for name in stored}
    if list(inner) == stored:
        return inner
    return {name: old for name, old in inner.items() if name != old or name.startswith("lm_head.")}
