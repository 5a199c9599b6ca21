"""The configs of both models of a distillation that is planned; no weights are read."""

from __future__ import annotations

import os
from typing import Any

from puzzle.models.child_config import ChildConfig, config_from_layout, shape_of
from puzzle.models.pretrained import load_config
from search_space import Layout


def planned_configs(child: Any, parent: Any) -> tuple[Any, Any]:
    """Returns the configs of both as those of children, which have the class of the modules.

    Args:
        child: Its directory, its config, or a `Layout` of the parent.
        parent: Its directory, hub id or config.
    """
    own = load_config(parent) if isinstance(parent, str | os.PathLike) else parent
    if isinstance(child, Layout):
        made = config_from_layout(own, child)
    else:
        made = load_config(child) if isinstance(child, str | os.PathLike) else child
    return _as_child(made), _as_child(own)


def _as_child(config: Any) -> Any:
    if isinstance(config, ChildConfig):
        return config
    return config_from_layout(config, Layout.parent(shape_of(config)))
