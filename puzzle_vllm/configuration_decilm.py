"""DeciLMConfig: a Llama config with one block description per layer, as vLLM reads it.

This file stands alone, so that a checkpoint can carry it.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import LlamaConfig


class BlockValues(dict):
    """A dict whose values are read as attributes, and nothing else than a dict to JSON."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __copy__(self) -> BlockValues:
        return type(self)(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockValues:
        return type(self)({key: copy.deepcopy(value, memo) for key, value in self.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self),))


def _wrapped(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return BlockValues({key: _wrapped(inner) for key, inner in value.items()})


class DeciLMConfig(LlamaConfig):
    """Config of a Llama whose layers differ.

    Args:
        block_configs: One {"attention": ..., "ffn": ...} per layer.
        **kwargs: Those of LlamaConfig.
    """

    model_type = "nemotron-nas"

    def __init__(self, block_configs: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        # The same layers in another notation, under which transformers would refuse to tell the
        # sizes that layers share.
        kwargs.pop("per_layer_config", None)
        super().__init__(**kwargs)
        self.block_configs = [_wrapped(block) for block in block_configs or []]
