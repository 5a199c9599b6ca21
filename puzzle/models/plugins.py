"""Families that installed packages describe, as entry points of the group `puzzle.families`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import entry_points

from puzzle.models.family import Family

GROUP = "puzzle.families"
logger = logging.getLogger(__name__)


def installed_families() -> Iterator[Family]:
    """Yields the families of installed packages; one that cannot be loaded is logged by name."""
    for point in entry_points(group=GROUP):
        try:
            family = point.load()
        except Exception as error:  # noqa: BLE001 - whatever another package raises
            logger.warning("the family %s (%s) is left out: %s", point.name, point.value, error)
            continue
        if isinstance(family, Family):
            yield family
        else:
            logger.warning("%s (%s) is left out: it is no Family", point.name, point.value)
