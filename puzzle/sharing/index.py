"""The index of a shared library: its parent, its blocks, and the files of its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from puzzle.errors import DataError
from puzzle.storage.json_files import interpreting
from puzzle.storage.json_values import as_count, as_list, as_object, as_text
from search_space import SearchSpace

__all__ = ["FILES", "FORMAT", "INDEX", "Index", "ParentRecord", "VariantFile"]

FORMAT, INDEX, SCORES = 1, "puzzle_library.json", "scores.json"
# All that the directory of a shared library consists of.
FILES = (INDEX, SCORES, "layers", "profiles", "README.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRecord:
    """The parent of a shared library.

    Args:
        name: Its hub id or the name of its directory.
        weights: Content hash of its config and weights.
        dtype: Number format in which the variants were fitted.
    """

    name: str
    weights: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantFile:
    """The file of one variant of one layer.

    Args:
        file: Its name in the library.
        size: Its bytes.
        hash: Its content hash.
    """

    file: str
    size: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What a shared library holds.

    Args:
        parent: The parent.
        space: The blocks of each layer.
        variants: The file of each variant, by name, of each layer.
        scores: The file of the scores.
        profiles: The files of the profiles, by name.
        made: How the variants were fitted and scored: settings, text, versions.
    """

    parent: ParentRecord
    space: SearchSpace
    variants: Sequence[Mapping[str, VariantFile]]
    scores: VariantFile
    profiles: Mapping[str, VariantFile]
    made: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "format": FORMAT,
            "parent": asdict(self.parent),
            "space": self.space.to_dict(),
            "variants": [
                {name: asdict(each) for name, each in layer.items()} for layer in self.variants
            ],
            "scores": asdict(self.scores),
            "profiles": {name: asdict(each) for name, each in self.profiles.items()},
            "made": dict(self.made),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Index:
        """Returns the index that `to_dict` wrote.

        Raises:
            DataError: It is of another format, or a value is missing or of another kind.
        """
        with interpreting("the values", "the index of a shared library"):
            if values["format"] != FORMAT:
                raise DataError(
                    f"format {values['format']!r}; this version of puzzle reads format {FORMAT}"
                )
            space = SearchSpace.from_dict(as_object(values["space"], "space"))
            parent = as_object(values["parent"], "parent")
            layers = as_list(values["variants"], "variants")
            if len(layers) != space.shape.layers:
                raise DataError(f"variants of {len(layers)} layers for {space.shape.layers}")
            return cls(
                parent=ParentRecord(
                    **{key: as_text(parent[key], key) for key in ("name", "weights", "dtype")}
                ),
                space=space,
                variants=tuple(_files(layer, "a layer") for layer in layers),
                scores=_file(values["scores"]),
                profiles=_files(values["profiles"], "profiles"),
                made=as_object(values["made"], "made"),
            )


def _files(values: Any, what: str) -> dict[str, VariantFile]:
    return {name: _file(each) for name, each in as_object(values, what).items()}


def _file(values: Any) -> VariantFile:
    entry = as_object(values, "a file")
    name = as_text(entry["file"], "file")
    path = PurePosixPath(name)
    # It comes from somebody else, and may not lead out of the library.
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise DataError(f"the file {name!r} is outside the library")
    return VariantFile(
        file=name, size=as_count(entry["size"], "size"), hash=as_text(entry["hash"], "hash")
    )
