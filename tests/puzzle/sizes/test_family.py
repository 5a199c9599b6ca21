"""Families: what a search of each size alone gives, at the cost of one search; and nested ones."""

import itertools
import json

import pytest

import puzzle
from puzzle.cli.entry import main
from puzzle.report.outcomes import constraint_outcomes
from search_space.counting import attention_parameters, ffn_parameters
from tests.factories.parents import text
from tests.robustness.tiny_search import DATA, write_inputs

SCENARIO = puzzle.Scenario(batch=2, prompt_tokens=4, generated_tokens=4)
COMMON = {
    "scenario": SCENARIO,
    "effort": "fast",
    "hardware": "roofline:h100-sxm",
    "device": "cpu",
    "precision": "float32",
    "data": DATA,
}
# On its own, the smaller one would do without attention, and the larger one without FFNs.
CROSSED = {"nano": "kv_cache <= 0.5x", "super": "parameters <= 0.6x"}


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    write_inputs(folder)
    return folder / "parent"


def artifacts(run):
    return {str(path.parent.relative_to(run)) for path in run.glob("*/*/manifest.json")}


def kinds(run, kind):
    return sum(name.startswith(f"{kind}/") for name in artifacts(run))


def test_each_child_is_that_of_a_search_alone_and_all_stages_run_once(parent, tmp_path):
    own = puzzle.Scenario(batch=1, prompt_tokens=6, generated_tokens=2)
    sizes = {
        "nano": puzzle.Size(constraints="parameters <= 0.7x", scenario=own),
        "super": puzzle.Size(constraints={"parameters": "0.9x"}, hardware="roofline:a100-sxm"),
    }
    family = puzzle.family(parent, text(count=12), sizes=sizes, out=tmp_path / "all", **COMMON)
    before = artifacts(tmp_path / "all")
    for name, size in sizes.items():
        alone = {
            **COMMON,
            "constraints": size.constraints,
            "scenario": size.scenario or SCENARIO,
            "hardware": size.hardware or COMMON["hardware"],
        }
        again = puzzle.search(parent, text(count=12), out=tmp_path / "all", **alone)
        assert again.to_dict() | {"solution": None} == family[name].to_dict() | {"solution": None}
        assert again.solution.choices == family[name].solution.choices
    assert artifacts(tmp_path / "all") == before, "a search alone builds nothing that is missing"
    first = puzzle.search(parent, text(count=12), out=tmp_path / "one", **alone)
    assert first.layout == family["super"].layout
    layers, all_, one = first.layout.shape.layers, tmp_path / "all", tmp_path / "one"
    assert kinds(all_, "fisher") == kinds(one, "fisher") > 0
    # Only the last fits, to each child's own stream, are those of a child.
    assert kinds(all_, "library-layer") == kinds(one, "library-layer") + layers


def halves(shape, block):
    kv = block.attention.kv_heads or 0
    return attention_parameters(shape, block.attention), kv, ffn_parameters(shape, block.ffn)


@pytest.mark.parametrize(
    "effort", ["fast", pytest.param("default", marks=pytest.mark.slow)]
)  # fmt: skip
def test_a_nested_family_is_nested_and_says_what_that_costs(parent, tmp_path, effort):
    arguments = {**COMMON, "effort": effort, "out": tmp_path / "run"}
    family = puzzle.family(parent, text(count=12), sizes=CROSSED, nested=True, **arguments)
    shape = family["nano"].layout.shape
    for small, large in itertools.pairwise(family.values()):
        for here, there in zip(small.layout.blocks, large.layout.blocks, strict=True):
            pairs = zip(halves(shape, here), halves(shape, there), strict=True)
            assert all(own <= above for own, above in pairs)
    for child in family.values():
        assert not [each.text for each in constraint_outcomes(child) if each.met is False]
    free = puzzle.family(parent, text(count=12), sizes=CROSSED, **arguments)
    scores = {name: child.solution.objective for name, child in free.items()}
    for name, child in family.items():
        assert family.price[name] == pytest.approx(child.solution.objective - scores[name])
        assert child.solution.bound == pytest.approx(scores[name])
    assert sum(family.price.values()) > 0
    page = family.report(tmp_path / "page.html").read_text()
    assert "No sublayer of a child takes more bytes" in page


