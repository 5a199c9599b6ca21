"""Import a table of scores and costs without weights; docs/score-table.md has the format."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puzzle.errors import ConstraintError, DataError
from puzzle.storage.json_files import read_object
from puzzle.storage.json_values import as_number, as_object, shown
from puzzle.storage.paths import user_path
from search_space import FFN, Attention, Block, Layout
from solvers import ChoiceProblem, Limit

__all__ = ["ScoreTable"]

_LOGGER = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_LAYER = re.compile(r"layer_([0-9]{1,9})")
_BLOCK = re.compile(r"attention\s*=\s*(?P<attention>\S.*?)\s*&&\s*ffn\s*=\s*(?P<ffn>\S.*)")
_HEADS = re.compile(r"\d+ kv heads?\b.*")
_WIDTH = re.compile(r"intermediate size\b.*")
_AMOUNT = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(\S*)\s*")

# What one unit is, in the unit that a column's name ends in.
_UNITS = {
    "_mib": {
        "MiB": 1.0,
        "GiB": 2.0**10,
        "TiB": 2.0**20,
        "MB": 1e6 / 2**20,
        "GB": 1e9 / 2**20,
        "TB": 1e12 / 2**20,
    },
    "_ms": {"ms": 1.0, "s": 1000.0},
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreTable:
    """Scores and costs of every block of every layer, without weights.

    Arrays have one value for each block of layer 0, then of layer 1, and so on.

    Args:
        labels: Names of the blocks, by layer: labels of `Block` where the file's name is
            recognised, else that name.
        blocks: The blocks themselves, None where the file's name is not recognised.
        metrics: Scores by name; lower is better.
        stats: Costs by name.
        parent: Costs and scores of one block of the parent, if the file comes with them.
        measurement: How the costs were measured, if the file says so.
    """

    labels: tuple[tuple[str, ...], ...]
    blocks: tuple[tuple[Block | None, ...], ...]
    metrics: Mapping[str, FloatArray]
    stats: Mapping[str, FloatArray]
    parent: Mapping[str, float] = field(default_factory=dict)
    measurement: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Read a table.

        Args:
            path: The file, or its directory if it is called block_library.json.

        Returns:
            The table, with what `measurement_info.json` and `parent_block_stats.json` beside it
            say, where they are there.

        Raises:
            DataError: A layer or a value is missing, the layers have different columns, a value is
                not a finite number, or a cost is negative.
        """
        file = user_path(path)
        file = file / "block_library.json" if file.is_dir() else file
        layers = _layers(_read(file), file)
        _check_columns(layers, file)
        labels, blocks = [], []
        for layer, entries in enumerate(layers):
            named = [_block(text, entry["stats"]) for text, entry in entries.items()]
            names = [
                text if block is None else block.label
                for text, block in zip(entries, named, strict=True)
            ]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(f"{file}: layer_{layer} has block {twice!r} more than once")
            labels.append(tuple(names))
            blocks.append(tuple(named))
        return cls(
            labels=tuple(labels),
            blocks=tuple(blocks),
            metrics=_columns(layers, "metrics", file),
            stats=_columns(layers, "stats", file),
            parent=_parent_block(file),
            measurement=_beside(file, "measurement_info.json"),
        )

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.labels)

    def problem(
        self,
        score: str = "kl_div",
        limits: Mapping[str, float | str] | Iterable[Limit] = (),
    ) -> ChoiceProblem:
        """Make the program of choosing one block for each layer.

        Args:
            score: The metric whose sum is minimised.
            limits: Largest totals by cost; or limits. A number is in the column's own unit, and
                a text such as "80 GiB" has its unit with it.

        Returns:
            The problem, with every cost of the table as a resource.

        Raises:
            DataError: There is no such metric.
            ConstraintError: There is no such cost, or a unit does not fit it.
        """
        _require(score, self.metrics, "metric")
        if isinstance(limits, Mapping):
            limits = [Limit(name, at_most=self._amount(name, at)) for name, at in limits.items()]
        parsed = tuple(limits)
        for limit in parsed:
            _require(limit.resource, self.stats, "cost", ConstraintError)
        problem = ChoiceProblem(self.labels, self.metrics[score], self.stats, limits=parsed)
        for limit in parsed:
            most = problem.bounds(limit.resource)[1]
            if limit.at_most is not None and limit.at_most > most > 0.0:
                _LOGGER.warning(
                    "%s limits nothing, as the most any choice uses is %.6g: is the unit right?",
                    limit.text,
                    most,
                )
        return problem

    def choices(self, layout: Layout | Sequence[Block]) -> tuple[int, ...]:
        """Find the blocks of a layout in the table.

        Args:
            layout: The layout, or its blocks.

        Returns:
            Position of each layer's block among the layer's blocks.

        Raises:
            DataError: The layout has a different number of layers, or a block that is not there.
        """
        wanted = layout.blocks if isinstance(layout, Layout) else tuple(layout)
        if len(wanted) != self.layers:
            raise DataError(f"the layout has {len(wanted)} layers and the table {self.layers}")
        positions = []
        for layer, (block, known) in enumerate(zip(wanted, self.blocks, strict=True)):
            if block not in known:
                raise DataError(
                    f"the table has no {block.label!r} for layer {layer}; it has "
                    f"{', '.join(self.labels[layer])}"
                )
            positions.append(known.index(block))
        return tuple(positions)

    def parent_totals(self) -> dict[str, float]:
        """Add up what the parent costs.

        Returns:
            Totals over all layers by cost: each layer's is that of the parent's block.

        Raises:
            DataError: The table came without parent_block_stats.json.
        """
        if not self.parent:
            raise DataError(
                "the table does not say what the parent's block costs; put "
                "parent_block_stats.json beside it"
            )
        return {name: self.layers * self.parent[name] for name in self.stats}

    def _amount(self, name: str, amount: float | str) -> float:
        _require(name, self.stats, "cost", ConstraintError)
        if not isinstance(amount, str):
            return float(amount)
        units = next((units for end, units in _UNITS.items() if name.endswith(end)), {})
        allowed = ", ".join(units) or "none: give a number"
        match = _AMOUNT.fullmatch(amount)
        if match is None or match[2] not in units:
            raise ConstraintError(
                f"{name} at most {amount!r}: write a number and a unit; units of {name}: {allowed}"
                + (" (GB is 10^9 bytes, GiB is 2^30)" if "GiB" in units else "")
            )
        return float(match[1]) * units[match[2]]


