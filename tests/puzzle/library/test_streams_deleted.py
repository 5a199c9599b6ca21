"""Residual streams are deleted as soon as nothing needs them, whoever made them."""

import pytest

from puzzle.errors import WorkspaceError
from puzzle.library import boundary
from puzzle.library.boundary import ParentBoundary
from puzzle.library.build import build_library
from puzzle.stages import Run
from search_space import SearchSpace
from tests.factories.parents import opened


def test_streams_that_a_killed_run_left_beside_a_whole_library_are_deleted(built):
    workspace, parent, space, cut, _ = built
    run = Run(workspace=workspace, parent=parent, windows=cut)
    run.get(ParentBoundary(part="fit", layer=parent.shape.layers))
    assert list((workspace.root / "boundary").iterdir())
    build_library(parent, space, cut, workspace=workspace)
    assert not list((workspace.root / "boundary").iterdir())


def deleting(monkeypatch, run, times):
    """Makes another process delete each stream just before it is read, as often as given."""
    read, left = boundary.read_stream, [times]

    def read_what_may_be_gone(artifact):
        if left[0] > 0:
            left[0] -= 1
            artifact.discard()
        return read(artifact)

    monkeypatch.setattr(boundary, "read_stream", read_what_may_be_gone)


def test_a_stream_that_another_process_deletes_is_built_again(saved, tmp_path, monkeypatch):
    workspace, parent, _, cut = opened(saved, tmp_path)
    run = Run(workspace=workspace, parent=parent, windows=cut)
    whole = run.get(ParentBoundary(part="fit", layer=1))
    deleting(monkeypatch, run, 3)
    assert run.get(ParentBoundary(part="fit", layer=1)).equal(whole)
    deleting(monkeypatch, run, 10**6)
    with pytest.raises(WorkspaceError, match="deleted 5 times by another process"):
        run.get(ParentBoundary(part="fit", layer=1))


def test_a_library_is_whole_although_streams_are_deleted_meanwhile(saved, tmp_path, monkeypatch):
    workspace, parent, _, cut = opened(saved, tmp_path)
    deleting(monkeypatch, None, 4)
    space = SearchSpace.preset(parent.shape, "small")
    library = build_library(parent, space, cut, workspace=workspace)
    assert all(layer.sound() for layer in library.layers)