def test_sizes_that_cannot_be_are_refused_by_name(parent, tmp_path):
    arguments = {**COMMON, "out": tmp_path / "run"}
    for sizes, more, error, words in (
        ({"nano": "memory <= 1x"}, {}, puzzle.PuzzleError, "two or more"),
        ({"a b": "memory <= 1x", "c": "memory <= 1x"}, {}, puzzle.PuzzleError, "'a b'"),
        ({"a": "memory <= 1x", "b": "size <= 3"}, {}, puzzle.PuzzleError, "size 'b'"),
        (CROSSED, {"nested": True, "distinct": 2}, puzzle.PuzzleError, "distinct"),
        (
            {"nano": "parameters <= 0.7x", "super": "parameters <= 0.01x"},
            {},
            puzzle.InfeasibleError,
            "size 'super'",
        ),
        (
            {"nano": "kl <= 0.0000001", "super": "parameters <= 0.6x"},
            {"nested": True},
            puzzle.InfeasibleError,
            "nano, super are nested",
        ),
    ):
        with pytest.raises(error, match=words):
            puzzle.family(parent, text(count=12), sizes=sizes, **arguments, **more)


def test_the_command_line_saves_each_child_and_one_page(parent, tmp_path, capsys):
    arguments = [
        *("family", str(parent), "--text", str(parent.parent / "text.jsonl"), "--json", "--nested"),
        *("--size", "nano=parameters <= 0.7x", "--size", "super=parameters <= 0.9x"),
        *("--hardware", "roofline:h100-sxm", "--device", "cpu", "--dtype", "float32"),
        *("--size-hardware", "super=roofline:a100-sxm", "--effort", "fast", "--quiet"),
        *("--batch", "2", "--prompt-tokens", "4", "--generated-tokens", "4", "--window", "8"),
        *("--fit-tokens", "64", "--score-tokens", "16", "--validation-tokens", "16"),
        *("--out", str(tmp_path / "run")),
    ]
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["children"]) == ["nano", "super"]
    assert answer["nested"]["status"] == "optimal"
    saved = tmp_path / "run" / "children"
    compared = puzzle.compare({name: saved / name for name in answer["children"]})
    assert compared.figures()["nano"]["parameters"] <= 0.7
    assert (saved / "super" / "README.md").is_file()
    page = (tmp_path / "run" / "family.html").read_text()
    assert "A nested family of 2 children" in page
    assert main(["family", str(parent), "--size", "nano"]) == 2
    assert "NAME=CONSTRAINTS" in capsys.readouterr().err


@pytest.mark.slow
def test_the_next_larger_child_teaches_or_the_parent(parent, tmp_path):
    sizes = {"nano": "parameters <= 0.7x", "super": "parameters <= 0.9x"}
    family = puzzle.family(parent, text(count=12), sizes=sizes, out=tmp_path / "run", **COMMON)
    config = puzzle.DistillConfig(tokens=64, length=8, batch=2, micro_batch=2)
    kept = {}
    for teacher in ("larger", "parent"):
        out = tmp_path / teacher
        done = family.distill(text(count=12), teacher=teacher, config=config, out=out)
        assert list(done) == ["nano", "super"]
        kept[teacher] = {name: done[name].evaluations[0]["kl"] for name in done}
        assert all((out / name / "child" / "config.json").is_file() for name in done)
    assert kept["larger"]["super"] == kept["parent"]["super"]
    # Before training, the child is as far from another teacher as that is from the parent.
    assert kept["larger"]["nano"] != kept["parent"]["nano"]
    with pytest.raises(puzzle.PuzzleError, match="larger, parent"):
        family.distill(text(count=12), teacher="nobody")
