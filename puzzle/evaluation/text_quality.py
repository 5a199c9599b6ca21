"""Quality of a child on held-out text, as a search reports it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from puzzle.evaluation.metrics_on_text import MeanEstimate, estimate
from puzzle.progress.bars import counted
from puzzle.storage.json_values import as_number, as_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How close a child is to its parent on text.

    Args:
        kl: KL(parent || child) in nats per token.
        agreement: Share of positions where both rank the same token first.
        perplexity: The child's perplexity.
        parent_perplexity: The parent's.
        kl_error: Standard error of `kl` over windows; None if there is only one window.
        agreement_error: Standard error of `agreement`, likewise.
    """

    kl: float
    agreement: float
    perplexity: float
    parent_perplexity: float
    kl_error: float | None = None
    agreement_error: float | None = None

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Returns the figures of "parent" and "child"; unknown ones are left out."""
        errors = {"kl_error": self.kl_error, "agreement_error": self.agreement_error}
        return {
            "parent": {"kl": 0.0, "perplexity": self.parent_perplexity, "agreement": 1.0},
            "child": {
                "kl": self.kl,
                "perplexity": self.perplexity,
                "agreement": self.agreement,
                **{name: error for name, error in errors.items() if error is not None},
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, float]]) -> Quality:
        """Returns the figures that `to_dict` wrote.

        Raises:
            DataError: A value is missing, or no number.
        """
        for who in ("parent", "child"):
            for name, value in as_object(values[who], who).items():
                as_number(value, f"{name} of the {who}", finite=False)
        child = values["child"]
        return cls(
            kl=child["kl"],
            agreement=child["agreement"],
            perplexity=child["perplexity"],
            parent_perplexity=values["parent"]["perplexity"],
            kl_error=child.get("kl_error"),
            agreement_error=child.get("agreement_error"),
        )


@torch.no_grad()
def quality(parent: Any, child: Any, tokens_NL: torch.Tensor, *, progress: bool = True) -> Quality:
    """Returns KL to the parent, next-token agreement with it, and perplexity of both models.

    Args:
        parent: The parent as a causal language model.
        child: The child, on the same device.
        tokens_NL: Validation windows, (windows, length).
        progress: Whether a bar is shown.
    """

    def logits(tokens_1L: torch.Tensor) -> list[torch.Tensor]:
        tokens_1L = tokens_1L.to(parent.device)
        return [model(tokens_1L).logits[0] for model in (parent, child)]

    bar = counted(tokens_NL.split(1), "validation", "window", shown=progress)
    return compared((tokens[0], *logits(tokens)) for tokens in bar)


@torch.no_grad()
def compared(windows: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> Quality:
    """Returns the figures of two models from their logits.

    Args:
        windows: Tokens (length,), and the logits that the parent and the child give them,
            (length, vocab), of each window.
    """
    rows = []
    for tokens_L, *logits in windows:
        log_p, log_q = (torch.log_softmax(each.float(), -1) for each in logits)
        kl = nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
        target = tokens_L[1:, None].to(log_p.device)
        losses = [-log[:-1].gather(1, target).mean() for log in (log_p, log_q)]
        agree = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean()
        rows.append(torch.stack([kl.mean(), agree, *losses]).double().cpu())
    near, agreement, parent_loss, child_loss = map(estimate, torch.stack(rows).unbind(1))
    return Quality(
        kl=near.value,
        agreement=agreement.value,
        perplexity=math.exp(child_loss.value),
        parent_perplexity=math.exp(parent_loss.value),
        kl_error=_known_error(near),
        agreement_error=_known_error(agreement),
    )


def _known_error(figure: MeanEstimate) -> float | None:
    return figure.error if math.isfinite(figure.error) else None
