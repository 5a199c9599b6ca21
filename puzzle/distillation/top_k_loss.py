"""KL to a distribution of which only the likeliest tokens are known, with the vocabulary in chunks.

Beside the k tokens that are known, parent and child each have a rest of probability, r and s, which
counts as one more token:

    KL = sum_k p (log p - log q) + r (log r - log s),
    d KL / dz = q - p at the k tokens, and q (1 - r / s) at all others.

It is at most the KL of the whole distributions, and equal to it where k is the whole vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

# A rest of less probability than this is rounding.
LEAST_REST = 1e-6


def top_k_kl(
    child_ND: torch.Tensor,
    child_VD: torch.Tensor,
    tokens_NK: torch.Tensor,
    log_p_NK: torch.Tensor,
    *,
    chunk: int = 8192,
) -> torch.Tensor:
    """Returns KL(parent || child) in nats per token, differentiable in the child.

    Args:
        child_ND: Input of the child's head, (tokens, hidden).
        child_VD: The child's head, (vocabulary, hidden).
        tokens_NK: The parent's likeliest tokens, each once.
        log_p_NK: Their log-probabilities.
        chunk: Rows of the head that are processed at a time, at most.
    """
    kl: torch.Tensor = _TopKKL.apply(child_ND, child_VD, tokens_NK, log_p_NK, chunk)
    return kl


class _TopKKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        child_ND: torch.Tensor,
        child_VD: torch.Tensor,
        tokens_NK: torch.Tensor,
        log_p_NK: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        device = child_ND.device.type
        ctx.dtype, ctx.chunk = child_ND.dtype, chunk
        if torch.is_autocast_enabled(device):
            ctx.dtype = torch.get_autocast_dtype(device)
        ctx.wide = torch.promote_types(ctx.dtype, torch.float32)
        with torch.autocast(device, enabled=False):
            log_p_NK = log_p_NK.to(ctx.wide)
            log_sum_N = torch.full((len(child_ND),), -torch.inf, dtype=ctx.wide, device=device)
            z_NK = torch.zeros_like(log_p_NK)
            for start, z_NC in _chunks(ctx, child_ND, child_VD):
                log_sum_N = torch.logaddexp(log_sum_N, z_NC.logsumexp(-1))
                inside_NK, at_NK = _within(tokens_NK, start, z_NC.shape[1])
                z_NK += z_NC.gather(1, at_NK) * inside_NK
            log_q_NK = z_NK - log_sum_N[:, None]
            rest_p_N, rest_q_N = (1 - log_NK.exp().sum(-1) for log_NK in (log_p_NK, log_q_NK))
            if tokens_NK.shape[1] == len(child_VD):
                rest_p_N = torch.zeros_like(rest_p_N)
            rest_p_N = torch.where(rest_p_N < LEAST_REST, 0.0, rest_p_N)
            rest_q_N = rest_q_N.clamp(min=LEAST_REST)
            kl_N = (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum(-1)
            kl_N += torch.xlogy(rest_p_N, rest_p_N / rest_q_N)
        ratio_N = rest_p_N / rest_q_N
        ctx.save_for_backward(child_ND, child_VD, tokens_NK, log_p_NK, log_sum_N, ratio_N)
        return kl_N.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        child_ND, child_VD, tokens_NK, log_p_NK, log_sum_N, ratio_N = ctx.saved_tensors
        scale = gradients[0] / len(child_ND)
        to_child_ND = torch.zeros_like(child_ND, dtype=ctx.wide)
        to_head_VD = torch.empty_like(child_VD) if ctx.needs_input_grad[1] else None
        with torch.autocast(child_ND.device.type, enabled=False):
            for start, z_NC in _chunks(ctx, child_ND, child_VD):
                q_NC = z_NC.sub_(log_sum_N[:, None]).exp_()
                inside_NK, at_NK = _within(tokens_NK, start, q_NC.shape[1])
                known_NK = q_NC.gather(1, at_NK) * ratio_N[:, None] - log_p_NK.exp()
                g_NC = q_NC * (1 - ratio_N)[:, None]
                g_NC.scatter_add_(1, at_NK, known_NK * inside_NK)
                g_NC = (g_NC * scale).to(ctx.dtype)
                rows = slice(start, start + g_NC.shape[1])
                to_child_ND += g_NC @ child_VD[rows].to(ctx.dtype)
                if to_head_VD is not None:
                    to_head_VD[rows] = g_NC.T @ child_ND.to(ctx.dtype)
        return to_child_ND.to(child_ND.dtype), to_head_VD, None, None, None


def _chunks(ctx: Any, child_ND: torch.Tensor, child_VD: torch.Tensor) -> Any:
    child_ND = child_ND.to(ctx.dtype)
    for start in range(0, len(child_VD), ctx.chunk):
        rows = child_VD[start : start + ctx.chunk].to(ctx.dtype)
        yield start, (child_ND @ rows.T).to(ctx.wide)


def _within(tokens_NK: torch.Tensor, start: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    inside_NK = (tokens_NK >= start) & (tokens_NK < start + size)
    return inside_NK, torch.where(inside_NK, tokens_NK - start, 0)
