"""The demo model in the user's cache is used only as long as it is the one that was fetched."""

import hashlib

import pytest

import puzzle.demo
from puzzle.demo import demo_model
from puzzle.errors import ParentError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a file that is taken for the demo model, and no package that has it."""
    file = tmp_path / puzzle.demo.MODEL_FILE
    file.write_bytes(b"weights")
    monkeypatch.setattr(puzzle.demo, "_cache", lambda: tmp_path)
    monkeypatch.setattr(puzzle.demo, "MODEL_PACKAGE", "no_such_package")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(puzzle.demo, "MODEL_SHA256", digest)
    return file


def test_an_altered_model_in_the_cache_is_never_used(cache, caplog):
    assert demo_model() == cache
    cache.write_bytes(b"weightz")
    with pytest.raises(ParentError, match="not installed"):
        demo_model()
    assert f"{cache} was altered" in caplog.text
    cache.write_bytes(b"weights")
    assert demo_model() == cache
