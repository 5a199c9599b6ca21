"""FFN fusion on a child: its weights, how much its layers depend on each other, and its costs.

FFN Fusion (arXiv 2503.18908): the FFNs of consecutive layers without attention are computed side
by side, as one FFN that is as wide as all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from puzzle.errors import ConstraintError, DataError
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import layout_from_config
from puzzle.models.families import family_of
from puzzle.models.slots import GATE, UP
from puzzle.progress.bars import counted
from search_space import FusedRun, Fusion, Layout, plan_fusion
from search_space.fusion import candidate_runs

if TYPE_CHECKING:
    # puzzle.costs measures children, so it imports this package.
    from puzzle.costs.protocol import CostModel
    from puzzle.limits.scenario import Scenario

Tensors = dict[str, torch.Tensor]


def fuse_child(
    model: PuzzleForCausalLM, fusion: Fusion, *, norms: str = "last"
) -> PuzzleForCausalLM:
    """Returns a new child in which each run of layers is one layer.

    The fused layer computes x + sum_j FFN_j(norm(x)): gate and up rows and down columns are put
    side by side, biases of down are added up.

    Args:
        model: A child; it is left as it is.
        fusion: The runs, such as `plan_fusion(layout)` gives.
        norms: "last": the norm of the last layer of the run serves all its FFNs, as in the paper.
            "own": each FFN keeps its own norm, whose weights are multiplied into its gate and up
            projections, and only the order of the layers is given up.

    Raises:
        ValueError: The child does not have the runs, or `norms` is neither of these.
        DataError: The child is of another family than Llama.
    """
    if norms not in ("last", "own"):
        raise ValueError(f"norms={norms!r}; allowed: 'last', 'own'")
    family = family_of(model.config)
    if family.ffn.after or not family.ffn.before:
        raise DataError(
            f"layers of the family {family.model_types[0]!r} cannot be fused: the norm of what its "
            "FFNs return is of each FFN alone; allowed: families that have a norm before the FFN "
            "and none after it"
        )
    layout = layout_from_config(model.config)
    fused = fusion.apply(layout)
    tensors = _fused_tensors(model.state_dict(), layout, fusion, _SideBySide(model.config, norms))
    gone = {layer for run in fusion.runs for layer in range(run.first, run.last)}
    origins = [layer for layer in range(layout.shape.layers) if layer not in gone]
    child = assemble(model.config, fused, tensors, dtype=model.dtype, origins=origins)
    child = child.to(model.device)
    child.set_attn_implementation(model.config._attn_implementation)
    child.generation_config = copy.deepcopy(model.generation_config)
    return child


def _fused_tensors(
    state: Mapping[str, torch.Tensor], layout: Layout, fusion: Fusion, ffns: _SideBySide
) -> dict[str, torch.Tensor]:
    prefix, _, _ = ffns.family.layer_prefix.partition("{}")
    fused = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    by_layer: list[Tensors] = [{} for _ in layout.blocks]
    for name, tensor in state.items():
        if name.startswith(prefix):
            layer, _, rest = name.removeprefix(prefix).partition(".")
            by_layer[int(layer)][rest] = tensor
    for run in reversed(fusion.runs):
        members = slice(run.first, run.last + 1)
        by_layer[members] = [ffns.fused(by_layer[members], run.widths)]
    for index, tensors in enumerate(by_layer):
        fused |= {f"{prefix}{index}.{name}": tensor for name, tensor in tensors.items()}
    return fused


class _SideBySide:
    """The FFNs of several layers in parallel, as one.

    Args:
        config: The child's config.
        norms: As in `fuse_child`.
    """

    def __init__(self, config: Any, norms: str) -> None:
        family = self.family = family_of(config)
        self.norms, self.offset = norms, family.norm_offset(config)
        self.prefix, self.norm = f"{family.ffn.module}.", f"{family.ffn.before}.weight"

    def fused(self, members: list[Tensors], widths: Sequence[int]) -> Tensors:
        """Returns the tensors of the layer that computes the FFNs of the members in parallel."""
        slot, gain = self.family.ffn, members[-1][self.norm]
        ffns = [self._ffn(tensors, width) for tensors, width in zip(members, widths, strict=True)]
        if self.norms == "own":
            gain = torch.full_like(gain, 1 - self.offset)
        wide = {}
        for name, parts in ffns[-1].items():
            rows = [torch.cat([ffn[name][part] for ffn in ffns]) for part in parts]
            wide[f"{self.prefix}{name}"] = torch.cat(rows)
        out = [f"{self.prefix}{slot.out}.{kind}" for kind in ("weight", "bias")]
        wide[out[0]] = torch.cat([tensors[out[0]] for tensors in members], 1)
        if out[1] in members[-1]:
            wide[out[1]] = torch.stack([tensors[out[1]] for tensors in members]).sum(0)
        return {self.norm: gain, **wide}

    def _ffn(self, tensors: Tensors, width: int) -> dict[str, dict[str, torch.Tensor]]:
        """Returns the rows of a member's maps by what they are, its norm in them if it is own."""
        sizes = {GATE: width, UP: width}
        inner = {name.removeprefix(self.prefix): tensor for name, tensor in tensors.items()}
        rows = self.family.ffn.rows(inner, sizes)
        if self.norms == "own":
            # W norm_j(x) = (W diag(n_j)) x / rms(x), so a norm of ones serves them all.
            gain = tensors[self.norm] + self.offset
            for name, parts in rows.items():
                if name.endswith("weight"):
                    rows[name] = {part: own * gain for part, own in parts.items()}
        return rows


