"""Models that hold a decoder of text beside other parts, such as a vision tower."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from transformers import CONFIG_MAPPING

from puzzle.models.families import FAMILIES

# What the files of such models, and their modules in memory, put before the decoder's names; and
# those of Nemotron-H, which is nothing but a decoder.
_DECODER = re.compile(
    r"^(?:model\.language_model\.(?:model\.)?|language_model\.model\.|backbone\.)"
)
# Decoders that differ from others in what they do with pictures alone.
_AS = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
_HEAD = re.compile(r"^(?:model\.)?language_model\.lm_head\.")


def text_config(config: Any) -> Any:
    """Returns the config of the decoder in a model, if its family is known; else the model's."""
    inner = getattr(config, "text_config", None)
    kinds = [getattr(each, "model_type", None) for each in (config, inner)]
    if inner is None or kinds[0] in FAMILIES or _AS.get(str(kinds[1]), kinds[1]) not in FAMILIES:
        return config
    inner = _as_text(copy.deepcopy(inner))
    # Whether head and embedding are one is said by the model that has the head.
    inner.tie_word_embeddings = getattr(config, "tie_word_embeddings", inner.tie_word_embeddings)
    return inner


def _as_text(inner: Any) -> Any:
    """Returns the config of a decoder as that of one that reads text alone."""
    if inner.model_type not in _AS:
        return inner
    values = inner.to_dict()
    # Positions in pictures have three axes, which are all the same in text.
    ropes = values["rope_parameters"].items()
    values["rope_parameters"] = {n: v for n, v in ropes if not n.startswith("mrope")}
    for name in ("model_type", "architectures"):
        values.pop(name, None)
    return CONFIG_MAPPING[_AS[inner.model_type]](**values)


def text_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the names of the decoder's tensors in a model, by their names in the decoder alone.

    Of a model that is nothing but a decoder, all names are returned as they are.
    """
    stored = list(names)
    inner = {_HEAD.sub("lm_head.", _DECODER.sub("model.", name)): name for name in stored}
    if list(inner) == stored:
        return inner
    return {name: old for name, old in inner.items() if name != old or name.startswith("lm_head.")}