def _read(file: Path) -> dict[str, Any]:
    return read_object(file, "a table of scores", unique=True)


def _beside(file: Path, name: str) -> dict[str, Any]:
    path = file.with_name(name)
    return _read(path) if path.exists() else {}


def _parent_block(file: Path) -> dict[str, float]:
    path = file.with_name("parent_block_stats.json")
    values = _beside(file, path.name)
    return {
        name: _number(value, f"{path}: {name}")
        for part in ("stats", "metrics")
        for name, value in as_object(values.get(part, {}), f"{path}: {part}").items()
    }


def _layers(table: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """Order the layers by number and check that none is missing."""
    numbered: dict[int, dict[str, Any]] = {}
    for key, entries in table.items():
        match = _LAYER.fullmatch(key)
        if match is None:
            raise DataError(f"{file}: unknown key {key!r}; keys are layer_0, layer_1 and so on")
        if not isinstance(entries, dict) or not entries:
            raise DataError(f"{file}: {key} has no blocks")
        for text, entry in entries.items():
            parts = {"stats", "metrics"}
            if not isinstance(entry, dict) or not parts <= entry.keys():
                raise DataError(f"{file}: block {text!r} of {key} lacks its stats or its metrics")
            if not all(isinstance(entry[part], dict) for part in parts):
                raise DataError(f"{file}: stats or metrics of {text!r} of {key} are not objects")
        if (number := int(match[1])) in numbered:
            raise DataError(f"{file}: layer_{number} is there twice, as {key} too")
        numbered[number] = entries
    # As many as there are layers, and not as the highest number says: it may be anything.
    missing = sorted(set(range(max(1, len(numbered)))) - set(numbered))
    if missing:
        named = ", ".join(f"layer_{number}" for number in missing[:4])
        raise DataError(f"{file}: {named} missing; a table has every layer from layer_0 on")
    return [numbered[number] for number in range(len(numbered))]


def _check_columns(layers: list[dict[str, Any]], file: Path) -> None:
    first = next(iter(layers[0].values()))
    for layer, entries in enumerate(layers):
        for text, entry in entries.items():
            for part in ("stats", "metrics"):
                differ = set(entry[part]) ^ set(first[part])
                if differ:
                    raise DataError(
                        f"{file}: block {text!r} of layer_{layer} and the first block of layer_0 "
                        f"differ in {part}: {', '.join(sorted(differ))} is in only one of them"
                    )


def _columns(layers: list[dict[str, Any]], part: str, file: Path) -> dict[str, FloatArray]:
    columns: dict[str, FloatArray] = {}
    for name in next(iter(layers[0].values()))[part]:
        values = []
        for layer, entries in enumerate(layers):
            for text, entry in entries.items():
                what = f"{file}: {name} of block {text!r} of layer_{layer}"
                value = _number(entry[part][name], what)
                if part == "stats" and value < 0.0:
                    raise DataError(f"{what} is {value:g}; costs cannot be negative")
                values.append(value)
        columns[name] = np.array(values)
    return columns


def _number(value: Any, what: str) -> float:
    try:
        return float(as_number(value, what))
    except DataError as error:
        raise DataError(
            f"{what} is {shown(value)}; give a finite number, or leave the block out"
        ) from error


def _block(text: str, stats: Mapping[str, Any]) -> Block | None:
    """Return the block that a name such as "attention = no_op && ffn = no_op" stands for."""
    match = _BLOCK.fullmatch(text)
    if match is None:
        return None
    attention, ffn = match["attention"], match["ffn"]
    try:
        # Names round; the numbers beside them do not.
        if _HEADS.fullmatch(attention):
            left = Attention("gqa", _whole(stats.get("num_kv_heads")))
        else:
            left = Attention(_kind(attention))
        if _WIDTH.fullmatch(ffn):
            right = FFN("gated", _whole(stats.get("ffn_intermediate_size")))
        else:
            right = FFN(_kind(ffn))
    except ValueError:
        return None
    return Block(left, right)


def _kind(name: str) -> str:
    first = name.split()[0]
    return "none" if first == "no_op" else first


def _whole(value: Any) -> int | None:
    # A width of 16 digits is no width, and a longer integer would not fit into a float.
    if isinstance(value, int | float) and abs(value) < 1e15 and float(value).is_integer():
        return int(value)
    return None


def _require(
    name: str,
    known: Mapping[str, Any],
    what: str,
    error: type[DataError | ConstraintError] = DataError,
) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise error(f"unknown {what} {name!r}; the table has {', '.join(known)}{hint}")