@torch.no_grad()
def block_dependency(
    model: nn.Module,
    windows: torch.Tensor,
    *,
    layers: Iterable[int] | None = None,
    batch: int = 4,
) -> np.ndarray:
    """Returns how much what layer j adds changes when layer i is left out, at [i, j].

    With h_j = layer_j(x_j) - x_j and h_j' the same without layer i, the value is the cosine
    distance 1 - cos(h_j, h_j'), the mean over tokens (arXiv 2503.18908, section 3.2). It is 0
    where j does not depend on i at all, so also for all j <= i.

    Args:
        model: A child, or its parent: a model of the Llama classes.
        windows: Token ids, (windows, length).
        layers: The layers to measure, all if not given; other values above the diagonal are NaN.
        batch: Windows that are computed together.

    Raises:
        DataError: The windows are not a matrix of token ids, or a layer does not exist.
    """
    decoder: Any = model.model
    count = len(decoder.layers)
    chosen = sorted({*range(count)} if layers is None else {*layers})
    _check_windows(windows, batch)
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < count:
        raise DataError(f"layers {chosen}; allowed: one or more of 0 to {count - 1}")
    sums = np.zeros((count, count))
    for rows in counted(windows.split(batch), "block dependency", "batch"):
        sums += _dependency_sums(decoder, rows.to(model.device), chosen)
    distances = sums / windows.numel()
    unmeasured = np.ones((count, count), dtype=bool)
    unmeasured[np.ix_(chosen, chosen)] = False
    distances[np.triu(unmeasured, 1)] = np.nan
    return distances


def _check_windows(windows: torch.Tensor, batch: int) -> None:
    if windows.dim() != 2 or windows.is_floating_point() or not windows.numel():
        raise DataError(
            f"windows of shape {tuple(windows.shape)} and type {windows.dtype}; allowed: token "
            "ids, (windows, length)"
        )
    if batch < 1:
        raise DataError(f"batch={batch}; allowed: 1 or more")


def _dependency_sums(decoder: Any, rows: torch.Tensor, chosen: list[int]) -> np.ndarray:
    """Returns the cosine distances of one batch, summed over its tokens."""
    layers, last = decoder.layers, chosen[-1]
    inputs, arguments, added = _record(decoder, rows, chosen)
    sums = np.zeros((len(layers), len(layers)))
    for left_out in chosen[:-1]:
        x_BLD = inputs[left_out]
        for layer in range(left_out + 1, last + 1):
            y_BLD = layers[layer](x_BLD, **arguments[layer])
            if layer in added:
                sums[left_out, layer] = _distance(added[layer], y_BLD - x_BLD)
            x_BLD = y_BLD
    return sums


Recorded = tuple[dict[int, torch.Tensor], dict[int, dict[str, Any]], dict[int, torch.Tensor]]


