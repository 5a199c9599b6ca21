"""How far a child is from its parent on text, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from puzzle.errors import DataError
from puzzle.progress.bars import counted


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean and its standard error.

    Args:
        value: The mean.
        error: Its standard error; NaN if there was only one sample.
    """

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g}"

    def to_dict(self) -> dict[str, float | None]:
        """Returns plain JSON values; an unknown error is None."""
        return {"value": self.value, "error": self.error if math.isfinite(self.error) else None}


def estimate(values: torch.Tensor) -> MeanEstimate:
    """Returns the mean of independent samples and its standard error."""
    count = len(values)
    error = float(values.std()) / math.sqrt(count) if count > 1 else math.nan
    return MeanEstimate(float(values.mean()), error)


def ratio(numerator: torch.Tensor, denominator: torch.Tensor) -> MeanEstimate:
    """Returns the ratio of the means of paired samples, its error by the delta method.

    What both samples of a pair share, such as a question's difficulty, does not count as noise.
    """
    mean = float(denominator.mean())
    if mean == 0:
        return MeanEstimate(math.nan, math.nan)
    value = float(numerator.mean()) / mean
    return MeanEstimate(value, estimate((numerator - value * denominator) / mean).error)


@torch.no_grad()
def text_metrics(
    model: Any, windows_NL: torch.Tensor, *, parent: Any = None, top_k: int = 5
) -> dict[str, dict[str, MeanEstimate]]:
    """Returns perplexity, and with a parent also KL and agreement, on token windows.

    Tokens of one window depend on each other, so standard errors are those of the windows' means.

    Args:
        model: The child as a causal language model.
        windows_NL: Token windows, (windows, length).
        parent: Its parent.
        top_k: The k of top-k agreement.

    Returns:
        For "child", and "parent" if there is one: `perplexity`; for a child with a parent
        also `kl` = KL(parent || child) in nats per token, `agreement` = share of positions where
        both rank the same token first, and `top_k_agreement` = share of the parent's k
        most likely tokens that are among the child's.

    Raises:
        DataError: The windows are not a matrix of token ids, or `top_k` is out of range.
    """
    if windows_NL.dim() != 2 or windows_NL.is_floating_point() or windows_NL.shape[-1] < 2:
        raise DataError(
            f"windows of shape {tuple(windows_NL.shape)} and type {windows_NL.dtype}; allowed: "
            "token ids, (windows, length) with a length of 2 or more"
        )
    vocab = model.config.vocab_size
    if not 1 <= top_k <= vocab:
        raise DataError(f"top_k={top_k}; allowed: 1 to the vocabulary's {vocab}")
    rows: list[dict[str, float]] = []
    for tokens_1L in counted(windows_NL.split(1), "text", "window"):
        log_q_LV = _log_probabilities(model, tokens_1L)
        row = {"child": _loss(log_q_LV, tokens_1L)}
        if parent is not None:
            log_p_LV = _log_probabilities(parent, tokens_1L).to(log_q_LV.device)
            row |= {"parent": _loss(log_p_LV, tokens_1L), **_closeness(log_p_LV, log_q_LV, top_k)}
        rows.append(row)
    columns = {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]
    }
    metrics: dict[str, dict[str, MeanEstimate]] = {
        name: {"perplexity": _perplexity(columns[name])}
        for name in ("parent", "child")
        if name in columns
    }
    if parent is not None:
        names = ("kl", "agreement", "top_k_agreement")
        metrics["child"] |= {name: estimate(columns[name]) for name in names}
    return metrics


def _log_probabilities(model: Any, tokens_1L: torch.Tensor) -> torch.Tensor:
    logits = model(tokens_1L.to(model.device), use_cache=False).logits[0]
    return torch.log_softmax(logits.float(), -1)


def _loss(log_LV: torch.Tensor, tokens_1L: torch.Tensor) -> float:
    return float(nn.functional.nll_loss(log_LV[:-1], tokens_1L[0, 1:].to(log_LV.device)))


def _closeness(log_p_LV: torch.Tensor, log_q_LV: torch.Tensor, k: int) -> dict[str, float]:
    kl_LV = nn.functional.kl_div(log_q_LV, log_p_LV, log_target=True, reduction="none")
    top_p_Lk, top_q_Lk = log_p_LV.topk(k, -1).indices, log_q_LV.topk(k, -1).indices
    shared_Lkk = top_p_Lk[:, :, None] == top_q_Lk[:, None, :]
    return {
        "kl": float(kl_LV.sum(-1).mean()),
        "agreement": float((log_p_LV.argmax(-1) == log_q_LV.argmax(-1)).double().mean()),
        "top_k_agreement": float(shared_Lkk.any(-1).double().mean()),
    }


def _perplexity(losses: torch.Tensor) -> MeanEstimate:
    loss = estimate(losses)
    value = math.exp(min(loss.value, 700.0))
    return MeanEstimate(value, value * loss.error)


def flat(metrics: Mapping[str, Mapping[str, MeanEstimate]]) -> dict[str, dict[str, Any]]:
    """Returns the metrics as plain JSON values."""
    return {
        who: {name: value.to_dict() for name, value in of.items()} for who, of in metrics.items()
    }
