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
from puzzle.models.pretrained import load_model, load_tokenizer
from puzzle.plotting.html_table import html_table


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

    @property
    def saved(self) -> Path:
        """The directory of the child, as `path`."""
        return self.path

    @property
    def tokenizer(self) -> Any:
        """The child's tokenizer; None if it has none."""
        has = (self.path / "tokenizer_config.json").is_file()
        return load_tokenizer(self.path) if has else None

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
        lines = [f"{name:<22}{first:>10} ->{last:>10}" for name, first, last in self.rows()]
        return "\n".join([self._work(), *lines] if self.history else lines)

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns the rows of the table: name, at the start, at the end."""
        rows = []
        if self.history:
            first, last = self.history[0], self.history[-1]
            for name in ("loss", *self.config.losses):
                rows.append((name, f"{first[name]:.4f}", f"{last[name]:.4f}"))
        if self.evaluations:
            first, last = self.evaluations[0], self.evaluations[-1]
            for name in ("kl", "perplexity"):
                rows.append((f"validation {name}", f"{first[name]:.4f}", f"{last[name]:.4f}"))
        return rows

    def _work(self) -> str:
        last = self.history[-1]
        return f"{last['step']:.0f} steps, {last['tokens']:.0f} tokens"

    def __repr__(self) -> str:
        return f"DistillResult({self.path}, {len(self.history)} steps)"

    def _repr_html_(self) -> str:
        work = html.escape(f"{self._work()}, in {self.path}" if self.history else str(self.path))
        return f"<p>{work}</p>{html_table(('', 'start', 'end'), self.rows())}"
