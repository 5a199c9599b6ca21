"""Claims about saved results and their model cards."""

import dataclasses
import json

import pytest
import torch
from huggingface_hub import ModelCard

import puzzle
from puzzle.errors import DataError
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.report.card import model_card
from solvers import solve
from tests.factories.parents import DATA


def test_a_saved_result_reloads_with_its_figures_evidence_and_child(found, saved_child):
    again = puzzle.load_result(saved_child)
    assert again.to_dict() == json.loads(json.dumps(found.to_dict()))
    assert json.dumps(again.evidence.to_dict()) == json.dumps(found.evidence.to_dict())
    assert again.evidence.constraints == found.evidence.constraints
    assert again.evidence.errors == found.evidence.errors
    assert solve(again.evidence.problem).labels == found.solution.labels
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(again.child()(tokens).logits, found.child()(tokens).logits)


def test_a_reloaded_result_saves_the_same_files(saved_child, tmp_path):
    copy = puzzle.load_result(saved_child).save(tmp_path / "copy")
    names = {path.name for path in saved_child.iterdir()}
    assert {path.name for path in copy.iterdir()} == names
    for name in sorted(names - {"config.json"}):
        assert (copy / name).read_bytes() == (saved_child / name).read_bytes(), name


def test_a_directory_without_a_result_is_named(tmp_path):
    with pytest.raises(DataError, match=r"has no puzzle_layout\.json; give the directory"):
        puzzle.load_result(tmp_path)


def test_the_run_directory_finds_the_child_in_it(found, tmp_path):
    found.save(tmp_path / "child")
    assert puzzle.load_result(tmp_path).layout == found.layout


def test_the_card_is_one_that_the_hub_reads_and_names_no_local_path(found, saved_child):
    card = ModelCard.load(saved_child / "README.md")
    assert card.data.library_name == "transformers"
    assert "puzzle" in card.data.tags
    # A directory is no model of the Hub, so it is not given out as one.
    assert card.data.base_model is None
    assert str(saved_child.parents[1]) not in card.content
    for row in found.rows():
        assert "| " + " | ".join(row) + " |" in card.content
    for layers, label in found.layout.runs():
        assert f"| {layers} | {label.replace('+', ' | ')} |" in card.content
    assert "| parameters <= 0.8x | " in card.content
    assert all(part["hash"] in card.content for part in found.evidence.run["text"].values())


def call_of(result, monkeypatch):
    """Runs the command of a result's card with a search that only notes what it was given."""
    command = model_card(result).split("## Command")[1].split("```python")[1].split("```")[0]
    calls = []
    monkeypatch.setattr(puzzle, "search", lambda *given, **options: calls.append((given, options)))
    exec(command, {"text": "the text"})
    ((given, options),) = calls
    assert given == ("parent", "the text")
    return options


def test_the_command_of_the_card_is_the_search_that_was_run(found, monkeypatch):
    options = call_of(found, monkeypatch)
    assert options["constraints"] == ["parameters <= 0.8x", "throughput >= 0.5x"]
    assert options["scenario"] == found.scenario
    assert options["data"] == dataclasses.replace(DATA, seed=0, healing_tokens=DATA.fit_tokens)
    assert (options["space"], options["effort"], options["seed"]) == ("default", "fast", 0)
    assert "minimise" not in options
    assert "library" not in options
    assert found.evidence.run["costs"] == "MeasuredCosts"


def test_the_command_has_several_scenarios_and_another_objective_where_there_were(
    found, monkeypatch
):
    several = {
        "chat": (found.scenario, 3.0),
        "long": (dataclasses.replace(found.scenario, batch=1), 1.0),
    }
    workload = puzzle.Workload.of(several)
    run = found.evidence.run
    library = LibraryConfig(coupling="all", bld=BLDConfig(tokens=512))
    changed = {"minimise": "memory", "library": json.loads(json.dumps(library.to_dict()))}
    run = {**run, "settings": {**run["settings"], **changed}}
    evidence = dataclasses.replace(found.evidence, workload=workload, run=run)
    options = call_of(dataclasses.replace(found, evidence=evidence), monkeypatch)
    assert puzzle.Workload.of(options["scenario"]) == workload
    assert options["minimise"] == "memory"
    assert options["library"] == library


def test_a_hub_id_becomes_the_base_model(found):
    parent = {**found.evidence.run["parent"], "name": "owner/model-1b"}
    run = {**found.evidence.run, "parent": parent}
    evidence = dataclasses.replace(found.evidence, run=run)
    text = model_card(dataclasses.replace(found, evidence=evidence))
    assert ModelCard(text).data.base_model == "owner/model-1b"


def test_a_card_without_evidence_leaves_out_what_it_cannot_know(found):
    text = model_card(dataclasses.replace(found, evidence=None))
    assert "## Layout" in text
    assert not any(head in text for head in ("## Constraints", "## Data", "## Command"))
