"""Claims about shared libraries: what is chosen and made from one is what its maker would get."""

import json
import shutil

import pytest
import torch

from puzzle.choice.program import program_of
from puzzle.cli import main
from puzzle.errors import CostModelError, DataError, ParentError
from puzzle.limits.scenario import Scenario
from puzzle.sharing import SharedLibrary, push
from search_space import Layout
from solvers import InfeasibleError, solve
from tests.factories.hub import hub
from tests.factories.parents import DATA, parent_model, text, tokenizer

CONSTRAINTS = "parameters <= 0.8x"


def test_what_is_chosen_is_what_scores_and_profile_choose(shared):
    path, parent, scores, profile, _ = shared
    opened_again = SharedLibrary.open(path)
    picked = opened_again.choose(CONSTRAINTS, hardware="h100")
    problem = program_of(scores, profile, parent.shape, profile.scenario, CONSTRAINTS)
    assert picked.solution.labels == solve(problem).labels
    assert picked.kl == pytest.approx(scores.total(picked.layout))
    assert opened_again.choose(CONSTRAINTS).layout == picked.layout  # its only profile
    modelled = opened_again.choose(
        CONSTRAINTS, hardware="roofline:h100-sxm", scenario=profile.scenario
    )
    assert modelled.layout == picked.layout
    assert "parameters <= 0.8x: predicted" in str(picked)
    assert json.dumps(picked.to_dict())


def test_a_child_has_the_weights_of_its_makers_library(shared, parent_directory, tmp_path):
    path, _, _, _, library = shared
    again = SharedLibrary.open(path)
    layout = again.choose(CONSTRAINTS).layout
    child = again.child(layout, parent=parent_directory, out=tmp_path / "mine")
    assert child.quality is None
    expected = library.child_tensors(layout)
    got = child.child().state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    assert (child.save(tmp_path / "child") / "config.json").is_file()
    with pytest.raises(ParentError, match="'me/parent' is neither a local path nor a model"):
        again.child(layout, out=tmp_path / "mine")  # "me/parent" is no model


def test_with_text_the_child_is_healed_and_measured(shared, parent_directory, tmp_path):
    path, *_ = shared
    again = SharedLibrary.open(path)
    layout = again.choose(CONSTRAINTS).layout
    child = again.child(
        layout, parent=parent_directory, text=text(), data=DATA, out=tmp_path / "mine"
    )
    assert child.quality.to_dict()["child"]["kl"] > 0


def test_only_what_a_layout_needs_is_downloaded(shared, parent_directory, tmp_path, hub_cache):
    path, _, _, _, library = shared
    with hub() as server:
        url = push(path, "me/library", token="hf_nothing", endpoint=server.endpoint)
        assert url.startswith(server.endpoint)
        assert "Block library of me/parent" in server.cards[0]
        assert server.files == {
            str(file.relative_to(path)): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file() and not file.name.startswith(".")
        }
        again = SharedLibrary.open("me/library", endpoint=server.endpoint)
        assert set(server.read) == {"puzzle_library.json", "scores.json"}
        layout = again.choose(CONSTRAINTS).layout
        assert layout != Layout.parent(layout.shape)
        child = again.child(layout, parent=parent_directory, out=tmp_path / "mine").child()
        variants = {name for name in server.read if name.startswith("layers/")}
        stored = {name for name in server.files if name.startswith("layers/")}
        assert 0 < len(variants) < len(stored)
        # Files that are there already are not asked for again.
        before = list(server.read)
        again.child(layout, parent=parent_directory, out=tmp_path / "mine")
        assert server.read == before
    expected = library.child_tensors(layout)
    assert all(torch.equal(child.state_dict()[name], t) for name, t in expected.items())


def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path):
    with pytest.raises(DataError, match=r"'me/library' is no directory here.*cannot be"):
        SharedLibrary.open("me/library", endpoint="http://127.0.0.1:9")


def test_a_library_of_another_parent_is_refused(shared, tmp_path):
    path, *_ = shared
    again = SharedLibrary.open(path)
    layout = again.choose(CONSTRAINTS).layout
    other = parent_model()
    with torch.no_grad():
        other.model.norm.weight += 0.1
    with pytest.raises(ParentError, match="is of 'me/parent', whose config and weights hash to"):
        again.child(layout, parent=other, tokenizer=tokenizer(), out=tmp_path / "mine")


