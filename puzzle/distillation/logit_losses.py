"""Exact losses on logits that are never all in memory: the vocabulary is processed in chunks.

For hidden states h and a head W, the logits z = h W^T of all tokens are the largest tensors of
a distillation, and there are two of them. Here each chunk of rows of both heads gives its logits
once in the forward pass, where log-sum-exp and expectations are accumulated with a running
maximum, and once more in the backward pass, where the gradient is known in closed form:

    d KL(p || q) / dz = q - p,    d KL(q || p) / dz = q (log q - log p - KL(q || p)),
    d CE / dz = q - onehot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch

NAMES = ("kl", "reverse_kl", "lm")
IGNORED = -100
# Logits per chunk on a CPU: more fall out of its caches, and each pass over them takes as long as
# the product that gave them.
CACHED = 2**21


def cached_chunk(chunk: int, tokens: int, device_type: str) -> int:
    """Returns the rows of heads to process at a time: on a CPU, those whose logits stay cached.

    Args:
        chunk: The most rows.
        tokens: How many tokens there are.
        device_type: The kind of device.
    """
    return min(chunk, max(1, CACHED // max(1, tokens))) if device_type == "cpu" else chunk


def head_losses(
    child_ND: torch.Tensor,
    child_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    parent_ND: torch.Tensor | None = None,
    parent_VD: torch.Tensor | None = None,
    chunk: int = 8192,
    names: Collection[str] = NAMES,
) -> dict[str, torch.Tensor]:
    """Returns mean losses of the child's next-token distribution, differentiable in the child.

    Args:
        child_ND: Input of the child's head, (tokens, hidden).
        child_VD: The child's head, (vocabulary, hidden).
        targets_N: The tokens that follow; those of -100 are left out of "lm".
        parent_ND: Input of the parent's head; without it there is only "lm".
        parent_VD: The parent's head; its hidden size may differ.
        chunk: Rows of the heads that are processed at a time, at most.
        names: The losses to compute.

    Returns:
        "kl" = KL(parent || child) and "reverse_kl" = KL(child || parent) per token, "lm" =
        cross-entropy per target, in nats.
    """
    computed = tuple(n for n in NAMES if n in names and (n == "lm" or parent_ND is not None))
    losses = _HeadLosses.apply(
        child_ND, child_VD, parent_ND, parent_VD, targets_N, (chunk, computed)
    )
    return dict(zip(computed, losses, strict=True))


class _HeadLosses(torch.autograd.Function):
    """The losses as one function, so that the chunks are processed only once."""

    @staticmethod
    def forward(
        ctx: Any,
        child_ND: torch.Tensor,
        child_VD: torch.Tensor,
        parent_ND: torch.Tensor | None,
        parent_VD: torch.Tensor | None,
        targets_N: torch.Tensor,
        wanted: tuple[int, tuple[str, ...]],
    ) -> torch.Tensor:
        device = child_ND.device.type
        ctx.dtype = child_ND.dtype
        if torch.is_autocast_enabled(device):
            ctx.dtype = torch.get_autocast_dtype(device)
        # Sums over the vocabulary need float32, or more if the input has more.
        ctx.wide = torch.promote_types(ctx.dtype, torch.float32)
        ctx.chunk, ctx.names = wanted
        with torch.autocast(device, enabled=False):
            child, parent = (_Moments(len(child_ND), ctx.wide, child_ND.device) for _ in range(2))
            at_target_N = torch.zeros_like(child.maximum_N)
            for start, z_NC, t_NC in _chunks(ctx, child_ND, child_VD, parent_ND, parent_VD):
                child.add(z_NC, t_NC if "reverse_kl" in ctx.names else None)
                if t_NC is not None:
                    parent.add(t_NC, z_NC if "kl" in ctx.names else None)
                if "lm" in ctx.names:
                    at_target_N += _pick(z_NC, targets_N, start)
            child_N, parent_N = child.log_sum(), parent.log_sum()
            reverse_N = child.mean() - child_N + parent_N
            kl_N = parent.mean() - parent_N + child_N
            valid_N = targets_N != IGNORED
            lm = ((child_N - at_target_N) * valid_N).sum() / valid_N.sum().clamp(min=1)
        ctx.save_for_backward(
            child_ND, child_VD, parent_ND, parent_VD, targets_N, child_N, parent_N, reverse_N
        )
        values = {"kl": kl_N.mean(), "reverse_kl": reverse_N.mean(), "lm": lm}
        return torch.stack([values[name] for name in ctx.names])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        child_ND, child_VD, parent_ND, parent_VD, targets_N, *rest = ctx.saved_tensors
        child_N, parent_N, reverse_N = rest
        to = dict(zip(ctx.names, gradients[0], strict=True))
        valid_N = targets_N != IGNORED
        to_child_ND = torch.zeros_like(child_ND, dtype=ctx.wide)
        to_head_VD = torch.empty_like(child_VD) if ctx.needs_input_grad[1] else None
        with torch.autocast(child_ND.device.type, enabled=False):
            for start, z_NC, t_NC in _chunks(ctx, child_ND, child_VD, parent_ND, parent_VD):
                log_q_NC = z_NC.sub_(child_N[:, None])
                q_NC = log_q_NC.exp()
                parts = []
                if "lm" in to:
                    to_lm_N1 = (to["lm"] * valid_N / valid_N.sum().clamp(min=1))[:, None]
                    parts.append(q_NC * to_lm_N1)
                    _pick_add(parts[0], targets_N, start, -to_lm_N1)
                if t_NC is not None:
                    log_p_NC = t_NC.sub_(parent_N[:, None])
                    if "reverse_kl" in to:
                        above_NC = log_q_NC - log_p_NC - reverse_N[:, None]
                        parts.append(above_NC.mul_(q_NC).mul_(to["reverse_kl"] / len(child_ND)))
                    if "kl" in to:
                        apart_NC = q_NC.sub_(log_p_NC.exp_())
                        parts.append(apart_NC.mul_(to["kl"] / len(child_ND)))
                g_NC = parts[0]
                for part_NC in parts[1:]:
                    g_NC += part_NC
                rows = slice(start, start + g_NC.shape[1])
                g_NC = g_NC.to(ctx.dtype)
                to_child_ND += g_NC @ child_VD[rows].to(ctx.dtype)
                if to_head_VD is not None:
                    to_head_VD[rows] = g_NC.T @ child_ND.to(ctx.dtype)
        return to_child_ND.to(child_ND.dtype), to_head_VD, None, None, None, None


class _Moments:
    """Log-sum-exp of logits and the mean of a value under their softmax, chunk by chunk."""

    def __init__(self, count: int, dtype: torch.dtype, device: torch.device) -> None:
        self.maximum_N = torch.full((count,), -torch.inf, dtype=dtype, device=device)
        self.sum_N = torch.zeros_like(self.maximum_N)
        self.weighted_N = torch.zeros_like(self.maximum_N)

    def add(self, z_NC: torch.Tensor, other_NC: torch.Tensor | None) -> None:
        """Adds a chunk of logits; the value is how far they are above other ones, if given."""
        maximum_N = torch.maximum(self.maximum_N, z_NC.amax(-1))
        shrink_N = (self.maximum_N - maximum_N).exp()
        e_NC = (z_NC - maximum_N[:, None]).exp_()
        self.sum_N = self.sum_N * shrink_N + e_NC.sum(-1)
        if other_NC is not None:
            above_N = torch.linalg.vecdot(e_NC, z_NC - other_NC)
            self.weighted_N = self.weighted_N * shrink_N + above_N
        self.maximum_N = maximum_N

    def log_sum(self) -> torch.Tensor:
        return self.maximum_N + self.sum_N.log()

    def mean(self) -> torch.Tensor:
        return self.weighted_N / self.sum_N


def _chunks(
    ctx: Any,
    child_ND: torch.Tensor,
    child_VD: torch.Tensor,
    parent_ND: torch.Tensor | None,
    parent_VD: torch.Tensor | None,
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
    """Yields the first row of each chunk and both models' logits of its rows."""
    child_ND = child_ND.to(ctx.dtype)
    parent_ND = None if parent_ND is None else parent_ND.to(ctx.dtype)
    for start in range(0, len(child_VD), ctx.chunk):
        rows = slice(start, start + ctx.chunk)
        z_NC = (child_ND @ child_VD[rows].to(ctx.dtype).T).to(ctx.wide)
        if parent_ND is None or parent_VD is None:
            yield start, z_NC, None
        else:
            yield start, z_NC, (parent_ND @ parent_VD[rows].to(ctx.dtype).T).to(ctx.wide)


def _within(targets_N: torch.Tensor, start: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    inside_N = (targets_N >= start) & (targets_N < start + size)
    return inside_N, torch.where(inside_N, targets_N - start, 0)[:, None]


def _pick(z_NC: torch.Tensor, targets_N: torch.Tensor, start: int) -> torch.Tensor:
    """Returns the target's logit where it is in this chunk, else 0."""
    inside_N, index_N1 = _within(targets_N, start, z_NC.shape[1])
    return z_NC.gather(1, index_N1)[:, 0] * inside_N


def _pick_add(
    g_NC: torch.Tensor, targets_N: torch.Tensor, start: int, value_N1: torch.Tensor
) -> None:
    inside_N, index_N1 = _within(targets_N, start, g_NC.shape[1])
    g_NC.scatter_add_(1, index_N1, value_N1 * inside_N[:, None])
