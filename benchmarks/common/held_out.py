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
