"""The one door for text: what a user gives as data, as rows that can be indexed or read in turn."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import DataError
from puzzle.storage.paths import user_path
from puzzle.text.cells import COLUMNS, FIELDS, MODE_FIELDS
from puzzle.text.given_text import FORMATS, check_source, refuse_paths
from puzzle.text.paragraphs import read_documents, split_documents
from puzzle.text.turns import without_fill

# A reader of files may raise any of these at a file that is damaged or of another kind.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError)
_ALLOWED = (
    "give a string, a list of strings, a data set, a DataFrame or rows with a 'text' or a "
    "'messages' column, or the pathlib.Path of a file"
)


class ColumnRows(Sequence[dict[str, Any]]):
    """The rows of columns of equal length.

    Args:
        columns: The columns by name; only those that are read are kept.
    """

    def __init__(self, columns: Mapping[Any, Any]) -> None:
        read = [name for name in (*FIELDS, *MODE_FIELDS) if name in columns]
        self._columns = {name: _cells(name, columns[name]) for name in read}
        sizes = {name: len(cells) for name, cells in self._columns.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"the columns differ in length: {sizes}; give one cell per row")
        self._size = next(iter(sizes.values()))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, number: Any) -> Any:
        return {name: cells[number] for name, cells in self._columns.items()}


class ArrowRows(Sequence[Any]):
    """The rows of a `datasets.Dataset`, without what Arrow fills in.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.fingerprint = str(dataset._fingerprint)
        custom = dataset.format["type"] == "custom"
        # A transform of the user's gives rows; a format gives tensors and the like.
        self.dataset = dataset if custom else dataset.with_format(None)
        self.columns = [] if custom else [n for n in COLUMNS if n in dataset.column_names]
        if not custom:
            _require_columns(dataset.column_names, "the data set")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: Any) -> Any:
        return without_fill(self.dataset[number])

    def first_null(self) -> int | None:
        """Returns the number of the first row without text, read from the table's null bits."""
        if not self.columns:
            return None
        tables = [self.dataset.data.column(name) for name in self.columns]
        if any(table.null_count == 0 for table in tables):
            return None
        nulls = tables[0].is_null().to_numpy()
        for table in tables[1:]:
            nulls = nulls & table.is_null().to_numpy()
        if self.dataset._indices is not None:
            nulls = nulls[self.dataset._indices.column(0).to_numpy()]
        places = nulls.nonzero()[0]
        return int(places[0]) if len(places) else None


def rows_of(data: Any) -> Any:
    """Returns the rows of what a user calls text or data.

    Args:
        data: A string (blank lines separate documents), strings, rows with `text` or `messages`,
            a `datasets` data set, streamed or not, or a dictionary with one of them, a dictionary
            of columns, a pandas DataFrame or Series, a matrix of token ids, the `pathlib.Path` of
            a .jsonl, .json or .parquet file or of one of plain text, or an iterator over rows.

    Returns:
        Rows by number, a `datasets.IterableDataset`, or an iterator; nothing has been read of
        the last two.

    Raises:
        DataError: It is none of these, or its meaning is not plain; the message gives the choice.
    """
    check_source(data)
    if isinstance(data, str):
        return split_documents(data)
    if isinstance(data, os.PathLike):
        return _file(Path(data))
    if isinstance(data, torch.Tensor):
        if data.dim() != 2 or data.is_floating_point() or data.dtype == torch.bool:
            raise DataError(f"data is a tensor of shape {tuple(data.shape)}; give token windows")
        return data
    if _is(data, "datasets", "Dataset"):
        return ArrowRows(data)
    if _is(data, "datasets", "IterableDataset"):
        if data.column_names is not None:
            _require_columns(data.column_names, "the streamed data set")
        return data
    if isinstance(data, Mapping):
        return _of_mapping(data)
    return _of_other(data)


def indexable(rows: Any) -> bool:
    """Whether what `rows_of` returned can be read by number."""
    return isinstance(rows, Sequence | torch.Tensor)


