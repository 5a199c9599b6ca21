"""Distiller: parent and child in one module whose forward pass is the distillation loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.logit_losses import IGNORED, NAMES, cached_chunk, head_losses
from puzzle.errors import DataError
from search_space import Fusion

HIDDEN = {"cosine", "mse"}


class Distiller(nn.Module):
    """Both models in one module, so that one call shards them and gathers their outer weights.

    The loss is computed inside `forward` because only there does FSDP hold the full heads.

    Args:
        child: The child; its parameters are trained.
        parent: The parent, of the same vocabulary; its parameters are frozen.
        config: The losses and how they are computed.

    Attributes:
        device_type: The kind of device that the heads are chunked for; by default the tokens'.

    Raises:
        DataError: The losses cannot be computed between these two models.
    """

    device_type: str | None = None

    def __init__(self, child: Any, parent: Any, config: DistillConfig) -> None:
        super().__init__()
        self.child, self.parent = child, parent.requires_grad_(False).eval()
        self.losses, self.chunk = dict(config.losses), config.vocab_chunk
        self.pairs = _pairs(child.config, parent.config, config)
        if not set(NAMES) & set(self.losses):
            self._freeze_after(max(pair[0] for pair in self.pairs))
        if not config.train_embeddings:
            self.child.model.embed_tokens.requires_grad_(False)
            self.child.lm_head.requires_grad_(False)

    def _freeze_after(self, layer: int) -> None:
        """Freezes what no loss depends on: everything after the last layer that is compared."""
        inner = self.child.model
        for module in (*inner.layers[layer + 1 :], inner.norm):
            module.requires_grad_(False)
        if self.child.lm_head.weight is not inner.embed_tokens.weight:
            self.child.lm_head.requires_grad_(False)

    def forward(
        self, tokens_BL: torch.Tensor, *, measure: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the weighted loss and its terms in the order of the config's losses.

        Args:
            tokens_BL: Token windows.
            measure: Return KL to the parent and cross-entropy instead, whatever the losses are.
        """
        if measure:
            return self._measure(tokens_BL)
        needs_parent = set(self.losses) != {"lm"}
        teacher: tuple[torch.Tensor, list[torch.Tensor]] | None = None
        with torch.no_grad():
            if needs_parent:
                teacher = _run(self.parent, tokens_BL, [pair[1] for pair in self.pairs])
        child_BLD, states = _run(self.child, tokens_BL, [pair[0] for pair in self.pairs])
        losses: dict[str, torch.Tensor] = {}
        if teacher is not None and self.pairs:
            losses |= hidden_losses(states, teacher[1], HIDDEN & set(self.losses))
        if set(NAMES) & set(self.losses):
            losses |= self._head(child_BLD, tokens_BL, None if teacher is None else teacher[0])
        terms = torch.stack([losses[name].float() for name in self.losses])
        weights = torch.tensor(list(self.losses.values()), device=terms.device)
        return (terms * weights).sum(), terms.detach()

    def rows_at_once(self, tokens_BL: torch.Tensor) -> int:
        """Returns how many rows of the heads are processed at a time."""
        device_type = self.device_type or tokens_BL.device.type
        return cached_chunk(self.chunk, tokens_BL.numel(), device_type)

    def _head(
        self, child_BLD: torch.Tensor, tokens_BL: torch.Tensor, parent_BLD: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        if not {"kl", "reverse_kl"} & set(self.losses):
            parent_BLD = None
        return head_losses(
            child_BLD.flatten(0, 1),
            self.child.lm_head.weight,
            next_tokens(tokens_BL).flatten(),
            parent_ND=None if parent_BLD is None else parent_BLD.flatten(0, 1),
            parent_VD=None if parent_BLD is None else self.parent.lm_head.weight,
            chunk=self.rows_at_once(tokens_BL),
            names=self.losses,
        )

    @torch.no_grad()
    def _measure(self, tokens_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        teacher, _ = _run(self.parent, tokens_BL, [])
        child_BLD, _ = _run(self.child, tokens_BL, [])
        losses = head_losses(
            child_BLD.flatten(0, 1),
            self.child.lm_head.weight,
            next_tokens(tokens_BL).flatten(),
            parent_ND=teacher.flatten(0, 1),
            parent_VD=self.parent.lm_head.weight,
            chunk=self.rows_at_once(tokens_BL),
            names=("kl", "lm"),
        )
        return losses["kl"], losses["lm"]


def checkpoint_layers(child: Any) -> None:
    """Lets a model compute its layers again in the backward pass, to keep less in memory."""
    # The older name is deprecated since transformers 5.23.
    newer = getattr(child, "activation_checkpointing_enable", None)
    (newer or child.gradient_checkpointing_enable)()


def next_tokens(tokens_BL: torch.Tensor) -> torch.Tensor:
    """Returns each position's next token, and -100 where the window ends."""
    last_B1 = torch.full_like(tokens_BL[:, :1], IGNORED)
    return torch.cat([tokens_BL[:, 1:], last_B1], 1)


def hidden_losses(
    child: Sequence[torch.Tensor], parent: Sequence[torch.Tensor], names: set[str]
) -> dict[str, torch.Tensor]:
    """Returns the losses between residual streams, mean over boundaries and tokens.

    Args:
        child: The child's streams, (B, L, hidden) each.
        parent: The parent's streams at the same boundaries.
        names: "cosine" = 1 - cos, "mse" = ||c - p||^2 / ||p||^2.
    """
    # In float32 the streams of all boundaries are the most memory of a step, so that they are made
    # again in the backward pass.
    computed = sorted(names)
    apart = [
        checkpoint(
            _stream_losses, *streams, computed, use_reentrant=False, preserve_rng_state=False
        )
        for streams in zip(child, parent, strict=True)
    ]
    return dict(zip(computed, torch.stack(apart).mean(0), strict=True))


def _stream_losses(c_BLD: torch.Tensor, p_BLD: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    c_BLD, p_BLD = c_BLD.float(), p_BLD.float()
    losses = []
    for name in names:
        if name == "cosine":
            apart_BL = 1 - nn.functional.cosine_similarity(c_BLD, p_BLD, dim=-1)
        else:
            apart_BL = (c_BLD - p_BLD).square().sum(-1) / p_BLD.square().sum(-1)
        losses.append(apart_BL.mean())
    return torch.stack(losses)


def boundary_pairs(fusion: Fusion, layers: int) -> tuple[tuple[int, int], ...]:
    """Returns pairs of a fused child's layer and the parent's layer that ends at the same place.

    A fused layer ends where the last layer of its run does; boundaries inside a run disappear.

    Args:
        fusion: The runs of layers that were fused.
        layers: Layers before fusion.

    Example:
        >>> from search_space import Fusion, FusedRun
        >>> boundary_pairs(Fusion((FusedRun(1, (256, 256, 256)),)), 5)
        ((0, 0), (1, 3), (2, 4))
    """
    inner = {layer for run in fusion.runs for layer in range(run.first, run.last)}
    kept = [layer for layer in range(layers) if layer not in inner]
    return tuple(enumerate(kept))


def _pairs(child: Any, parent: Any, config: DistillConfig) -> tuple[tuple[int, int], ...]:
    if child.vocab_size != parent.vocab_size:
        raise DataError(
            f"the child's vocabulary has {child.vocab_size} tokens and the parent's "
            f"{parent.vocab_size}; distillation needs the same one"
        )
    if not HIDDEN & set(config.losses):
        return ()
    if child.hidden_size != parent.hidden_size:
        raise DataError(
            f"the child's hidden size is {child.hidden_size} and the parent's "
            f"{parent.hidden_size}; drop {sorted(HIDDEN & set(config.losses))} from the losses"
        )
    counts = child.num_hidden_layers, parent.num_hidden_layers
    if config.boundaries is None:
        if counts[0] != counts[1]:
            raise DataError(
                f"the child has {counts[0]} layers and the parent {counts[1]}; say which outputs "
                "to compare with boundaries=, such as boundary_pairs(fusion, layers) gives"
            )
        return tuple((layer, layer) for layer in range(counts[0]))
    inside = all(0 <= c < counts[0] and 0 <= p < counts[1] for c, p in config.boundaries)
    if not inside or not config.boundaries:
        raise DataError(
            f"boundaries={config.boundaries!r}; allowed: pairs of a child layer from 0 to "
            f"{counts[0] - 1} and a parent layer from 0 to {counts[1] - 1}"
        )
    return tuple(config.boundaries)


def _run(
    model: Any, tokens_BL: torch.Tensor, layers: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Returns the input of the head and the outputs of the given layers."""
    with _recorded(model.model.layers, layers) as outputs:
        h_BLD = model.model(input_ids=tokens_BL, use_cache=False).last_hidden_state
        states = dict(outputs)
    return h_BLD, [states[layer] for layer in layers]


@contextmanager
def _recorded(modules: Any, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Records the outputs of layers while open: gradient checkpointing runs them again later."""
    outputs: dict[int, torch.Tensor] = {}

    def record(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            outputs[layer] = output

        return hook

    handles = [modules[layer].register_forward_hook(record(layer)) for layer in {*layers}]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
