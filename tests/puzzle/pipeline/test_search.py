"""Claims about the whole path and its stages, on a tiny random parent."""

import errno
import json
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import puzzle
from puzzle.errors import ParentError, WorkspaceError
from puzzle.library import layers as library_module
from search_space import Layout
from tests.factories.parents import DATA, SCENARIO, text

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("options", [{"hardware": "cuda:99"}, {"device": "cuda:99"}])
def test_a_device_that_is_not_there_is_refused_before_any_work(saved, tmp_path, options):
    with pytest.raises(ParentError, match=r"cannot use 'cuda:99'.*'puzzle devices' lists"):
        puzzle.search(
            saved, text(), constraints=["memory <= 1x"], data=DATA, out=tmp_path / "run", **options
        )
    assert not list((tmp_path / "run").glob("*/*/manifest.json"))


KILLED = """
import os, signal, sys
import puzzle
from puzzle.storage import workspace
from tests.factories.parents import DATA, SCENARIO, text
builds, build = [], workspace.Artifact._build
def killing(self, builder, **given):
    builds.append(self)
    if len(builds) == int(sys.argv[3]):
        def writes_half(directory):
            builder(directory)
            os.kill(os.getpid(), signal.SIGKILL)
        return build(self, writes_half, **given)
    return build(self, builder, **given)
workspace.Artifact._build = killing
puzzle.search(sys.argv[1], text(), constraints=["parameters <= 0.8x"], scenario=SCENARIO,
              precision="float32", data=DATA, hardware="roofline:h100-sxm", out=sys.argv[2])
"""


@pytest.mark.parametrize("build", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_search_goes_on_and_finds_the_same(saved, tmp_path, build, other_process):
    def run(out):
        return puzzle.search(
            saved,
            text(),
            constraints=["parameters <= 0.8x"],
            scenario=SCENARIO,
            precision="float32",
            data=DATA,
            hardware="roofline:h100-sxm",
            out=tmp_path / out,
        )

    killed = other_process.run(KILLED, saved, tmp_path / "run", build)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = {
        p: p.stat().st_mtime_ns
        for p in (tmp_path / "run").glob("*/*/manifest.json")
        if p.parents[1].name != "boundary"  # streams are deleted when nothing needs them
    }
    resumed, whole = run("run"), run("other")
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert resumed.layout == whole.layout
    one, other = (result.child().state_dict() for result in (resumed, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list((tmp_path / "run" / "tmp").iterdir())
    with pytest.raises(WorkspaceError, match="earlier run"):
        puzzle.search(
            saved, text(), constraints=[], precision="float32", out=tmp_path / "run", resume=False
        )


def test_a_search_on_a_full_disk_says_so_and_goes_on_later(saved, tmp_path, monkeypatch):
    arguments = dict(
        constraints=["parameters <= 0.8x"], scenario=SCENARIO, precision="float32", data=DATA
    )
    real = library_module.TensorFile
    calls = []

    def full(path, sizes):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, sizes)

    monkeypatch.setattr(library_module, "TensorFile", full)
    with pytest.raises(WorkspaceError, match="the disk is full"):
        puzzle.search(saved, text(), out=tmp_path / "run", **arguments)
    assert len(list((tmp_path / "run" / "library-layer").iterdir())) == 1
    assert puzzle.search(saved, text(), out=tmp_path / "run", **arguments).layout
    # The first of three layers was kept; the child's three are fitted once more.
    assert len(calls) == 4 + 3


def test_search_gives_a_child_within_its_limits_that_reloads(saved, tmp_path):
    arguments = dict(
        constraints=["parameters <= 0.8x"], scenario=SCENARIO, precision="float32", data=DATA
    )
    result = puzzle.search(saved, text(), out=tmp_path / "run", space="default", **arguments)
    own = Layout.parent(result.layout.shape)
    assert result.layout.parameters() <= 0.8 * own.parameters()
    assert result.measured.child.parameters == result.layout.parameters()
    assert result.measured.child.kv_cache == result.predicted.child.kv_cache
    assert result.measured.child.memory == result.predicted.child.memory
    (tmp_path / "out").mkdir()
    for stale in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / "out" / stale).write_text("of somebody's larger model")
    with pytest.raises(puzzle.PuzzleError, match=rf"did not write.*: model-00001.*{stale}"):
        result.save(tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    path = result.save(tmp_path / "out")
    assert not list(tmp_path.rglob(".puzzle-*"))
    again = AutoModelForCausalLM.from_pretrained(path)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, result.child()(tokens).logits)
    assert "child meas." in result.table()
    json.dumps(result.to_dict(), allow_nan=False)
    second = puzzle.search(saved, text(), out=tmp_path / "run", space="default", **arguments)
    assert second.layout == result.layout
    assert second.child().name_or_path == ""
    second.save(tmp_path / "run/child")
    named = second.child()
    assert named.name_or_path == named.config._name_or_path == str(tmp_path / "run/child")
    # Trained, and saved over it, it is no longer this one.
    torch.nn.init.zeros_(named.lm_head.weight)
    named.save_pretrained(tmp_path / "run/child")
    assert second.child().name_or_path == ""


def test_what_cannot_be_reached_is_refused_before_the_library_is_built(saved, tmp_path):
    with pytest.raises(
        puzzle.InfeasibleError,
        match=r"throughput >= 900x cannot be reached: the most this space reaches is \d",
    ):
        puzzle.search(
            saved,
            text(),
            constraints=["throughput >= 900x"],
            scenario=SCENARIO,
            precision="float32",
            data=DATA,
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run" / "library-layer").exists()
