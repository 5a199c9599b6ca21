"""distill_memory(): what a distillation takes of each device's memory, before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.distiller import Distiller
from puzzle.distillation.optimizers import is_layer_matrix
from puzzle.distillation.planned_configs import planned_configs
from puzzle.distillation.simulated_step import (
    StepBytes,
    simulate_step,
    simulated_distiller,
    without_contents,
)
from puzzle.errors import SettingError
from puzzle.hardware.format_speed import computing_format
from puzzle.storage.plain_values import count_of

PHASES = ("forward", "head", "backward", "update")
ROWS = {
    "child": "child, float32",
    "gradients": "its gradients",
    "moments": "moments of the optimiser",
    "parent": "parent",
    "activations": "activations",
    "exchanged": "whole weights and gradients, optimiser's temporary tensors",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillMemory:
    """Bytes that one process of a distillation has on its device at its peak.

    Of sharded tensors these are the bytes of the first process, which has the most. The libraries
    of the device, and what its allocator cannot use again, come on top: some gigabytes on a GPU.

    Args:
        child: The child's weights in float32.
        gradients: Their gradients.
        moments: What the optimiser keeps.
        parent: The parent's weights.
        activations: All other tensors of the passes, at the peak. Replicated in mixed precision,
            the weights in bfloat16 are among them.
        exchanged: Sharded: weights that are whole at the peak, and gradients on their way.
            Replicated, with accumulation: the buckets of DDP. At the update: the optimiser's
            temporary tensors.
        kept: What a forward pass leaves for the backward pass, most of `activations`.
        moment: When the peak is: "forward", "head" (the losses), "backward" or "update".
        parameters: The child's parameters that are trained, of all processes.
        processes: How many processes there are.
        sharded: Whether they share the weights out.
    """

    child: int
    gradients: int
    moments: int
    parent: int
    activations: int
    exchanged: int
    kept: int
    moment: str
    parameters: int
    processes: int
    sharded: bool

    @property
    def state(self) -> int:
        """The bytes that stay from step to step."""
        return self.child + self.gradients + self.moments + self.parent

    @property
    def total(self) -> int:
        """The bytes at the peak."""
        return self.state + self.activations + self.exchanged

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {**asdict(self), "state": self.state, "total": self.total}

    def rows(self) -> list[tuple[str, str]]:
        """Returns a table: what takes the memory, and how many gigabytes."""
        gigabytes = {text: f"{getattr(self, name) / 1e9:.1f} GB" for name, text in ROWS.items()}
        return [*gigabytes.items(), (f"peak ({self.moment})", f"{self.total / 1e9:.1f} GB")]


def distill_memory(
    child: Any,
    parent: Any,
    *,
    config: DistillConfig | None = None,
    processes: int = 1,
    offline: int = 0,
    device: str = "cuda",
) -> DistillMemory:
    """Returns the memory that each process of `distill` needs; only configs are read.

    The passes are run on tensors that have sizes and no contents, so that what is counted is what
    `distill` does, whatever the family and the losses. Attention is that of a fused kernel, which
    keeps no scores. A mixture's experts compute `top_k` times the tokens, wherever these go.

    Args:
        child: Its directory, its config, or a `Layout` of the parent.
        parent: Its directory, hub id or config.
        config: The settings; `shard` says whether weights are shared out, and `mixed_precision`
            how products are computed.
        processes: How many processes there are, one for each device.
        offline: Tokens per position of an offline teacher (`cache_teacher`), in place of the
            parent; 0 if the parent is in memory.
        device: Their kind, "cuda" or "cpu".

    Raises:
        SettingError: The batch cannot be divided among so many processes.
        DataError: The losses cannot be computed between these two models.

    Example:
        >>> from transformers import LlamaConfig
        >>> parent = LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        ...                      intermediate_size=128, vocab_size=100, head_dim=16)
        >>> config = DistillConfig(length=32, batch=16, micro_batch=4, shard=True)
        >>> one, four = (distill_memory(parent, parent, config=config, processes=n) for n in (1, 4))
        >>> one.state == 4 * four.state, one.kept == four.kept
        (True, True)
    """
    config = config or DistillConfig()
    count_of("processes", processes, error=SettingError)
    count_of("offline", offline, least=0, error=SettingError)
    config.accumulation(processes)
    configs = planned_configs(child, parent)
    cast = config.mixed_precision == "bf16"
    sharded = bool(config.shard) and processes > 1
    stored = _stored(configs[1])
    # Where a CPU is much faster in float32, the parent computes in that.
    taught = computing_format(stored, "cpu") if device == "cpu" and not cast else stored
    with without_contents():
        # Sharded, weights are cast before they are gathered, and the passes see those.
        seen = (torch.bfloat16, torch.bfloat16) if cast and sharded else (torch.float32, taught)
        models = simulated_distiller(configs, seen, config, offline)
        models.device_type = device
        step = simulate_step(models, config, cast=cast and not sharded)
    return _memory(models, step, config, (processes, sharded, device, taught))


def _stored(config: Any) -> torch.dtype:
    stored = getattr(config, "dtype", None)
    return stored if isinstance(stored, torch.dtype) else torch.bfloat16


def _memory(
    models: Distiller,
    step: StepBytes,
    config: DistillConfig,
    where: tuple[int, bool, str, torch.dtype],
) -> DistillMemory:
    processes, sharded, device, taught = where
    ways = processes if sharded else 1
    child = dict(models.child.named_parameters())
    trained = {name: each for name, each in child.items() if each.requires_grad}
    muon = config.optimizer == "muon"
    moments = sum(
        _part(each, ways) * (4 if muon and is_layer_matrix(name, each) else 8)
        for name, each in trained.items()
    )
    teacher = sum(_part(each, ways) for each in models.parent.parameters())
    gradients = 4 * sum(_part(each, ways) for each in trained.values())
    exchanged = dict.fromkeys(PHASES, 0)
    if sharded:
        exchanged = _exchanged(models, on_cpu=device == "cpu")
    elif processes > 1 and config.accumulation(processes) > 1:
        # Gradients are accumulated beside the buckets in which they are exchanged.
        exchanged = dict.fromkeys(PHASES, gradients)
    exchanged["update"] = max(exchanged["update"], _stepping(trained, config, sharded, device))
    active = {phase: getattr(step, phase, 0) for phase in exchanged}
    moment = max(exchanged, key=lambda phase: exchanged[phase] + active[phase])
    return DistillMemory(
        child=4 * sum(_part(each, ways) for each in child.values()),
        gradients=gradients,
        moments=moments,
        parent=teacher * taught.itemsize,
        activations=active[moment],
        exchanged=exchanged[moment],
        kept=step.kept,
        moment=moment,
        parameters=sum(each.numel() for each in trained.values()),
        processes=processes,
        sharded=sharded,
    )


def _part(parameter: torch.Tensor, ways: int) -> int:
    """Returns the numbers of a parameter that the first process has: rows are dealt out."""
    if ways == 1 or not parameter.dim():
        return parameter.numel()
    rows = -(-len(parameter) // ways)
    return rows * (parameter.numel() // max(1, len(parameter)))


def _exchanged(models: Distiller, *, on_cpu: bool) -> dict[str, int]:
    """Returns what FSDP has beside the shards, in each part of a step.

    A layer's weights are gathered into one buffer while the one before it computes; those outside
    of layers stay whole until the end. A gradient is made in the format of its weight and exchanged
    in float32, from a buffer that lives until the next layer's.
    """
    sides = [side for side in (models.child, models.parent) if hasattr(side, "model")]
    layers = [list(layer.parameters()) for side in sides for layer in side.model.layers]
    inside = {id(each) for layer in layers for each in layer}
    outer = [each for side in sides for each in side.parameters() if id(each) not in inside]
    weights = 2 * max((_bytes(layer) for layer in layers), default=0)
    trained = [[each for each in layer if each.requires_grad] for layer in layers]
    largest = max(trained, key=_numbers, default=[])
    own = [each for each in outer if each.requires_grad]
    whole = _bytes(outer)
    buffers = 8 if on_cpu else 4
    gradients = _bytes(own) + _bytes(largest) + buffers * _numbers(largest)
    return {
        "forward": whole + weights,
        "head": whole,
        "backward": whole + weights + gradients,
        "update": _bytes(own) + buffers * _numbers(own),
    }


def _stepping(
    trained: Mapping[str, nn.Parameter], config: DistillConfig, sharded: bool, device: str
) -> int:
    """Returns what the optimiser's step makes: on a GPU, AdamW steps all that it has at once."""
    sizes = {name: each.numel() for name, each in trained.items()}
    largest = max(sizes.values(), default=0)
    if sharded or device == "cpu":
        return 8 * largest
    muon = config.optimizer == "muon"
    stepped = sum(
        n for name, n in sizes.items() if not (muon and is_layer_matrix(name, trained[name]))
    )
    return max(4 * stepped, 8 * largest)


def _numbers(parameters: Iterable[torch.Tensor]) -> int:
    return sum(each.numel() for each in parameters)


def _bytes(parameters: Iterable[torch.Tensor]) -> int:
    return sum(each.numel() * each.itemsize for each in parameters)
