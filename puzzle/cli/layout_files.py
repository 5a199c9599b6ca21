"""Layouts as the command line names them: published ones, and what puzzle wrote."""

from __future__ import annotations

from puzzle.errors import DataError
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.paths import user_path
from search_space import Block, Layout, ModelShape

_WHAT = "a layout, or the solution of a program"


def read_layout(name: str, shape: ModelShape | None = None) -> Layout:
    """Returns the layout that a word of the command line stands for.

    Args:
        name: A published layout; the directory of a saved child; a JSON file that `Layout.save` or
            `puzzle solve --save` or a search wrote.
        shape: The parent's, for a solution that does not say it.

    Raises:
        DataError: The file holds none, or not whose it is.
        ValueError: There is no such published layout.
    """
    path = user_path(name)
    if (path / "config.json").is_file():
        with interpreting(path / "config.json", "a model's config"):
            return Layout.from_config(read_object(path / "config.json", "a model's config"))
    if not path.is_file():
        return Layout.published(name)
    values = read_object(path, _WHAT)
    with interpreting(path, _WHAT):
        if "layout" in values:
            return Layout.from_dict(values["layout"])
        if "labels" not in values:
            return Layout.from_dict(values)
        if shape is None:
            raise DataError(
                f"{path} is a solution that does not say of which parent; solve with --profile"
            )
        return Layout(shape, tuple(map(Block.from_label, values["labels"])))
