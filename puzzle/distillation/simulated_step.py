"""A step of a distillation on tensors without contents, and the memory that they would take."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.distiller import Distiller, checkpoint_layers
from puzzle.distillation.offline_teacher import OfflineDistiller
from puzzle.models.trainable import empty_model


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBytes:
    """What the tensors of one forward and backward pass take beside weights and gradients.

    Args:
        kept: Bytes that the forward pass leaves for the backward pass.
        forward: The most bytes at any moment until the child's last layer is done.
        head: The same from there until the gradient reaches that layer: the losses.
        backward: The same from there to the end.
    """

    kept: int
    forward: int
    head: int
    backward: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations make while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._watchers: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_place(each) for each in tree_leaves((args, kwargs)) if _is_tensor(each)}
        if func is torch.ops.aten._grouped_mm.default:
            out = _of_experts(*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not _is_tensor(tensor):
                continue
            place = _place(tensor)
            if place not in given and place not in self._sizes:
                self._add(place, tensor.untyped_storage())
        return out

    def part_ends(self) -> int:
        """Returns the peak since the last call, and begins anew."""
        peak, self.peak = self.peak, self.now
        return peak

    def _add(self, place: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._sizes[place], self.now = size, self.now + size
        self.peak = max(self.peak, self.now)

        def gone(_: Any) -> None:
            self.now -= self._sizes.pop(place)
            del self._watchers[place]

        # The storage outlives its tensors where the backward pass needs it.
        self._watchers[place] = weakref.ref(storage, gone)


def _of_experts(
    a: torch.Tensor, b: torch.Tensor, offs: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    """Returns a tensor of the sizes of the product with each expert's weights, or their gradient.

    torch's own function of the sizes refuses float32, which its product computes.
    """
    if a.dim() == 2 and b.dim() == 2:
        return a.new_empty(len(offs), len(a), b.shape[1])
    return a.new_empty(a.shape[-2], b.shape[-1])


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def _place(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class SizedAnswers:
    """In place of an offline teacher: answers of the right sizes.

    Args:
        k: Tokens per position.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def answers(self, tokens_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns token numbers and log-probabilities of k tokens at every position."""
        ids = torch.zeros(*tokens_BL.shape, self.k, dtype=torch.long)
        return ids, torch.zeros(ids.shape)


def simulated_distiller(
    configs: tuple[Any, Any],
    formats: tuple[torch.dtype, torch.dtype],
    config: DistillConfig,
    k: int,
) -> Distiller:
    """Returns the module of a distillation; call it where tensors have no contents.

    Args:
        configs: Those of child and parent.
        formats: The number formats of child and parent.
        config: The settings.
        k: Tokens per position of an offline teacher, in place of the parent; 0 for the parent.
    """
    child = empty_model(configs[0], formats[0])
    if k:
        answers: Any = SizedAnswers(k)
        return OfflineDistiller(child, answers, config)
    return Distiller(child, empty_model(configs[1], formats[1]), config)


def simulate_step(distiller: Distiller, config: DistillConfig, *, cast: bool) -> StepBytes:
    """Returns what the tensors of one micro-batch take; no number is computed.

    Args:
        distiller: Made where tensors have no contents.
        config: The settings.
        cast: Whether weights are cast to bfloat16 in each product.
    """
    tokens_BL = torch.zeros(config.micro_batch, config.length, dtype=torch.long)
    distiller.child.train()
    if config.gradient_checkpointing:
        checkpoint_layers(distiller.child)
    for parameter in distiller.child.parameters():
        if parameter.requires_grad:
            # Gradients are counted apart.
            parameter.register_post_accumulate_grad_hook(_forget)
    precision: AbstractContextManager[Any] = nullcontext()
    if cast:
        precision = torch.autocast("cpu", torch.bfloat16)
    peaks: list[int] = []
    with LiveBytes() as live:
        watch = distiller.child.model.layers[-1].register_forward_hook(
            lambda _module, _given, out: _at_borders(out, lambda: peaks.append(live.part_ends()))
        )
        with precision:
            loss, _ = distiller(tokens_BL)
        kept = live.now
        watch.remove()
        loss.backward()
        peaks.append(live.part_ends())
    forward, *head, backward = peaks
    return StepBytes(kept=kept, forward=forward, head=max(head), backward=backward)


def _at_borders(output: torch.Tensor, note: Callable[[], None]) -> None:
    note()
    output.register_hook(lambda _gradient: note())


def _forget(parameter: torch.Tensor) -> None:
    parameter.grad = None


def without_contents() -> FakeTensorMode:
    """Returns the context in which tensors have sizes and no contents."""
    return FakeTensorMode()
