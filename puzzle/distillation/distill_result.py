"""DistillResult: the distilled child on disk and how it got there."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from puzzle.distillation.distill_config import DistillConfig
from puzzle.hardware.torch_state import own_torch_state
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.pretrained import load_model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class DistillResult:
    """The outcome of a distillation.

    Args:
        path: The child's directory, in Hugging Face format.
        config: The settings.
        history: One entry per step: step, tokens, loss, its terms, learning rate, gradient norm
            before clipping, seconds.
        evaluations: Entries with step, KL and perplexity on the validation text, the first from
            before training; empty without validation text.
    """

    path: Path
    config: DistillConfig
    history: Sequence[Mapping[str, float]]
    evaluations: Sequence[Mapping[str, float]]

    @own_torch_state()
    def child(self, dtype: torch.dtype | None = None) -> PuzzleForCausalLM:
        """Returns the child, read from its directory; by default as it is stored."""
        child: PuzzleForCausalLM = load_model(self.path, dtype=dtype or "auto")
        return child

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "config": {**asdict(self.config), "losses": dict(self.config.losses)},
            "steps": len(self.history),
            "history": [dict(entry) for entry in self.history],
            "evaluations": [dict(entry) for entry in self.evaluations],
        }

    def table(self) -> str:
        """Returns loss and, where measured, quality at the start and at the end, as text."""
        lines = []
        if self.history:
            first, last = self.history[0], self.history[-1]
            lines.append(f"{last['step']:.0f} steps, {last['tokens']:.0f} tokens")
            for name in ("loss", *self.config.losses):
                lines.append(f"{name:<12}{first[name]:>10.4f} ->{last[name]:>10.4f}")
        if self.evaluations:
            first, last = self.evaluations[0], self.evaluations[-1]
            for name in ("kl", "perplexity"):
                lines.append(f"validation {name:<12}{first[name]:>10.4f} ->{last[name]:>10.4f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"DistillResult({self.path}, {len(self.history)} steps)"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"
