"""Quality on held-out text: the loss of the next token and the KL to a reference, in nats."""

from __future__ import annotations

from typing import Any

import torch

WINDOWS_AT_ONCE = 2


@torch.no_grad()
def lm_loss(model: Any, tokens_BL: torch.Tensor) -> float:
    """Returns the mean loss of the next token."""
    total = 0.0
    for rows in tokens_BL.split(WINDOWS_AT_ONCE):
        logits = model(rows).logits[:, :-1].float().flatten(0, 1)
        targets = rows[:, 1:].flatten()
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total / tokens_BL[:, 1:].numel()


@torch.no_grad()
def kl(reference: Any, model: Any, tokens_BL: torch.Tensor) -> float:
    """Returns KL(reference || model), the mean over tokens."""
    total = 0.0
    for rows in tokens_BL.split(WINDOWS_AT_ONCE):
        p, q = (each(rows).logits.float().log_softmax(-1) for each in (reference, model))
        total += float((p.exp() * (p - q)).sum())
    return total / tokens_BL.numel()


class WindowKL:
    """KL(reference || model) of each of some windows, the reference computed once.

    Args:
        reference: The model that is compared with.
        tokens_BL: The windows.
    """

    def __init__(self, reference: Any, tokens_BL: torch.Tensor) -> None:
        self.reference, self.tokens = reference, tokens_BL
        self._log_p: list[torch.Tensor] = []

    @torch.no_grad()
    def __call__(self, model: Any) -> torch.Tensor:
        """Returns the mean of each window, in nats per token."""
        parts = self.tokens.split(WINDOWS_AT_ONCE)
        if not self._log_p:
            self._log_p = [_log_softmax(self.reference, rows) for rows in parts]
        means = []
        for rows, log_p in zip(parts, self._log_p, strict=True):
            log_q = _log_softmax(model, rows)
            means.append((log_p.exp() * (log_p - log_q)).sum(-1).mean(1))
        return torch.cat(means)


def _log_softmax(model: Any, rows: torch.Tensor) -> torch.Tensor:
    log_p: torch.Tensor = model(rows).logits.float().log_softmax(-1)
    return log_p
