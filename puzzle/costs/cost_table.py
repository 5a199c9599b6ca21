"""Costs read from a CSV or JSON file."""

from __future__ import annotations

import csv
import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from puzzle.costs.checked import check_resources
from puzzle.costs.protocol import STANDARD_UNITS
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from puzzle.storage.json_files import MOST_BYTES, interpreting, read_json
from puzzle.storage.json_values import as_object, as_text, shown
from puzzle.storage.paths import user_path
from search_space import FFN, Attention, Block, ModelShape

__all__ = ["Table"]

PLACES = ("layer", "block", "attention", "ffn")
_HEADER = re.compile(r"\s*(?P<name>[^\[\]]*?)\s*(?:\[\s*(?P<unit>.*?)\s*\])?\s*")
_EVERY = None
_Key = tuple[int | None, str, str]


class Table:
    """Costs of blocks or sublayers from a file, the same whatever the scenario.

    CSV: a header and one row for each cost. The columns `block` ("gqa3+gated768"), or
    `attention` ("gqa3") and `ffn` ("gated768"), say what the cost is of; `layer`, if given and
    not empty, restricts it to one layer. All other columns are resources, with their unit in
    brackets where the name is not a standard one: `cycles [Mcycles]`. A row whose block is "fixed"
    gives the fixed cost, which is zero without it.

    JSON: {"resources": {name: unit}, "rows": [...]} with rows of the same keys.

    A block is looked up as a block of its layer, as a block of all layers, and as the sum of its
    sublayers, each of its layer or of all; a sublayer that is "none" costs nothing unless it has
    a row. A cost of "inf" means that the block cannot run.

    Args:
        path: The file; its name ends in .csv or .json.

    Raises:
        CostModelError: The file cannot be read, or a row is wrong; the message names the row.

    Example:
        >>> costs = Table("npu.csv")  # doctest: +SKIP
        >>> costs.resources  # doctest: +SKIP
        {'cycles': 'Mcycles'}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path)
        read = {".csv": _read_csv, ".json": _read_json}.get(self.path.suffix.lower())
        if read is None:
            raise CostModelError(f"{self.path}: the name of a cost table ends in .csv or .json")
        try:
            with interpreting(self.path, "a table of costs", CostModelError):
                self.resources, rows = read(self.path)
                check_resources(self)
        except OSError as error:
            raise CostModelError(f"{self.path} cannot be read: {error.strerror}") from error
        except csv.Error as error:
            raise CostModelError(f"{self.path} is not a table of costs: {error}") from error
        self._costs: dict[_Key, dict[str, float]] = {}
        for where, row in rows:
            self._add(where, row)

    def _add(self, where: str, row: Mapping[str, Any]) -> None:
        named = f"{self.path}, {where}"
        key = _key(named, row)
        if key in self._costs:
            raise CostModelError(f"{named}: there is a cost for {_name_of(key)} already; keep one")
        lacking = [name for name in self.resources if row.get(name) in (None, "")]
        unknown = sorted(set(row) - set(self.resources) - set(PLACES))
        if lacking or unknown:
            raise CostModelError(
                f"{named}: {_name_of(key)} "
                + (f"lacks {', '.join(lacking)}" if lacking else f"has {', '.join(unknown)}")
                + f"; give {', '.join(self.resources)}"
            )
        self._costs[key] = {
            name: _number(f"{named}: {name} of {_name_of(key)}", row[name])
            for name in self.resources
        }

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns the file's cost of one block.

        Raises:
            CostModelError: The file has none.
        """
        for place in (layer, _EVERY):
            whole = self._costs.get((place, "block", block.label))
            if whole is not None:
                return dict(whole)
        total = dict.fromkeys(self.resources, 0.0)
        for kind, part in (("attention", block.attention), ("ffn", block.ffn)):
            for name, value in self._part(layer, block, kind, part.label).items():
                total[name] += value
        return total

    def _part(self, layer: int, block: Block, kind: str, label: str) -> Mapping[str, float]:
        for place in (layer, _EVERY):
            cost = self._costs.get((place, kind, label))
            if cost is not None:
                return cost
        if label == "none" and any(key[1] != "block" for key in self._costs):
            return {}
        labels = {key[2] for key in self._costs if key[2] != "fixed"}
        near = difflib.get_close_matches(block.label, labels, n=2) or sorted(labels)[:4]
        raise CostModelError(
            f"{self.path} has no cost for block {block.label} of layer {layer}, nor for its "
            f"{kind} {label!r}; it has rows such as {', '.join(near)}: add one"
        )

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns the file's fixed cost, zero if it has none."""
        return dict(self._costs.get((_EVERY, "block", "fixed"), dict.fromkeys(self.resources, 0.0)))


