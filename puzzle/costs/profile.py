"""A profile: every cost of a space in one scenario, and the device it is of, in one file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle.costs.checked import check_resources, checked_block_cost, checked_fixed_cost
from puzzle.costs.protocol import CostModel
from puzzle.costs.tensor_parallel import TensorParallel
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from puzzle.storage.hashing import content_hash
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.json_values import as_count, as_list, as_number, as_object, as_text
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import publish_text
from search_space import Block, ModelShape, SearchSpace

__all__ = ["Profile"]

FORMAT = 1
Row = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The costs of all blocks of a space in one scenario; a cost model that fits into a file.

    Measure on the machine that has the device, save, and search anywhere.

    Args:
        device: What it was taken on, as `puzzle.hardware.identity.device_record` gives it.
        versions: Versions of what ran, as `puzzle.hardware.identity.software_versions` gives them.
        scenario: The only scenario for which it is valid.
        shape: The sizes of the parent for which it is valid.
        resources: Units by resource.
        fixed: The fixed cost.
        rows: Distinct tables of block costs, by label.
        layers: Which of them each layer has.

    Example:
        >>> from puzzle.costs import Roofline
        >>> shape = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> space = SearchSpace.preset(shape, "small")
        >>> profile = Profile.take(Roofline("h100-sxm", shape), space, Scenario(),
        ...                        device={"name": "h100-sxm, modelled"})
        >>> profile.save("h100.json")  # doctest: +SKIP
    """

    device: Mapping[str, Any]
    versions: Mapping[str, Any]
    scenario: Scenario
    shape: ModelShape
    resources: Mapping[str, str]
    fixed: Mapping[str, float]
    rows: Sequence[Row]
    layers: Sequence[int]

    @classmethod
    def take(
        cls,
        costs: CostModel,
        space: SearchSpace,
        scenario: Scenario,
        *,
        device: Mapping[str, Any],
        versions: Mapping[str, Any] | None = None,
        extra: Iterable[Block] = (),
    ) -> Profile:
        """Takes the profile of a cost model: the cost of every block, and the fixed cost.

        Args:
            costs: The model, such as one measured on this device.
            space: The blocks to include.
            scenario: The scenario.
            device: What the costs are of.
            versions: What ran.
            extra: Further blocks of every layer, such as fused ones.

        Raises:
            CostModelError: The model returns an invalid cost.
        """
        more, rows, layers = tuple(extra), [], []
        own = getattr(costs, "scenario", None)
        decided = own if isinstance(own, Scenario) else scenario
        scenario = scenario.served_in(decided.served_dtype)
        for layer in range(space.shape.layers):
            row = {
                block.label: checked_block_cost(costs, layer, block, scenario)
                for block in (*space.blocks(layer), *more)
            }
            if row not in rows:
                rows.append(row)
            layers.append(rows.index(row))
        return cls(
            device=dict(device),
            versions=dict(versions or {}),
            scenario=scenario,
            shape=space.shape,
            resources=check_resources(costs),
            fixed=checked_fixed_cost(costs, space.shape, scenario),
            rows=tuple(rows),
            layers=tuple(layers),
        )

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns the cost of one block.

        Raises:
            CostModelError: The scenario differs, or the profile lacks the block.
        """
        self.require(scenario=scenario)
        row = self.rows[self.layers[layer]] if layer < len(self.layers) else {}
        if block.label not in row:
            raise CostModelError(
                f"the profile of {self.name} has no block {block.label} in layer {layer}; take "
                "it over a space that has it"
            )
        return dict(row[block.label])

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns the fixed cost.

        Raises:
            CostModelError: The scenario or the shape differs.
        """
        self.require(scenario=scenario, shape=shape)
        return dict(self.fixed)

    @property
    def name(self) -> str:
        """A name of the device."""
        name = self.device.get("name") or self.device.get("processor") or "a device without a name"
        return str(name)

    @property
    def group(self) -> TensorParallel:
        """The devices that share each layer, of which costs were measured on one."""
        return TensorParallel(devices=self.device.get("tensor_parallel", 1))

    def differences(
        self,
        *,
        device: Mapping[str, Any] | None = None,
        versions: Mapping[str, Any] | None = None,
        scenario: Scenario | None = None,
        shape: ModelShape | None = None,
    ) -> list[str]:
        """Returns in words what the profile was taken for and what is given, where they differ.

        The number of layers may differ: fusion removes some. A scenario whose number format is
        "auto" takes the profile's.
        """
        if scenario is not None:
            scenario = scenario.served_in(self.scenario.weight_dtype)
        comparisons: list[tuple[str, Mapping[str, Any], Mapping[str, Any] | None]] = [
            ("device", self.device, device),
            ("versions", self.versions, versions),
            ("scenario", self.scenario.to_dict(), scenario.to_dict() if scenario else None),
            ("shape", _without_layers(self.shape), _without_layers(shape) if shape else None),
        ]
        return [
            f"{part} {key}: {own.get(key)!r} in the profile, {given.get(key)!r} here"
            for part, own, given in comparisons
            if given is not None
            for key in sorted({*own, *given})
            if own.get(key) != given.get(key)
        ]

    def require(
        self,
        *,
        device: Mapping[str, Any] | None = None,
        versions: Mapping[str, Any] | None = None,
        scenario: Scenario | None = None,
        shape: ModelShape | None = None,
    ) -> None:
        """Raises CostModelError, naming every one of the `differences`, if there are some."""
        differences = self.differences(
            device=device, versions=versions, scenario=scenario, shape=shape
        )
        if differences:
            raise CostModelError(
                f"the profile of {self.name} does not match: {'; '.join(differences)}. Take one "
                "here, or use the device, scenario and parent that it was taken for"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; an infinite cost is the text "inf"."""
        return {
            "format": FORMAT,
            "device": dict(self.device),
            "versions": dict(self.versions),
            "scenario": self.scenario.to_dict(),
            "shape": self.shape.to_dict(),
            "resources": dict(self.resources),
            "fixed": dict(self.fixed),
            "rows": [{label: _plain(cost) for label, cost in row.items()} for row in self.rows],
            "layers": list(self.layers),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Profile:
        """Returns the profile that `to_dict` wrote.

        Raises:
            CostModelError: A value is missing, or of another kind.
        """
        with interpreting("the values", "a profile", CostModelError):
            resources = {
                name: as_text(unit, f"the unit of {name}")
                for name, unit in as_object(values["resources"], "resources").items()
            }
            shape = ModelShape.from_dict(as_object(values["shape"], "shape"))
            rows = [
                {
                    Block.from_label(label).label: _costs_from(cost, resources, f"block {label}")
                    for label, cost in as_object(row, "a row").items()
                }
                for row in as_list(values["rows"], "rows")
            ]
            layers = [as_count(at, "a layer's row") for at in as_list(values["layers"], "layers")]
            if len(layers) != shape.layers or not all(at < len(rows) for at in layers):
                raise CostModelError(
                    f"layers names one of the {len(rows)} rows for each of {shape.layers} layers"
                )
            return cls(
                device=as_object(values["device"], "device"),
                versions=as_object(values["versions"], "versions"),
                scenario=Scenario.from_dict(as_object(values["scenario"], "scenario")),
                shape=shape,
                resources=resources,
                fixed=_costs_from(values["fixed"], resources, "the fixed cost"),
                rows=rows,
                layers=layers,
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the profile as JSON with a checksum, completely or not at all.

        Raises:
            WorkspaceError: The disk is full or cannot be written.
        """
        target, values = user_path(path), self.to_dict()
        text = json.dumps({**values, "checksum": content_hash(values)}, indent=1)
        publish_text(target, text + "\n")
        return target

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: Mapping[str, Any] | None = None,
        versions: Mapping[str, Any] | None = None,
        scenario: Scenario | None = None,
        shape: ModelShape | None = None,
    ) -> Profile:
        """Reads what `save` wrote.

        Args:
            path: The file.
            device: Refuse it unless it was taken on this device; None accepts any, to plan for
                another machine.
            versions: Refuse it unless it was taken with these versions; None accepts any.
            scenario: Refuse it unless it is for this scenario.
            shape: Refuse it unless it is for a parent of these sizes.

        Raises:
            CostModelError: The file is not a profile, was altered, or does not match what is given;
                the message names the differences.
        """
        file = user_path(path)
        values = read_object(file, "a profile", error=CostModelError)
        if "checksum" not in values:
            raise CostModelError(f"{path} is not a profile: it has no checksum")
        checksum = values.pop("checksum")
        if values.get("format") != FORMAT:
            raise CostModelError(
                f"{path} has format {values.get('format')!r}; this version reads {FORMAT}: take "
                "the profile again"
            )
        with interpreting(file, "a profile", CostModelError):
            if checksum != content_hash(values):
                raise CostModelError(
                    f"{path} was altered or truncated: its checksum differs; take it again"
                )
            profile = cls.from_dict(values)
        profile.require(device=device, versions=versions, scenario=scenario, shape=shape)
        return profile


def _costs_from(given: Any, resources: Mapping[str, str], what: str) -> dict[str, float]:
    """Returns one cost of a file; `to_dict` writes an infinite one as text."""
    costs = as_object(given, what)
    if costs.keys() != resources.keys():
        raise CostModelError(f"{what} does not have the profile's resources")
    return {
        name: math.inf if value == "inf" else float(as_number(value, f"{name} of {what}", least=0))
        for name, value in costs.items()
    }


def _without_layers(shape: ModelShape) -> dict[str, Any]:
    return {name: value for name, value in shape.to_dict().items() if name != "layers"}


def _plain(cost: Mapping[str, float]) -> dict[str, float | str]:
    return {name: "inf" if math.isinf(value) else value for name, value in cost.items()}
