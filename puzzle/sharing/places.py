"""Places: where the files of a shared library are, a directory or a repository of the Hub."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import quote
from urllib.request import urlopen

from puzzle.errors import DataError
from puzzle.storage.paths import user_path

__all__ = ["Directory", "HubRepository", "Place", "place_of"]

_COMMIT = re.compile("[0-9a-f]{40}")


class Place(Protocol):
    """Gives the files of a shared library by name."""

    def file(self, name: str) -> Path:
        """Returns the local path of a file, downloaded first if need be."""
        ...


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of this machine.

    Args:
        path: The directory.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def file(self, name: str) -> Path:
        """Returns the path of a file.

        Raises:
            DataError: It is not there.
        """
        path = self.path / name
        if not path.is_file():
            raise DataError(f"{self.path} is no whole shared library: {name} is missing")
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """A repository of a Hub; files are downloaded when they are asked for, and kept in its cache.

    Args:
        repo_id: Such as "me/my-library".
        revision: Branch, tag or commit; after the first file, the commit it came from.
        token: Hub token; by default the one that is logged in.
        endpoint: Another Hub.
    """

    repo_id: str
    revision: str | None = None
    token: str | None = None
    endpoint: str | None = None

    def __str__(self) -> str:
        return self.repo_id

    def file(self, name: str) -> Path:
        """Returns the path of a file in the Hub's cache.

        Raises:
            DataError: It cannot be downloaded and is not in the cache, or the Hub stays silent for
                as long as the Hub's client waits for an answer, by default 10 s.
        """
        path = self._snapshot(name) / name
        if not path.is_file():
            raise DataError(f"{self.repo_id!r} is no whole shared library: {name} is missing")
        return path

    def at_commit_of(self, name: str) -> HubRepository:
        """Returns the repository at the commit that a file is downloaded from.

        What is downloaded later then belongs to what was read first, whatever is pushed meanwhile.
        """
        # <cache>/models--me--library/snapshots/<commit>
        return replace(self, revision=self._snapshot(name).name)

    def _snapshot(self, name: str) -> Path:
        # hf_hub_download() would try again for half a minute where there is no connection.
        from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            if not constants.is_offline_mode():
                cached = try_to_load_from_cache(self.repo_id, name, revision=self.revision)
                if isinstance(cached, str) and _COMMIT.fullmatch(self.revision or ""):
                    return Path(cached.removesuffix(name))
                self._require_answer()
            return Path(
                snapshot_download(
                    self.repo_id,
                    revision=self.revision,
                    token=self.token,
                    endpoint=self.endpoint,
                    allow_patterns=[glob.escape(name)],
                )
            )
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise DataError(
                f"{self.repo_id!r} is no directory here, and its {name} cannot be downloaded: "
                f"{error}"
            ) from error

    def _require_answer(self) -> None:
        """Raises TimeoutError where a Hub is silent, for which snapshot_download() would wait."""
        from huggingface_hub import constants

        seconds = constants.HF_HUB_ETAG_TIMEOUT
        endpoint = (self.endpoint or constants.ENDPOINT).rstrip("/")
        try:
            # Any answer will do, and what goes wrong otherwise is for the client to say.
            with urlopen(f"{endpoint}/api/models/{quote(self.repo_id)}", timeout=seconds):
                pass
        except (OSError, ValueError) as error:
            if isinstance(error, TimeoutError) or isinstance(
                getattr(error, "reason", None), TimeoutError
            ):
                raise TimeoutError(
                    f"{endpoint} did not answer within {seconds} s; try again later, or set "
                    "HF_HUB_ETAG_TIMEOUT to the seconds to wait"
                ) from error


def place_of(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Directory | HubRepository:
    """Returns where a library is; an existing directory takes precedence over a hub id."""
    path = user_path(source)
    if path.is_dir():
        return Directory(path)
    return HubRepository(repo_id=str(source), revision=revision, token=token, endpoint=endpoint)
