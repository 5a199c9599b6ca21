"""PostTrainResult: where a stage of post-training saved its model, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puzzle.models.pretrained import load_model, load_tokenizer
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.json_values import as_list, as_object, as_text

RECORD = "posttraining.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostTrainResult:
    """The outcome of a stage; it is taken wherever a child is.

    Args:
        stage: "sft", "rl" or "align".
        path: The model's directory, in Hugging Face format, with its tokenizer.
        figures: What the stage counted and measured.
        history: What the trainer logged.
    """

    stage: str
    path: Path
    figures: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]

    @property
    def saved(self) -> Path:
        """The directory of the model, as `path`."""
        return self.path

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(self.path)

    def child(self, dtype: torch.dtype | None = None) -> Any:
        """Returns the model, read from its directory; by default as it is stored."""
        return load_model(self.path, dtype=dtype or "auto")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "stage": self.stage,
            "path": str(self.path),
            "figures": dict(self.figures),
            "history": [dict(entry) for entry in self.history],
        }

    def rows(self) -> list[tuple[str, str]]:
        """Returns the rows of the table: figures, and what the trainer logged last."""
        last: dict[str, Any] = {}
        for entry in self.history:
            last.update(entry)
        shown = {**self.figures, **{name: last[name] for name in _LOGGED if name in last}}
        return [(name, _written(value)) for name, value in shown.items()]

    def table(self) -> str:
        """Returns the rows as text."""
        return "\n".join(f"{name:<28}{value}" for name, value in self.rows())

    def __repr__(self) -> str:
        return f"PostTrainResult({self.stage}, {self.path})"


_LOGGED = ("step", "loss", "train_loss", "reward", "entropy", "completions/mean_length", "kl")


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_result(path: Path, key: str) -> PostTrainResult | None:
    """Returns the result in a model's directory, None if it is of another run.

    Args:
        path: The directory.
        key: What the run is known by.

    Raises:
        DataError: The record cannot be read.
    """
    file = path / RECORD
    if not file.is_file():
        return None
    what = "the record of a stage of post-training"
    with interpreting(file, what):
        values = read_object(file, what)
        if values["key"] != key:
            return None
        return PostTrainResult(
            stage=as_text(values["stage"], "the stage"),
            path=path,
            figures=as_object(values["figures"], "the figures"),
            history=as_list(values["history"], "the history"),
        )