def reading(rows: Any, file: Any = None) -> Iterator[Any]:
    """Yields rows, without what Arrow fills in.

    Args:
        rows: What `rows_of` returned.
        file: The file that they are streamed from, if any.

    Raises:
        DataError: The file cannot be read.
    """
    iterator, number = iter(rows), -1
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except DataError:
            raise
        except _UNREADABLE as error:
            if file is None:
                raise
            raise DataError(f"{file} cannot be read after row {number}: {error}") from error
        number += 1
        yield without_fill(row)


@contextmanager
def naming_file(file: Path | None) -> Iterator[None]:
    """Puts the name of the file that is read, if there is one, before a DataError without it."""
    try:
        yield
    except DataError as error:
        if file is None or str(file) in str(error):
            raise
        raise DataError(f"{file}: {error}") from error


def named_file(data: Any) -> Path | None:
    """Returns the file that is read if this is given as data."""
    return user_path(data).absolute() if isinstance(data, os.PathLike) else None


def _of_other(data: Any) -> Any:
    if _is(data, "pandas", "DataFrame"):
        _require_columns([str(name) for name in data.columns], "the DataFrame")
        return ColumnRows(data)
    if _is(data, "pandas", "Series") or (_is(data, "numpy", "ndarray") and data.ndim == 1):
        return list(data.tolist())
    if isinstance(data, Sequence) and not isinstance(data, bytes | bytearray | memoryview | range):
        paths = [row for row in data[:8] if isinstance(row, str)]
        if paths and len(paths) == len(data[:8]):
            refuse_paths(paths)
        return data
    if isinstance(data, io.IOBase):
        raise DataError("data is an open file, whose lines are no documents; give its pathlib.Path")
    unordered = isinstance(data, set | frozenset)
    if unordered or not isinstance(data, Iterable) or isinstance(data, Sequence):
        more = ", which has no order" if unordered else ""
        raise DataError(f"data is a {type(data).__name__}{more}; {_ALLOWED}")
    return data if isinstance(data, Iterator) else iter(data)


def _is(data: Any, package: str, name: str) -> bool:
    """Whether a value is of a class of a package that need not be imported."""
    return any(
        kind.__name__ == name and kind.__module__.split(".")[0] == package
        for kind in type(data).__mro__
    )


def _of_mapping(data: Mapping[Any, Any]) -> Any:
    kind, names = type(data).__name__, [str(name)[:40] for name in data]
    if any(_is(v, "datasets", n) for v in data.values() for n in ("Dataset", "IterableDataset")):
        if len(data) == 1:
            return rows_of(next(iter(data.values())))
        raise DataError(
            f"data is a {kind} with the splits {names}; give one of them, as data[{names[0]!r}]"
        )
    if not any(name in data for name in COLUMNS):
        raise DataError(
            f"data is a {kind} with the keys {names[:12]}; give one that has a 'text' or a "
            "'messages' column, or a list"
        )
    for name in COLUMNS:
        cells = data.get(name)
        if isinstance(cells, str) or (
            name == "messages"
            and isinstance(cells, Sequence)
            and any(isinstance(cell, Mapping) for cell in cells)
        ):
            raise DataError(f"data is a {kind} that is one row; give a list of rows: [row]")
    return ColumnRows(data)


def _cells(name: str, cells: Any) -> Sequence[Any]:
    if hasattr(cells, "tolist"):
        cells = cells.tolist()
    if not isinstance(cells, Sequence) or isinstance(cells, str | bytes):
        raise DataError(f"column {name!r} is a {type(cells).__name__}; give a list of cells")
    return cells


def _require_columns(names: Sequence[str], what: str) -> None:
    if not any(name in names for name in COLUMNS):
        raise DataError(
            f"{what} has the columns {list(names)[:12]}; it needs a 'text' or a 'messages' column: "
            "rename the one that holds the text"
        )


def _file(path: Path) -> Any:
    import datasets

    path = user_path(path).absolute()
    kind = FORMATS.get(path.suffix.lower(), "text")
    name = str(path)
    if kind == "text":
        return datasets.IterableDataset.from_generator(_text_rows, gen_kwargs={"path": name})
    try:
        return datasets.load_dataset(kind, data_files=name, split="train", streaming=True)
    except StopIteration as error:  # datasets looks at the first row
        raise DataError(f"{path} has no rows") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as {kind} ({error})") from error


def _text_rows(path: str) -> Iterator[dict[str, str]]:
    for document in read_documents(path):
        yield {"text": document}
