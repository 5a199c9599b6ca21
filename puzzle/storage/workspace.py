"""A directory of content-addressed artifacts that survives kills, full disks and damage."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle.errors import DamagedArtifactError, WorkspaceError
from puzzle.storage.disk import disk_errors, fsync, matching, naming
from puzzle.storage.file_lists import list_files
from puzzle.storage.hashing import canonical, content_hash, hash_file
from puzzle.storage.locks import locked
from puzzle.storage.paths import local_directory
from puzzle.storage.publishing import (
    own_directory,
    publish,
    publish_text,
    publish_unless_there,
)
from puzzle.storage.scratch import scratch_place
from puzzle.storage.temporary_places import clean_places, temporary_place
from puzzle.storage.versions import versions

if TYPE_CHECKING:  # torch takes seconds to import, and most uses of a workspace need none of it
    from torch import Tensor

__all__ = ["Artifact", "ArtifactRef", "Workspace"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
# For a whole run directory: artifacts of an older format would never be read.
RUN_FORMAT, RUN_FILE = 2, "run.json"
MANIFEST = "manifest.json"
# What reading a manifest raises that somebody altered.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
Builder = Callable[[Path], Mapping[str, Any] | None]
Hashes = Mapping[str, str] | None


def _write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps({**manifest, "checksum": content_hash(manifest)}, indent=1, sort_keys=True)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """The name of an artifact in its workspace: a value that stages hold and jobs carry.

    Args:
        kind: What the artifact is.
        key: The hash of what it was made from.
    """

    kind: str
    key: str


class Artifact:
    """A directory of files named by the hash of what they were made from.

    Args:
        root: The workspace's directory.
        kind: What the artifact is.
        spec: What it is made from.

    Example:
        >>> Workspace("runs").artifact("scores", {"seed": 0}).exists()
        False
    """

    def __init__(self, root: Path, kind: str, spec: Mapping[str, Any]) -> None:
        self.root = root
        self.kind = kind
        self.spec: dict[str, Any] = canonical(spec)
        self.key = content_hash({"kind": kind, "spec": self.spec, "format": FORMAT_VERSION})
        self.path = root / kind / self.key
        self._verified: set[str] = set()

    @property
    def ref(self) -> ArtifactRef:
        """The artifact's name in its workspace."""
        return ArtifactRef(kind=self.kind, key=self.key)

    def discard(self) -> None:
        """Delete the artifact, manifest first, if it exists; of a link, only the link."""
        if os.path.lexists(self.path):
            discard_stored(self.root, self.ref)

    @property
    def manifest(self) -> dict[str, Any]:
        """The stored manifest; raises DamagedArtifactError when absent, unreadable or altered."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            checksum = manifest.pop("checksum")
            sound = checksum == content_hash(manifest) and manifest["key"] == self.key
        except _UNREADABLE as error:
            raise self._damaged(MANIFEST, f"cannot be read ({error})") from error
        if not sound:
            raise self._damaged(MANIFEST, "was altered")
        return manifest

    def _damaged(self, name: str, what: str) -> DamagedArtifactError:
        return DamagedArtifactError(
            f"{self.path / name} {what}; delete {self.path} or rebuild it with get_or_build."
        )

    def _check(self, name: str, entry: Mapping[str, Any], *, hashes: bool) -> None:
        path = self.path / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise self._damaged(name, "is missing")
        if size != entry["size"]:
            raise self._damaged(name, f"has {size} bytes instead of {entry['size']}")
        if hashes and name not in self._verified:
            if hash_file(path) != entry["hash"]:
                raise self._damaged(name, "was altered: its hash differs from the manifest")
            self._verified.add(name)

    def exists(self) -> bool:
        """Return whether the manifest is sound and every file has its recorded size."""
        try:
            for name, entry in self.manifest["files"].items():
                self._check(name, entry, hashes=False)
        except DamagedArtifactError:
            return False
        return True

    def sound(self, part: tuple[int, int] = (0, 1)) -> bool:
        """Return whether every file has its recorded hash; damage is logged, absence is not.

        Args:
            part: Of several processes that share the work, which one this is, and how many.
        """
        if not self.path.exists():
            return False
        try:
            self.verify(part)
        except DamagedArtifactError as error:
            logger.warning("damaged: %s", error)
            return False
        return True

    def verify(self, part: tuple[int, int] = (0, 1)) -> None:
        """Hash every file again; raises DamagedArtifactError that names the first damaged one.

        Args:
            part: As for `sound`.
        """
        self._verified.clear()
        for number, (name, entry) in enumerate(self.manifest["files"].items()):
            self._check(name, entry, hashes=number % part[1] == part[0])

    def write(self, builder: Builder, *, hashes: Hashes = None) -> Artifact:
        """Build the artifact unless it exists; a second writer waits and then reuses it.

        Args:
            builder: Writes files into the directory it is given; may return JSON-like metadata.
            hashes: Those of files that were hashed by who wrote them, by name; the builder may
                fill it.

        Returns:
            This artifact.

        Raises:
            WorkspaceError: The disk cannot be written, or the builder left a link or a manifest.

        Example:
            >>> artifact.write(lambda folder: save_tensors(folder / "w.safetensors", tensors))
        """
        with artifact_lock(self.root, self.ref):
            if not self.exists():
                self._build(builder, hashes=hashes)
        return self

    def _build(self, builder: Builder, *, replace: bool = False, hashes: Hashes = None) -> None:
        started = time.time()
        tmp = self.root / "tmp"
        with disk_errors(self.path, self.root), temporary_place(tmp) as place:
            fresh = place / "artifact"
            fresh.mkdir()
            metadata = canonical(builder(fresh) or {})
            manifest = {
                "kind": self.kind,
                "key": self.key,
                "spec": self.spec,
                "files": list_files(fresh, MANIFEST, hashes or {}),
                "metadata": metadata,
                "versions": versions(),
                "created": started,
                "seconds": time.time() - started,
            }
            _write_manifest(fresh, manifest)  # last: without it, nothing exists
            own_directory(self.path.parent)
            # Another machine may have been faster, and its readers read what is there.
            if replace or not (publish_unless_there(fresh, self.path) or self.exists()):
                publish(fresh, self.path, place)
        self._verified.clear()
        logger.info("built %s %s in %.1f s", self.kind, self.key, manifest["seconds"])

    def _open(self, name: str) -> Path:
        try:
            files = self.manifest["files"]
            if name not in files:
                raise WorkspaceError(
                    f"{self.path} has no file {name!r}; it has {', '.join(files) or 'no files'}."
                )
            self._check(name, files[name], hashes=True)
        except DamagedArtifactError as error:
            logger.warning("damaged: %s", error)
            raise
        return self.path / name

    def load_json(self, name: str) -> Any:
        """Read a JSON file; raises DamagedArtifactError when its hash is not the stored one."""
        path = self._open(name)
        with naming(path):
            return json.loads(path.read_text(encoding="utf-8"))

    def load_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file; raises DamagedArtifactError when its hash is wrong."""
        from safetensors.torch import load_file

        return load_file(self._open(name))

    def tensor_names(self, name: str) -> list[str]:
        """Returns the names in a safetensors file, from its header alone, which is not hashed."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path / name, framework="pt") as file:
                return list(file.keys())
        except (SafetensorError, OSError) as error:
            raise self._damaged(name, f"cannot be read ({error})") from error


class Workspace:
    """A writable directory of artifacts, checked on opening rather than after long work.

    Args:
        root: The directory; created when absent.

    Raises:
        WorkspaceError: The directory is a URL, or cannot be created or written.

    Example:
        >>> Workspace("runs").root.name
        'runs'
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = local_directory(root)
        try:
            for name in ("tmp", "locks"):
                own_directory(self.root / name)
            with temporary_place(self.root / "tmp") as place:
                (place / "probe").write_bytes(bytes(4096))
                fsync(place / "probe")
            if not any(matching(self.root, f"*/*/{MANIFEST}")):
                publish_text(self.root / RUN_FILE, json.dumps({"format": RUN_FORMAT}) + "\n")
        except OSError as error:
            raise WorkspaceError(
                f"Workspace {self.root} is not writable ({error}); it must be a directory on a "
                "writable disk with free space: free space there or pass another path."
            ) from error

    def artifact(self, kind: str, spec: Mapping[str, Any]) -> Artifact:
        """Name an artifact without touching the disk.

        Args:
            kind: Lower-case letters, digits, "_" and "-"; not "tmp" or "locks".
            spec: Everything that the content depends on, JSON-like.

        Returns:
            The artifact, which may or may not exist.

        Raises:
            WorkspaceError: The kind is not allowed.
            DataError: The spec is not JSON-like.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", kind) or kind in ("tmp", "locks"):
            raise WorkspaceError(
                f"Artifact kind {kind!r} is not allowed: use lower-case letters, digits, '_' and "
                "'-', and neither 'tmp' nor 'locks'."
            )
        return Artifact(self.root, kind, spec)

    def find(self, ref: ArtifactRef) -> Artifact:
        """Return an artifact that was built before.

        Args:
            ref: Its name.

        Raises:
            DamagedArtifactError: It does not exist, or its manifest cannot be read.
        """
        return stored_artifact(self.root, ref)

    def get_or_build(
        self, kind: str, spec: Mapping[str, Any], builder: Builder, *, hashes: Hashes = None
    ) -> Artifact:
        """Return a verified artifact, building it when it is absent or damaged.

        Args:
            kind: As for `artifact`.
            spec: As for `artifact`.
            builder: As for `Artifact.write`.
            hashes: As for `Artifact.write`.

        Returns:
            The artifact, every file of it verified.

        Raises:
            WorkspaceError: As for `artifact` and `Artifact.write`.

        Example:
            >>> Workspace("runs").get_or_build("scores", {"seed": 0}, build_scores)
        """
        artifact = self.artifact(kind, spec)
        with artifact_lock(self.root, artifact.ref):
            if there := artifact.path.exists():
                try:
                    artifact.verify()
                    logger.info("reused %s %s", kind, artifact.key)
                    return artifact
                except DamagedArtifactError as error:
                    logger.warning("rebuilding a damaged artifact: %s", error)
            artifact._build(builder, replace=there, hashes=hashes)
        return artifact

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yields a temporary directory of this process, or one in PUZZLE_SCRATCH if that is set."""
        with scratch_place(self.root) as directory:
            yield directory

    def clean(self) -> list[Path]:
        """Delete temporary directories of processes that no longer live, here and in the children.

        Returns:
            What was deleted.
        """
        directories = [self.root, *(path for path in self.root.iterdir() if path.is_dir())]
        return [path for each in sorted(directories) for path in clean_places(each)]


def stored_artifact(root: Path, ref: ArtifactRef) -> Artifact:
    """Returns an artifact of a workspace's directory by its name; as `Workspace.find`."""
    path = root / ref.kind / ref.key / MANIFEST
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))["spec"]
        artifact = Artifact(root, ref.kind, spec)
    except _UNREADABLE as error:
        raise DamagedArtifactError(
            f"{path} cannot be read ({error}); run the stage that builds it again"
        ) from error
    if artifact.ref != ref:
        raise DamagedArtifactError(f"{path} was altered; run the stage that builds it again")
    return artifact


def discard_stored(root: Path, ref: ArtifactRef) -> None:
    """Deletes an artifact by its name, whatever is left of it; of a link, only the link."""
    path = root / ref.kind / ref.key
    with artifact_lock(root, ref):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def artifact_lock(root: Path, ref: ArtifactRef) -> Iterator[None]:
    """Waits until nobody else writes or deletes an artifact."""
    lock = root / "locks" / f"{ref.kind}-{ref.key}.lock"
    with disk_errors(lock, root), locked(lock):
        yield
