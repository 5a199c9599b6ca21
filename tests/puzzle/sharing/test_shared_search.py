"""Claims about searches in a shared library: what is known is in the result, and nothing else."""

import json
import shutil
import socket
from dataclasses import replace

import pytest
import torch

import puzzle
from puzzle.cli import main
from puzzle.costs.by_name import hardware_record
from puzzle.errors import CostModelError, DataError, ParentError, SettingError
from puzzle.hardware.identity import software_versions
from puzzle.limits.scenario import Scenario
from puzzle.report.card import model_card
from puzzle.report.verdict import sure
from puzzle.sharing import SharedLibrary, push
from tests.factories.hub import hub
from tests.factories.parents import DATA, parent_model, text, tokenizer

CONSTRAINTS = "parameters <= 0.8x"


def search(shared, tmp_path, **given):
    """A search in the shared library; the profile is its only one unless it is given."""
    settings = {"library": shared[0], "out": tmp_path / "run", "progress": False, **given}
    return puzzle.search(constraints=CONSTRAINTS, **settings)


def here(profile, tmp_path, **changes):
    """The file of a profile that says to have been taken on this machine, but for some changes."""
    device = {**hardware_record("cpu", "cpu"), **changes.pop("device", {})}
    versions = {**software_versions(), **changes.pop("versions", {})}
    return replace(profile, device=device, versions=versions).save(tmp_path / "here.json")


def test_a_layout_is_chosen_without_the_parent_and_its_child_made_when_it_is_needed(
    shared, parent_directory, tmp_path
):
    path, _, _, _, library = shared
    result = search(shared, tmp_path, profile="h100")
    own = SharedLibrary.open(path).choose(CONSTRAINTS)
    assert result.layout == own.layout
    assert result.predicted.child.kl == pytest.approx(own.kl)
    # Nothing was measured, and nothing says it was.
    assert result.measured.child.to_dict() == {"parameters": float(own.layout.parameters())}
    notes = " ".join(result.notes())
    assert "a profile of H100, modelled, not of this machine" in notes
    assert "its quality was not measured" in notes
    with pytest.raises(ParentError, match="'me/parent' is neither a local path nor a model"):
        result.save(tmp_path / "child")
    again = search(shared, tmp_path, profile="h100", parent=parent_directory)
    saved = puzzle.load_result(again.save(tmp_path / "child"))
    expected = library.child_tensors(own.layout)
    weights = saved.child().state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert saved.notes() == again.notes()
    card = (tmp_path / "child" / "README.md").read_text()
    assert "library=" in card
    assert "its quality was not measured" in card


@pytest.mark.slow
def test_report_and_explorer_say_what_a_layout_of_a_shared_library_is(shared, tmp_path):
    result = search(shared, tmp_path, profile="h100")
    page = result.report().read_text()
    assert "not of this machine: there is no such device here" in page
    assert "its quality was not measured" in page
    assert "timed in turn" not in page
    explored = result.explore(tmp_path / "e.json").read_text()
    assert f"--library {shared[0]} --profile h100" in explored


def test_the_parent_that_the_library_names_is_opened_when_the_child_is_made(
    shared, parent_directory, tmp_path, monkeypatch
):
    copy = shutil.copytree(shared[0], tmp_path / "copy")
    index = json.loads((copy / "puzzle_library.json").read_text())
    index["parent"]["name"] = "the-parent"
    (copy / "puzzle_library.json").write_text(json.dumps(index))
    monkeypatch.chdir(tmp_path)
    result = search((copy,), tmp_path, profile="h100")
    (tmp_path / "the-parent").symlink_to(parent_directory)
    assert result.child().config.num_hidden_layers == result.layout.shape.layers
    assert result.tokenizer is not None


def test_with_text_the_child_is_healed_measured_and_gone_on_with(
    shared, parent_directory, tmp_path
):
    result = search(
        shared, tmp_path, parent=parent_directory, text=text(), data=DATA, profile="h100"
    )
    assert result.measured.child.kl > 0
    assert "was not measured" not in " ".join(result.notes())
    assert result.validation.numel() > 0
    assert "Quality was measured on" in " ".join(sure(result, None))
    assert puzzle.load_result(result.save(tmp_path / "child")).measured == result.measured


