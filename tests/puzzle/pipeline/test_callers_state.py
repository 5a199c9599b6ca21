"""Claims about searches and what follows them in a session whose torch is set up otherwise."""

from contextlib import ExitStack, contextmanager

import pytest
import torch

import puzzle
from tests.factories.distillation import child_model, losses, parent_model, settings, tokens
from tests.factories.parents import DATA, SCENARIO, save_parent, text


@contextmanager
def bfloat16_by_default():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


TEXT, HELD_OUT = text(), tokens(4)
STATES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "bfloat16": bfloat16_by_default,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "deterministic": deterministic,
}


@contextmanager
def all_at_once():
    with ExitStack() as stack:
        for enter in STATES.values():
            stack.enter_context(enter())
        yield


def search(source, out):
    return puzzle.search(
        source,
        TEXT,
        constraints=["parameters <= 0.8x"],
        scenario=SCENARIO,
        precision="float32",
        hardware="roofline:h100-sxm",
        data=DATA,
        space="default",
        effort="fast",
        out=out,
    )


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A parent on disk, and the weights of the child that a search in a fresh session gives."""
    folder = tmp_path_factory.mktemp("usual")
    source = save_parent(folder / "parent")
    return source, search(source, folder / "run").child().state_dict()


@pytest.mark.parametrize(
    "enter",
    [all_at_once, *(pytest.param(enter, marks=pytest.mark.slow) for enter in STATES.values())],
    ids=["all at once", *STATES],
)
def test_a_search_gives_the_same_child_in_any_state(usual, tmp_path, enter):
    source, weights = usual
    with enter():
        result = search(source, tmp_path / "run")
        path = result.save(tmp_path / "child")
        exported = puzzle.export(path, tmp_path / "exported", engine="vllm").path
        measured = puzzle.evaluate(path, data=HELD_OUT, parent=source).text["child"]["perplexity"]
    child = result.child().state_dict()
    assert all(torch.equal(child[name], tensor) for name, tensor in weights.items())
    assert exported.is_dir()
    assert measured == puzzle.evaluate(path, data=HELD_OUT).text["child"]["perplexity"]


def test_models_made_under_inference_mode_are_searched_and_distilled(usual, tmp_path):
    with torch.inference_mode():
        parent, child, data = parent_model(), child_model(), tokens()
        assert next(parent.parameters()).is_inference()
        unusual = puzzle.distill(child, parent, data, config=settings(), out=tmp_path / "one")
    again = puzzle.distill(
        child_model(), parent_model(), tokens(), config=settings(), out=tmp_path / "other"
    )
    assert losses(unusual) == losses(again)


def test_a_refused_search_leaves_the_session_as_it_was(usual, tmp_path):
    with all_at_once():
        with pytest.raises(puzzle.InfeasibleError):
            puzzle.search(
                usual[0],
                TEXT,
                constraints=["parameters <= 0.001x"],
                scenario=SCENARIO,
                hardware="roofline:h100-sxm",
                data=DATA,
                out=tmp_path / "run",
            )
        assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.bfloat16
        assert torch.get_default_device().type == "meta"
