"""Quality of a child on held-out text, as a search reports it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from puzzle.evaluation.text_metrics import estimate


@torch.no_grad()
def quality(
    parent: Any, child: Any, tokens_NL: torch.Tensor, *, progress: bool = True
) -> dict[str, dict[str, float]]:
    """Returns KL to the parent, perplexity and next-token agreement of both models.

    The child's KL and agreement have their standard errors over windows as `kl_error` and
    `agreement_error`, where there are two windows or more.

    Args:
        parent: The parent as a causal language model.
        child: The child, on the same device.
        tokens_NL: Validation windows, (windows, length).
        progress: Whether a bar is shown.
    """
    rows = []
    bar = tqdm(tokens_NL.split(1), desc="validation", unit="window", disable=not progress)
    for tokens in bar:
        tokens = tokens.to(parent.device)
        log_p, log_q = (torch.log_softmax(m(tokens).logits[0].float(), -1) for m in (parent, child))
        kl = nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
        target = tokens[0, 1:, None]
        losses = [-log[:-1].gather(1, target).mean() for log in (log_p, log_q)]
        agree = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean()
        rows.append(torch.stack([kl.mean(), agree, *losses]).double().cpu())
    near, same, parent_loss, child_loss = map(estimate, torch.stack(rows).unbind(1))
    errors = {"kl_error": near.error, "agreement_error": same.error}
    return {
        "parent": {"kl": 0.0, "perplexity": math.exp(parent_loss.value), "agreement": 1.0},
        "child": {
            "kl": near.value,
            "perplexity": math.exp(child_loss.value),
            "agreement": same.value,
            **{name: error for name, error in errors.items() if math.isfinite(error)},
        },
    }