def test_a_profile_of_another_device_or_version_is_named_refused_or_used_and_marked(
    shared, tmp_path
):
    profile = shared[3]
    same = here(profile, tmp_path)
    result = search(shared, tmp_path, profile=same, hardware="cpu")
    assert "the costs are a profile of this machine, taken earlier" in " ".join(result.notes())
    for change, words in (
        ({"device": {"processor": "Cray-1"}}, "device processor: 'Cray-1' in the profile"),
        ({"versions": {"torch": "0.1"}}, "versions torch: '0.1' in the profile"),
    ):
        other = here(profile, tmp_path, **change)
        with pytest.raises(CostModelError, match=f"is not of this machine's cpu: {words}"):
            search(shared, tmp_path, profile=other, hardware="cpu")
        used = search(shared, tmp_path, profile=other)
        (marked,) = [note for note in used.notes() if words in note]
        assert "not of this machine" in marked
        assert words.partition(":")[0] in model_card(used)
    with pytest.raises(CostModelError, match="hardware='roofline:h100-sxm' and a profile both say"):
        search(shared, tmp_path, profile=same, hardware="roofline:h100-sxm")


def test_profiles_are_found_in_files_libraries_and_on_the_hub_and_otherwise_refused(
    shared, tmp_path, hub_cache, monkeypatch
):
    path, _, _, profile, _ = shared
    chosen = search(shared, tmp_path, profile="h100").layout
    with hub() as server:
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        push(path, "me/library", token="hf_nothing", endpoint=server.endpoint)
        for place in ("me/library", "me/library/profiles/h100.json", path, profile):
            assert search(shared, tmp_path, profile=place).layout == chosen
        downloaded = search(("me/library",), tmp_path, profile="h100")
    assert downloaded.layout == chosen
    assert not [name for name in server.read if name.startswith("layers/")]
    with pytest.raises(
        CostModelError, match=r"profile='a100': there is no such file and .* has h1"
    ):
        search(shared, tmp_path, profile="a100")
    older = json.loads((path / "profiles" / "h100.json").read_text()) | {"format": 0}
    (tmp_path / "old.json").write_text(json.dumps(older))
    with pytest.raises(CostModelError, match="has format 0; this version reads 1"):
        search(shared, tmp_path, profile=tmp_path / "old.json")
    other = replace(profile, shape=replace(profile.shape, vocab=7)).save(tmp_path / "other.json")
    with pytest.raises(CostModelError, match="shape vocab: 7 in the profile"):
        search(shared, tmp_path, profile=other)


def test_a_library_of_another_parent_revision_or_format_is_refused(shared, tmp_path):
    other = parent_model()
    with torch.no_grad():
        other.model.norm.weight += 0.1
    with pytest.raises(ParentError, match="give the same revision of the same model"):
        search(shared, tmp_path, parent=other, tokenizer=tokenizer(), profile="h100")
    copy = shutil.copytree(shared[0], tmp_path / "copy")
    index = json.loads((copy / "puzzle_library.json").read_text())
    (copy / "puzzle_library.json").write_text(json.dumps({**index, "format": 2}))
    with pytest.raises(DataError, match="format 2; this version of puzzle reads format 1"):
        search((copy,), tmp_path, profile="h100")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": "ffn"}, "space='ffn' has no use with a shared library"),
        ({"effort": "thorough"}, "effort='thorough' has no use"),
        ({"library": 3}, "library=3; allowed: a LibraryConfig, or a shared library"),
        ({"scenario": {"a": Scenario(), "b": Scenario(batch=2)}}, "give a Scenario"),
    ],
)
def test_what_has_no_use_with_a_shared_library_is_refused(shared, tmp_path, given, message):
    with pytest.raises(SettingError, match=message):
        search(shared, tmp_path, **given)


@pytest.mark.parametrize("given", [{}, {"parent": "model"}, {"text": ["a"]}])
def test_without_a_shared_library_parent_and_text_are_needed(given):
    with pytest.raises(DataError, match=r"is missing: give .*only library='HUB-ID OR DIRECTORY'"):
        puzzle.search(constraints=CONSTRAINTS, **given)


def test_a_hub_that_stays_silent_is_waited_for_as_long_as_is_said(monkeypatch, hub_cache):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DataError, match=r"did not answer within 0.2 s.*HF_HUB_ETAG_TIMEOUT"):
            SharedLibrary.open("me/library", endpoint=endpoint)


def test_the_command_line_searches_a_shared_library(
    shared, parent_directory, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    line = ["search", "--library", str(shared[0]), "--profile", "h100", "--json"]
    line += ["--constraint", CONSTRAINTS, "-q"]
    assert main([*line, str(parent_directory)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["layout"] == search(shared, tmp_path, profile="h100").layout.to_dict()
    assert (tmp_path / "puzzle-run" / "child" / "config.json").is_file()
    assert main([*line, "--coupling", "0"]) == 2
    assert main([*line, "--dry-run"]) == 2
