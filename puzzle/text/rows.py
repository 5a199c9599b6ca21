"""Rows of training data in an order that can be resumed at any row.

Both sources go on for ever, epoch after epoch. A state is JSON and says where the next row is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from puzzle.errors import DataError
from puzzle.storage.hashing import content_hash, hash_tensors

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text"}
# Rows that stand for a whole stream in the name of a run.
SAMPLE = 8


class TextRows(Protocol):
    """An endless source of rows.

    Attributes:
        shuffled: Whether rows come in a random order already.
        identity: Content hash of the rows, or of the first of them.
        epoch: How many times all rows have been read.
        number: The last row's number among the rows.
    """

    shuffled: bool
    identity: str
    epoch: int
    number: int

    def next(self) -> Any:
        """Returns the next row."""
        ...

    def state(self) -> dict[str, Any]:
        """Returns where the next row is."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Returns to the position of a state."""
        ...


class IndexedRows:
    """Rows that can be read in any order: a permutation per epoch.

    Args:
        rows: A sequence, a `datasets.Dataset`, or token windows as a matrix.
        identity: Content hash of the rows.
        seed: Seed of the permutations.
    """

    shuffled = True

    def __init__(self, rows: Any, identity: str, seed: int) -> None:
        self.rows, self.identity, self.seed = rows, identity, seed
        self.epoch = self.position = self.number = 0
        self._order = self._permutation()

    def _permutation(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(len(self.rows), generator=generator)

    def next(self) -> Any:
        """Returns the next row."""
        if self.position == len(self.rows):
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._permutation()
        self.number = int(self._order[self.position])
        self.position += 1
        return self.rows[self.number]

    def state(self) -> dict[str, Any]:
        """Returns epoch and position."""
        return {"epoch": self.epoch, "position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Returns to the position of a state."""
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._permutation()


class StreamedRows:
    """Rows of a streamed dataset, in its order.

    Args:
        dataset: A `datasets.IterableDataset`. One that is shuffled already loses its shuffle
            buffer on resuming; give it unshuffled, since rows are shuffled later.
    """

    shuffled = False

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.epoch, self.number = dataset, 0, -1
        self._start(None)
        sample = [_plain(row) for row in islice(self._iterator, SAMPLE)]
        if not sample:
            raise DataError("the streamed dataset has no rows")
        self.identity = content_hash({"sample": sample})
        self._start(None)

    def _start(self, state: Mapping[str, Any] | None) -> None:
        self.dataset.set_epoch(self.epoch)
        # None undoes a state that was loaded before.
        self.dataset.load_state_dict(None if state is None else dict(state))
        self._iterator = iter(self.dataset)
        # The dataset's own state is only up to date once a row has been read.
        self._state = state

    def next(self) -> Any:
        """Returns the next row."""
        for _ in range(2):
            for row in self._iterator:
                self._state = self.dataset.state_dict()
                self.number += 1
                return row
            self.epoch, self.number = self.epoch + 1, -1
            self._start(None)
        raise DataError("the streamed dataset has no rows")

    def state(self) -> dict[str, Any]:
        """Returns epoch, number and the dataset's own state."""
        return {"epoch": self.epoch, "number": self.number, "dataset": self._state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Returns to the position of a state."""
        self.epoch, self.number = state["epoch"], state["number"]
        self._start(state["dataset"])


def open_rows(data: Any, seed: int) -> TextRows:
    """Returns the rows of the data that a user gives.

    Args:
        data: A string (split at blank lines), a sequence of strings or of rows with `text` or
            `messages`, a `datasets` dataset, streamed or not, a matrix of token ids, or the
            `pathlib.Path` of a .jsonl, .json, .parquet or .txt file, which is streamed.
        seed: Seed of the order.

    Raises:
        DataError: It is none of these, or it is empty.
    """
    import datasets

    if isinstance(data, Path):
        data = _file(data)
    if isinstance(data, datasets.IterableDataset):
        return StreamedRows(data)
    if isinstance(data, datasets.Dataset):
        identity = str(data._fingerprint)
    elif isinstance(data, torch.Tensor):
        if data.dim() != 2 or data.is_floating_point():
            raise DataError(f"data is a tensor of shape {tuple(data.shape)}; give token windows")
        identity = hash_tensors({"windows": data})
    elif isinstance(data, str):
        data = [part for part in data.split("\n\n") if part.strip()]
        identity = content_hash(data)
    elif isinstance(data, Sequence):
        identity = content_hash([_plain(row) for row in data])
    else:
        raise DataError(
            f"data is a {type(data).__name__}; give a string, a list, a datasets dataset, token "
            "windows or a pathlib.Path. A generator cannot be resumed: wrap it with "
            "datasets.IterableDataset.from_generator"
        )
    if not len(data):
        raise DataError("the data has no rows")
    return IndexedRows(data, identity, seed)


def _file(path: Path) -> Any:
    import datasets

    if path.suffix not in FORMATS or not path.is_file():
        raise DataError(f"{path} is not a file of the kinds {sorted(FORMATS)}")
    kind = FORMATS[path.suffix]
    more = {"sample_by": "paragraph"} if kind == "text" else {}
    return datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True, **more)


def _plain(row: Any) -> Any:
    if isinstance(row, Mapping):
        return {str(k): repr(v) for k, v in row.items()}
    return row if isinstance(row, str) else repr(row)
