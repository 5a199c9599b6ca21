"""Where a parent's tensors come from: safetensors shards, or a model already in memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from puzzle.errors import ParentError
from puzzle.models.unsuitable import refuse_pointer, what_else
from puzzle.models.watched_files import WatchedFiles
from puzzle.storage.json_files import read_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PIECE = 2**24  # bytes that are read together, a multiple of every number's size
_FLOATS = {"F64": torch.float64, "F32": torch.float32}
_FLOATS |= {"F16": torch.float16, "BF16": torch.bfloat16}
# What safetensors calls the formats that a child can be stored in.
FORMATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor in a file, as its header has it.

    Args:
        file: The shard, relative to the directory.
        name: Its name in there.
        shape: Its shape.
        kind: Its number format, in the words of safetensors.
    """

    file: str
    name: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Stacked:
    """A tensor that the files hold in pieces: those of each expert.

    Args:
        pieces: For each expert, the tensors whose rows follow each other.
    """

    pieces: tuple[tuple[Stored, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole."""
        rows = sum(piece.shape[0] for piece in self.pieces[0])
        return (len(self.pieces), rows, *self.pieces[0][0].shape[1:])

    @property
    def kind(self) -> str:
        """The number format of the pieces."""
        return self.pieces[0][0].kind


class Shards(Mapping[str, torch.Tensor]):
    """The tensors of a directory of safetensors shards, each read from disk when asked for.

    Files are chosen as transformers does: one file wins over the index of shards that were there
    before it.

    Args:
        directory: Holds `model.safetensors`, or the index and the shards it names.
        watched: The files, as they were when their content was hashed.

    Raises:
        ParentError: There are no safetensors, or a shard is missing, damaged or outside of the
            directory.
    """

    def __init__(self, directory: Path, watched: WatchedFiles | None = None) -> None:
        self.directory = directory
        self.shard_names = shard_names(directory)
        self.watched = watched or WatchedFiles.of(directory, self.shard_names)
        self.stored: dict[str, Stored | Stacked] = {}
        for file in self.shard_names:
            for name, tensor in self._headers(file).items():
                if name in self.stored:
                    other = self._one_file(name)
                    raise ParentError(
                        f"{directory} has the tensor {name!r} twice, in {other} and in {file}; "
                        "save the model into an empty directory"
                    )
                self.stored[name] = tensor
        self.watched.require_unchanged()

    def _one_file(self, name: str) -> str:
        stored = self.stored[name]
        return stored.file if isinstance(stored, Stored) else stored.pieces[0][0].file

    def _headers(self, file: str) -> dict[str, Stored]:
        headers = {}
        with self._open(file) as shard, _intact(self.directory / file):
            for name in shard.keys():  # noqa: SIM118 - it is no mapping
                piece = shard.get_slice(name)
                shape, kind = tuple(piece.get_shape()), str(piece.get_dtype())
                headers[name] = Stored(file=file, name=name, shape=shape, kind=kind)
        return headers

    def renamed(self, names: Mapping[str, str]) -> Shards:
        """Returns the same files, with their tensors under other names.

        Args:
            names: The name in the files by the name that is wanted; the others are left out.
        """
        other = object.__new__(Shards)
        other.directory, other.shard_names = self.directory, self.shard_names
        other.watched = self.watched
        other.stored = {name: self.stored[stored] for name, stored in names.items()}
        return other

    def stacked(self, stacks: Mapping[str, Sequence[Sequence[str]]]) -> Shards:
        """Returns the same files, some tensors of which are pieces of others.

        Args:
            stacks: The names of the pieces by the name of the whole, as in `Stacked`.
        """
        other = self.renamed({name: name for name in self.stored})
        for name, rows in stacks.items():
            pieces = [[other.stored.pop(piece) for piece in row] for row in rows]
            own = tuple(tuple(p for p in row if isinstance(p, Stored)) for row in pieces)
            other.stored[name] = Stacked(own)
        return other

    def _open(self, file: str) -> Any:
        with _intact(self.directory / file):
            return safe_open(self.directory / file, framework="pt")

    def files(self) -> list[Path]:
        """Returns the shard files."""
        return [self.directory / name for name in self.shard_names]

    def number_format(self) -> str | None:
        """Returns the number format of most tensors, one of `FORMATS`, or None."""
        kinds = Counter(tensor.kind for tensor in self.stored.values())
        return FORMATS.get(kinds.most_common(1)[0][0]) if kinds else None

    def check(self) -> None:
        """Reads every file once, for its hash in `watched` and for values that are not finite.

        Raises:
            ParentError: A tensor holds NaN or infinity; it is named.
        """
        names: dict[str, dict[str, str]] = {file: {} for file in self.shard_names}
        for name, stored in self.stored.items():
            pieces = chain(*stored.pieces) if isinstance(stored, Stacked) else [stored]
            for piece in pieces:
                names[piece.file].setdefault(piece.name, name)
        for file, called in names.items():
            with _intact(self.directory / file):
                digest, bad = read_once(self.directory / file, called.keys())
            self.watched.hashes[file] = digest
            refuse_non_finite({called[name]: self[called[name]] for name in bad})

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self.stored[name]
        if isinstance(stored, Stacked):
            return torch.stack([torch.cat(list(map(self._read, row))) for row in stored.pieces])
        return self._read(stored)

    def _read(self, stored: Stored) -> torch.Tensor:
        with self._open(stored.file) as shard, _intact(self.directory / stored.file):
            tensor: torch.Tensor = shard.get_tensor(stored.name)
        # After reading: what was replaced before or meanwhile is seen either way.
        self.watched.require_unchanged(stored.file)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turns what reading a damaged file raises into an error that names the file."""
    try:
        yield
    except (ParentError, torch.OutOfMemoryError):
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        refuse_pointer(path)
        raise ParentError(
            f"{path} is damaged or cut short ({error}); download or save it again"
        ) from error


def shard_names(directory: Path) -> list[str]:
    """Returns the safetensors files of a model, relative to its directory.

    Raises:
        ParentError: There are none, the index is malformed, or it names files that are not there
            or not in the directory.
    """
    if (directory / SINGLE).is_file():
        return [SINGLE]
    if not (directory / INDEX).is_file():
        raise ParentError(f"{directory} holds neither {SINGLE} nor {INDEX}; {what_else(directory)}")
    index = read_object(directory / INDEX, "an index of safetensors shards", error=ParentError)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ParentError(
            f"{directory / INDEX} is not an index of safetensors shards: weight_map should be an "
            "object with the file of each tensor"
        )
    # Before sorting, which needs strings.
    for name in weight_map.values():
        refuse_outside(name, directory / INDEX)
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ParentError(f"{directory} lacks the shards {missing}; download them again")
    return names


def refuse_outside(name: object, source: Path) -> None:
    """Raises ParentError unless a shard's name is of a safetensors file inside its directory."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or "\0" in name:
        raise ParentError(f"{source} names the shard {name!r:.200}; allowed: *.safetensors files")
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    rooted = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if rooted or ".." in parts:
        raise ParentError(
            f"{source} names the shard {name!r:.200}, which is not inside the model's directory; "
            "nothing outside is opened"
        )


def read_once(path: Path, names: Collection[str]) -> tuple[str, list[str]]:
    """Returns the hash of a safetensors file and which tensors are not all finite, in one pass.

    Args:
        path: The file.
        names: The tensors to look at.

    Returns:
        What `hash_file` gives, and the names of tensors with NaN or infinity.
    """
    digest, bad = hashlib.blake2b(digest_size=16), []
    buffer = bytearray(PIECE)
    with open(path, "rb", buffering=0) as file:
        start = file.read(8)
        header = file.read(int.from_bytes(start, "little"))
        digest.update(start + header)
        entries = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            dtype = _FLOATS.get(entry["dtype"]) if name in names else None
            begin, end = entry["data_offsets"]
            finite = True
            while begin < end:
                view = memoryview(buffer)[: min(PIECE, end - begin)]
                begin += _fill(file, view)
                digest.update(view)
                if dtype is not None:
                    # NaN comes through both; of the values themselves no copy is made.
                    ends = torch.frombuffer(view, dtype=dtype).aminmax()
                    finite = finite and bool(torch.isfinite(torch.stack(ends)).all())
            if not finite:
                bad.append(name)
        while rest := file.read(PIECE):
            digest.update(rest)
    return digest.hexdigest(), bad


def _fill(file: Any, view: memoryview) -> int:
    """Reads as many bytes as a buffer holds; fewer are an error."""
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise ValueError("it ends early")
        done += count
    return done


def refuse_non_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ParentError naming the first tensor that holds NaN or infinity.

    Tensors are read one at a time, so this costs one pass over the files and no memory.
    """
    for name in tensors:
        tensor = tensors[name]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = math.prod(tensor.shape) - int(torch.isfinite(tensor).sum())
            raise ParentError(
                f"the parent's tensor {name!r} holds {bad} NaN or infinite values; "
                "repair or download the checkpoint again"
            )