def test_profiles_of_others_and_hardware_that_must_be_measured_are_refused(shared, tmp_path):
    path, *_ = shared
    again = SharedLibrary.open(path)
    with pytest.raises(CostModelError, match=r"'cpu' would have to be measured.*profile"):
        again.choose(CONSTRAINTS, hardware="cpu")
    with pytest.raises(CostModelError, match="batch: 2 in the profile, 4 here"):
        again.choose(CONSTRAINTS, scenario=Scenario(batch=4, prompt_tokens=8, generated_tokens=4))
    with pytest.raises(CostModelError, match="hardware='a100'; allowed"):
        again.choose(CONSTRAINTS, hardware="a100")
    with pytest.raises(InfeasibleError, match=r"parameters <= 0\.01x"):
        again.choose("parameters <= 0.01x")
    with pytest.raises(DataError, match="it has h100"):
        again.profile("a100")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "puzzle_library.json").unlink(), "puzzle_library.json is missing"),
        (lambda path: (path / "puzzle_library.json").write_text("{"), "the index of a shared lib"),
        (lambda path: (path / "scores.json").write_text("{}"), "scores.json was altered"),
        (
            lambda path: _edit(path, lambda index: index["scores"].update(file="../scores.json")),
            "'../scores.json' is outside the library",
        ),
        (lambda path: _edit(path, lambda index: index.update(format=2)), "reads format 1"),
        (lambda path: _edit(path, lambda index: index["variants"].pop()), "variants of"),
    ],
)
def test_a_damaged_library_is_refused_by_name(shared, tmp_path, change, message):
    copy = shutil.copytree(shared[0], tmp_path / "copy")
    change(copy)
    with pytest.raises(DataError, match=message):
        SharedLibrary.open(copy)


def test_an_altered_variant_makes_no_child(shared, parent_directory, tmp_path):
    path = shutil.copytree(shared[0], tmp_path / "copy")
    again = SharedLibrary.open(path)
    layout = again.choose(CONSTRAINTS).layout
    for file in (path / "layers").rglob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"safetensors was altered"):
        again.child(layout, parent=parent_directory, out=tmp_path / "mine")


def test_an_index_without_settings_is_named_when_they_are_needed(
    shared, parent_directory, tmp_path
):
    copy = shutil.copytree(shared[0], tmp_path / "copy")
    _edit(copy, lambda index: index.update(made={}))
    again = SharedLibrary.open(copy)
    inputs = {"parent": parent_directory, "text": text(), "data": DATA, "out": tmp_path / "mine"}
    with pytest.raises(DataError, match="is not a shared library: 'config' is missing"):
        again.child(Layout.parent(again.shape), **inputs)


def _edit(path, change):
    file = path / "puzzle_library.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))


def test_the_command_line_shares_and_picks(parent_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("\n\n".join(text()))
    sizes = ["--dtype", "float32", "--window", "16", "--batch", "2"]
    sizes += ["--prompt-tokens", "8", "--generated-tokens", "4"]
    stage = [str(parent_directory), "--out", "run", "--space", "small", *sizes]
    roofline = ["--hardware", "roofline:h100-sxm", "--save", "h100.json"]
    assert main(["profile", *stage, *roofline]) == 0
    for part in ("fit", "score", "validation"):
        stage += [f"--{part}-tokens", "256"]
    given = ["--text", "corpus.txt", "--method", "fisher", "--profile", "h100.json"]
    assert main(["share", *stage, *given, "--save", "library"]) == 0
    # No path of the machine on which it was made.
    assert SharedLibrary.open(tmp_path / "library").index.parent.name == parent_directory.name
    assert str(parent_directory.parent) not in (tmp_path / "library" / "README.md").read_text()
    capsys.readouterr()
    pick = ["pick", "library", "--constraint", CONSTRAINTS, "--json"]
    assert main(pick) == 0
    layout = json.loads(capsys.readouterr().out)["layout"]
    assert main([*pick, "--parent", str(parent_directory), "--save", "child", "--out", "mine"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["layout"] == layout
    config = json.loads((tmp_path / "child" / "config.json").read_text())
    assert Layout.from_config(config).to_dict() == layout
    assert main([*pick, "--hardware", "cpu"]) == 1
    assert "would have to be measured" in capsys.readouterr().err
