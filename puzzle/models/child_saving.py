"""What happens when a child's owner saves it with transformers: after training, or in place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# The record of what puzzle wrote into a directory; see `puzzle.storage.publishing`.
WRITTEN_FILES = "puzzle_files.json"


class ChildSaving:
    """Lets a child be saved over what puzzle wrote, and names it by where it was saved."""

    config: Any
    name_or_path: str

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Saves the model as transformers does.

        Files of the directory that puzzle wrote and this call overwrites become the caller's: their
        hashes are dropped from `puzzle_files.json`, and puzzle will not replace them. A model
        without a name gets that of the directory, from which trainers load the reference model.

        Args:
            save_directory: Where to save.
            is_main_process: Whether this process writes the shared files.
            *args: As for `PreTrainedModel.save_pretrained`.
            **kwargs: As for `PreTrainedModel.save_pretrained`.
        """
        place = Path(save_directory)
        before = _states(place, _recorded(place))
        super().save_pretrained(  # type: ignore[misc]
            save_directory, is_main_process, *args, **kwargs
        )
        if is_main_process and before:
            _forget_changed(place, before)
        if not self.name_or_path:
            self.name_or_path = self.config._name_or_path = str(place.absolute())


def _recorded(place: Path) -> dict[str, Any]:
    """Returns the record's entries; of one that cannot be read, none, and readers will say so."""
    try:
        files = json.loads((place / WRITTEN_FILES).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return files if isinstance(files, dict) else {}


def _states(place: Path, names: Any) -> dict[str, tuple[int, ...] | None]:
    """Returns what tells whether each file was written again; None for one that is not there."""
    states: dict[str, tuple[int, ...] | None] = {}
    for name in names:
        try:
            state = os.stat(place / name)
        except (OSError, ValueError):
            states[name] = None
        else:
            states[name] = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return states


def _forget_changed(place: Path, before: dict[str, tuple[int, ...] | None]) -> None:
    after = _states(place, before)
    text = (place / WRITTEN_FILES).read_text(encoding="utf-8")
    record = json.loads(text)
    record["files"] = {
        name: hashes
        for name, hashes in record["files"].items()
        if name not in before or before[name] == after[name]
    }
    fresh = place / f".{WRITTEN_FILES}-{os.getpid()}"
    fresh.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(place / WRITTEN_FILES)
