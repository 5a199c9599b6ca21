"""Claims about what a search says before it opens anything, and about constraints already met."""

import logging
import re
from importlib.util import find_spec

import numpy as np
import pytest

import puzzle
from puzzle.errors import PuzzleError
from tests.factories.parents import DATA, SCENARIO, text

WRONG = {
    "solver": ({"solver": "gurobbi"}, "unknown solver 'gurobbi'"),
    "seed": ({"seed": -1}, "seed=-1"),
    "large seed": ({"seed": 2**31}, "give a whole number from 0"),
    "float seed": ({"seed": 1.5}, "seed=1.5"),
    "engine": ({"hardware": "llamacpp"}, "allowed: 'cpu'"),
    "device": ({"hardware": "roofline:h900"}, "h900"),
    "profile": ({"hardware": "absent.json"}, "there is no file absent.json; give the path"),
    "table": ({"hardware": "table:absent.csv"}, "there is no file absent.csv; give the path"),
    "cost model": ({"hardware": object()}, "is not a cost model"),
    "metric": ({"minimise": "sizes"}, "Unknown resource 'sizes'"),
    "objective": ({"minimise": "memory"}, "without a limit on the KL"),
    "constraint": ({"constraints": "speed >= 2x"}, "Unknown resource 'speed'"),
    "effort": ({"effort": "some"}, "effort='some'"),
    "space": ({"space": "huge"}, "space='huge'"),
    "precision": ({"precision": "int3"}, "int3"),
    "executor": ({"executor": "processes"}, "has no submit"),
    "out": ({"out": __file__}, "test_early_refusals"),
}


def search(parent, run, **changes):
    given = {
        "constraints": ["parameters <= 0.8x"],
        "scenario": SCENARIO,
        "hardware": "roofline:h100-sxm",
        "data": DATA,
        "effort": "fast",
        "out": run,
    }
    return puzzle.search(parent, text(), **{**given, **changes})


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_before_the_parent_is_opened(tmp_path, name):
    changes, message = WRONG[name]
    # There is no parent: whatever is opened first would say so.
    with pytest.raises(PuzzleError, match=message):
        search(tmp_path / "no parent", tmp_path / "run", **changes)
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_an_engine_that_is_not_installed_is_refused_before_the_parent_is_opened(tmp_path):
    with pytest.raises(PuzzleError, match="vLLM is not installed for"):
        search(tmp_path / "no parent", tmp_path / "run", hardware="vllm")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ("throughput >= 1.25", r"already meets 'throughput >= 1\.25 .*'throughput >= 1.25x'"),
        ("decode_throughput >= 2", r"write 'decode_throughput >= 2x'"),
        ("memory <= 80 GiB", r"already meets every constraint: 'memory <= 80 GiB'"),
        ("parameters <= 1x", r"already meets every constraint: 'parameters <= 1x'"),
    ],
)
def test_constraints_that_the_parent_meets_are_said_before_the_library(
    saved, tmp_path, caplog, constraint, said
):
    built = []

    class Heard(logging.Handler):
        def emit(self, record):
            built.append(any((tmp_path / "run").glob("library-layer/*/manifest.json")))

    logger = logging.getLogger("puzzle.pipeline.already_met")
    handler = Heard()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.WARNING, logger=logger.name):
            search(saved, tmp_path / "run", constraints=[constraint], seed=np.int64(1))
    finally:
        logger.removeHandler(handler)
    assert built
    assert not any(built)
    assert _matches(caplog, said)


def test_one_of_several_constraints_may_be_met(saved, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="puzzle"):
        search(saved, tmp_path, constraints=["memory <= 80 GiB", "parameters <= 0.8x"])
    assert not _matches(caplog, "already meets")


def _matches(caplog, pattern):
    return [r for r in caplog.records if re.search(pattern, r.getMessage())]
