"""Claims about the errors of disks, and about directories that others change."""

import errno
import re
from pathlib import Path

import pytest

from puzzle.errors import WorkspaceError
from puzzle.storage.disk import disk_errors, matching, naming
from puzzle.storage.hashing import hash_file


def test_a_directory_that_is_deleted_while_it_is_listed_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    glob, gone = Path.glob, [FileNotFoundError(errno.ENOENT, "gone", str(tmp_path / "b"))]

    def glob_while_it_goes(self, pattern):
        if gone:
            raise gone.pop()
        return glob(self, pattern)

    monkeypatch.setattr(Path, "glob", glob_while_it_goes)
    assert matching(tmp_path, "*/x") == [tmp_path / "a" / "x"]
    assert not gone
    assert matching(tmp_path / "absent", "*") == []


def test_an_error_without_a_file_is_given_the_one_that_is_read_or_written(tmp_path):
    with pytest.raises(OSError, match=r"\[Errno 5\] broken: 'stream\.bin'"), naming("stream.bin"):
        raise OSError(errno.EIO, "broken")
    with pytest.raises(OSError, match="other"), naming("stream.bin"):
        raise OSError(errno.EIO, "broken", "other")
    said = f"While {tmp_path / 'child'} was written: broken"
    with (
        pytest.raises(WorkspaceError, match=re.escape(said)),
        disk_errors(tmp_path / "child", tmp_path),
    ):
        raise OSError(errno.EIO, "broken")
    # What no disk said is none of its errors, such as a connection that fails.
    with pytest.raises(OSError, match=r"^refused$"), disk_errors(tmp_path, tmp_path):
        raise OSError("refused")


def test_a_file_that_cannot_be_hashed_is_named():
    memory = Path("/proc/self/mem")  # reads at its start fail with EIO
    if not memory.exists():
        pytest.skip("there is no file here whose reads fail")
    with pytest.raises(OSError, match=r"\[Errno 5\].*/proc/self/mem"):
        hash_file(memory)