_LABELS: Mapping[str, Callable[[str], object]] = {
    "block": Block.from_label,
    "attention": Attention.from_label,
    "ffn": FFN.from_label,
}
_Rows = Iterable[tuple[str, Mapping[str, Any]]]


def _read_csv(path: Path) -> tuple[dict[str, str], _Rows]:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    if len(lines) < 2:
        raise ValueError("there are no rows under a header")
    names, units = [], {}
    for cell in lines[0]:
        match = _HEADER.fullmatch(cell)
        name = match["name"] if match else cell
        unit = match["unit"] if match else None
        if name in names or not name:
            raise ValueError(f"the header has {cell!r} {'twice' if name else 'without a name'}")
        names.append(name)
        if name not in PLACES:
            units[name] = STANDARD_UNITS.get(name, "") if unit is None else unit
            if unit is None and name not in STANDARD_UNITS:
                raise ValueError(f"column {name!r} has no unit; write '{name} [its unit]'")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(names):
            raise ValueError(f"line {number} has {len(line)} cells, the header {len(names)}")
        cells = (cell.strip() for cell in line)
        rows.append((f"line {number}", dict(zip(names, cells, strict=True))))
    return units, rows


def _read_json(path: Path) -> tuple[dict[str, str], _Rows]:
    values = read_json(path, "a table of costs", error=CostModelError, unique=True)
    if not isinstance(values, dict) or set(values) != {"resources", "rows"}:
        raise ValueError('the file is {"resources": {name: unit}, "rows": [...]}')
    resources, rows = values["resources"], values["rows"]
    if not isinstance(resources, dict) or not isinstance(rows, list) or not rows:
        raise ValueError("resources is an object, rows a list with one or more objects")
    for number, row in enumerate(rows):
        as_object(row, f"row {number}")
    resources = {name: as_text(unit, f"the unit of {name}") for name, unit in resources.items()}
    return resources, [(f"row {number}", row) for number, row in enumerate(rows)]


def _key(named: str, row: Mapping[str, Any]) -> _Key:
    given = [kind for kind in PLACES[1:] if row.get(kind) not in (None, "")]
    if len(given) != 1:
        raise CostModelError(
            f"{named}: it names {' and '.join(given) or 'nothing'}; give one of block, attention "
            "and ffn"
        )
    kind = given[0]
    label, layer = str(row[kind]), row.get("layer")
    try:
        if label != "fixed" or kind != "block":
            _LABELS[kind](label)
        place = _EVERY if layer in (None, "") else int(str(layer))
    except ValueError as error:
        raise CostModelError(f"{named}: {error}") from None
    if place is not _EVERY and (place < 0 or label == "fixed"):
        raise CostModelError(f"{named}: layer {place} of {label!r}; layers count from 0")
    return place, kind, label


def _name_of(key: _Key) -> str:
    place = "" if key[0] is None else f" of layer {key[0]}"
    return f"{key[1]} {key[2]}{place}"


def _number(what: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if math.isnan(number) or number < 0:
        raise CostModelError(f"{what} is {shown(value)}; give a number of 0 or more, or inf")
    return number
