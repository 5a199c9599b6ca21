"""What a search leaves behind, as values that are the same whenever it ran."""

import json
from pathlib import Path

from puzzle.storage.hashing import hash_file
from puzzle.storage.publishing import FILES, written_files
from puzzle.storage.temporary_places import PREFIX

# When something was made, how long it took, and hashes of these.
TIMES = ("created", "seconds", "checksum", "date")


def contents(place: Path) -> dict[str, object]:
    """Returns all files and directories but locks, by name: bytes, or JSON without times."""
    left: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_dir() or "locks" in path.parts:
            left[name if path.is_dir() else "locks"] = None
        elif path.suffix == ".json":
            left[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix == ".md":
            left[name] = path.read_text().rpartition("; ")[0]  # the last word is the date
        else:
            left[name] = path.read_bytes()
        if path.name == FILES:
            left[name] = sorted(_sound(path.parent))
    return left


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in TIMES}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _sound(directory: Path) -> list[str]:
    hashes = written_files(directory)
    return [name for name, each in hashes.items() if each == (hash_file(directory / name),)]


def without_places(left: dict[str, object]) -> dict[str, object]:
    """Returns contents without temporary places, which the next run deletes."""
    return {name: each for name, each in left.items() if PREFIX not in name}


def difference(left: dict[str, object], right: dict[str, object]) -> list[str]:
    """Returns the names of what is not the same."""
    names = {*left, *right}
    return sorted(n for n in names if left.get(n, ...) != right.get(n, ...))


def finished(place: Path) -> dict[str, tuple[int, int]]:
    """Returns when the manifest of each artifact was written, and where on the disk it is.

    Streams between layers are left out: they are deleted when nothing needs them.
    """
    return {
        str(path.relative_to(place)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in (place / "run").glob("*/*/manifest.json")
        if not path.parents[1].name.endswith("boundary")
    }
