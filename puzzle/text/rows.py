"""Rows of training data in an order that can be taken up again at any row.

Rows that are trained on go on for ever, epoch after epoch. A state is JSON and says where the next
row is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from puzzle.errors import DataError
from puzzle.storage.hashing import content_hash, hash_file, hash_tensors
from puzzle.text.cells import hash_rows, new_digest, parse_row, update_digest
from puzzle.text.containers import ArrowRows, indexable, named_file, reading, rows_of

# Rows that stand for the whole of a stream in the name of a run; the rest is checked on resuming.
SAMPLE = 8


class TextRows(Protocol):
    """An endless source of rows.

    Attributes:
        shuffled: Whether rows come in a random order already.
        identity: Content hash of the rows; of a stream that is no file, of the first of them.
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


class SourceFile:
    """A file whose rows are streamed, named by its content.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = self._stat()
        try:
            self.identity = content_hash({"file": hash_file(self.path), "kind": self.path.suffix})
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror or error})") from error
        self.check()

    def _stat(self) -> tuple[int, int, int]:
        try:
            stat = os.stat(self.path)
        except OSError as error:
            raise DataError(f"{self.path} is gone ({error.strerror or error})") from error
        return stat.st_size, stat.st_mtime_ns, stat.st_ino

    def check(self) -> None:
        """Raises DataError if the file has been written to since its content was hashed."""
        if self._stat() != self._state:
            raise DataError(
                f"{self.path} was changed while it was read; leave it as it is until the run ends, "
                "and call again"
            )


class StreamedRows:
    """Rows of a streamed data set, in its order, of which every row that was read is accounted for.

    A state holds a hash of the rows that were read. The rows of a file are named by its content,
    so that resuming goes straight to the next one; those of any other data set are read again
    from the first one on, and compared.

    Args:
        dataset: A `datasets.IterableDataset`. One that is shuffled has to give the same order in
            every process: give the shuffle a seed.
        file: The file that it reads, if it reads one.
    """

    shuffled = False

    def __init__(self, dataset: Any, file: SourceFile | None = None) -> None:
        self.dataset, self.file, self.epoch, self.number = dataset, file, 0, -1
        self._before: str | None = None
        self._start(None)
        sample = new_digest()
        count = 0
        for row in islice(self._iterator, SAMPLE):
            update_digest(sample, row)
            count += 1
        if not count:
            raise DataError(f"{file.path if file else 'the streamed data set'} has no rows")
        self.identity = file.identity if file else content_hash({"sample": sample.hexdigest()})
        self._start(None)

    def _start(self, state: Mapping[str, Any] | None) -> None:
        if self.file is not None:
            self.file.check()
        self.dataset.set_epoch(self.epoch)
        # None takes back a state that was loaded before.
        self.dataset.load_state_dict(None if state is None else dict(state))
        self._digest = new_digest()
        self._iterator = reading(self.dataset, self.file and self.file.path)
        # The data set's own state is only up to date once a row was read.
        self._state = state

    def next(self) -> Any:
        """Returns the next row."""
        for _ in range(2):
            for row in self._iterator:
                self._state = self.dataset.state_dict() if self.file is not None else None
                self.number += 1
                update_digest(self._digest, row)
                return row
            self._before = self._digest.hexdigest()
            self.epoch, self.number = self.epoch + 1, -1
            self._start(None)
        raise DataError("the streamed data set has no rows")

    def state(self) -> dict[str, Any]:
        """Returns epoch, number, hashes of what was read, and where a file's reader is.

        Raises:
            DataError: The file was changed while it was read.
        """
        if self.file is not None:
            self.file.check()
            return {"epoch": self.epoch, "number": self.number, "dataset": self._state}
        read = {"before": self._before, "now": self._digest.hexdigest()}
        return {"epoch": self.epoch, "number": self.number, "read": read}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to where a state says.

        Raises:
            DataError: The rows up to there are not those that were read.
        """
        if self.file is not None:
            self.epoch, self.number = state["epoch"], state["number"]
            self._start(state["dataset"])
            return
        self._before, now = state["read"]["before"], state["read"]["now"]
        if state["epoch"]:
            self._read_again(state["epoch"] - 1, None, self._before)
        self._read_again(state["epoch"], state["number"] + 1, now)

    def _read_again(self, epoch: int, count: int | None, expected: str | None) -> None:
        self.epoch, self.number = epoch, -1
        self._start(None)
        for row in islice(self._iterator, count):
            self.number += 1
            update_digest(self._digest, row)
        if self._digest.hexdigest() != expected:
            raise DataError(
                f"the streamed data set does not give the rows that epoch {epoch} was trained on "
                f"(row {self.number} and those before it were compared); give the same data, "
                "shuffled by a fixed seed if at all, or choose another run directory"
            )


class PassingRows:
    """Rows of an iterator, each once; there is no way back.

    Args:
        rows: The iterator.
    """

    shuffled, identity, epoch = False, "", 0

    def __init__(self, rows: Iterator[Any]) -> None:
        self.rows, self.number = rows, -1

    def next(self) -> Any:
        """Returns the next row."""
        for row in self.rows:
            self.number += 1
            return row
        raise DataError(
            f"the data ends after {self.number + 1} rows, before there are enough tokens; give "
            "more, or want fewer windows"
        )

    def state(self) -> dict[str, Any]:
        """Raises DataError, as an iterator cannot be taken up again."""
        raise DataError("an iterator cannot be resumed")

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises DataError, as an iterator cannot be taken up again."""
        raise DataError("an iterator cannot be resumed")


def open_rows(data: Any, seed: int, *, resumable: bool = True) -> TextRows:
    """Returns the rows of what a user calls data, and names them by their content.

    Rows that can be indexed are all checked. Of a stream, no more than a few are read.

    Args:
        data: What `puzzle.text.containers.rows_of` accepts.
        seed: Seed of the order.
        resumable: Whether an iterator, which can be read only once, is refused.

    Raises:
        DataError: It is none of these, it holds nothing, or a row is unusable.
    """
    rows, path = rows_of(data), named_file(data)
    if isinstance(rows, ArrowRows):
        null = rows.first_null()
        if null is not None:
            parse_row(rows[null], null)
        identity = rows.fingerprint
    elif isinstance(rows, torch.Tensor):
        identity = hash_tensors({"windows": rows})
    elif isinstance(rows, Iterator):
        if resumable:
            raise DataError(
                f"data is a {type(rows).__name__}. A generator cannot be resumed: wrap it with "
                "datasets.IterableDataset.from_generator"
            )
        return PassingRows(rows)
    elif not indexable(rows):
        return StreamedRows(rows, SourceFile(path) if path else None)
    else:
        identity = hash_rows(rows)
    if not len(rows):
        raise DataError(f"{path or 'the data'} has no rows")
    return IndexedRows(rows, identity, seed)