def _record(decoder: Any, rows: torch.Tensor, chosen: list[int]) -> Recorded:
    """Returns what enters each chosen layer, what all are called with, what the chosen add."""
    inputs: dict[int, torch.Tensor] = {}
    arguments: dict[int, dict[str, Any]] = {}
    added: dict[int, torch.Tensor] = {}

    def hook(layer: int) -> Any:
        def record(_: nn.Module, args: Any, kwargs: dict[str, Any], y_BLD: torch.Tensor) -> None:
            # The masks and rotary tables of the whole model serve its layers called alone, too.
            arguments[layer] = kwargs
            if layer in chosen:
                inputs[layer], added[layer] = args[0], y_BLD - args[0]

        return record

    with ExitStack() as hooks:
        for layer, module in enumerate(decoder.layers):
            handle = module.register_forward_hook(hook(layer), with_kwargs=True)
            hooks.callback(handle.remove)
        decoder(input_ids=rows, use_cache=False)
    return inputs, arguments, added


def _distance(one_BLD: torch.Tensor, other_BLD: torch.Tensor) -> float:
    one, other = one_BLD.double().flatten(0, 1), other_BLD.double().flatten(0, 1)
    cosine = nn.functional.cosine_similarity(one, other, dim=-1)
    # What adds nothing either way has not changed.
    cosine[(one == 0).all(-1) & (other == 0).all(-1)] = 1
    return float((1 - cosine).sum())


def propose_fusion(
    model: PuzzleForCausalLM,
    windows: torch.Tensor,
    *,
    max_dependency: float = 0.1,
    keep_last: bool = True,
    max_width: int | None = None,
    batch: int = 4,
) -> Fusion:
    """Returns a fusion of layers that depend little on each other, measured on text.

    Args:
        model: A child, some of whose layers have no attention.
        windows: Token ids, (windows, length).
        max_dependency: Largest `block_dependency` between two layers that are fused.
        keep_last: As in `search_space.plan_fusion`.
        max_width: As in `search_space.plan_fusion`.
        batch: Windows that are computed together.

    Raises:
        DataError: The windows are not a matrix of token ids.
    """
    layout = layout_from_config(model.config)
    limits: dict[str, Any] = {"keep_last": keep_last, "max_width": max_width}
    members = {
        layer
        for run in candidate_runs(layout, max_layers=2, **limits)
        for layer in (run.first, run.last)
    }
    if not members:
        return Fusion(())
    matrix = block_dependency(model, windows, layers=members, batch=batch)
    return plan_fusion(layout, dependency=matrix.tolist(), max_dependency=max_dependency, **limits)


@dataclass(frozen=True, slots=True)
class FusionCandidate:
    """A fused layer that a search may choose in place of several layers.

    Args:
        first: The first layer it stands for.
        last: The last layer it stands for.
        label: The label of its block.
        resources: What it takes of each resource.
    """

    first: int
    last: int
    label: str
    resources: Mapping[str, float]


def fused_cost(costs: CostModel, run: FusedRun, scenario: Scenario) -> dict[str, float]:
    """Returns what the fused layer of a run takes of each resource.

    Raises:
        ConstraintError: The cost model does not know the fused block.
    """
    try:
        return dict(costs.block_cost(run.last, run.block, scenario))
    except KeyError as error:
        raise ConstraintError(
            f"the cost model has no cost for {run.block.label}, the fusion of layers {run.first} "
            f"to {run.last}; measure that block too, or use a modelled cost"
        ) from error


def fusion_candidates(
    layout: Layout, costs: CostModel, scenario: Scenario, **limits: Any
) -> tuple[FusionCandidate, ...]:
    """Returns every fused layer that may replace layers of a layout, with its costs.

    Args:
        layout: The layout before fusion, such as a first search chose it.
        costs: Any cost model.
        scenario: The scenario that costs are stated for.
        **limits: `keep_last`, `max_width`, `max_layers`, `dependency` and `max_dependency` of
            `search_space.fusion.candidate_runs`.

    Raises:
        ConstraintError: The cost model does not know a fused block.
    """
    return tuple(
        FusionCandidate(run.first, run.last, run.block.label, fused_cost(costs, run, scenario))
        for run in candidate_runs(layout, **limits)
    )
