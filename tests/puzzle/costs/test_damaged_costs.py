"""Whatever is in a file of costs or scores, it is read, or one error names the file, and soon."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from puzzle.costs.cost_table import Table
from puzzle.costs.profile import Profile
from puzzle.costs.roofline import Roofline
from puzzle.errors import CostModelError, DataError
from puzzle.limits.scenario import Scenario
from puzzle.scoring.score_table import ScoreTable
from puzzle.scoring.scores import Score, Scores
from puzzle.storage.hashing import content_hash
from search_space import Block, ModelShape, SearchSpace
from tests.factories.damage import (
    damaged_bytes,
    damaged_files,
    damaged_values,
    is_read_or_named,
    read_or_error,
)

OFTEN = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SHAPE = ModelShape(layers=3, hidden=8, heads=2, head_dim=4, kv_heads=2, ffn_width=16, vocab=32)
TABLE = {
    "resources": {"seconds": "s", "cycles": "Mcycles"},
    "rows": [
        {"block": "fixed", "seconds": 0.5, "cycles": 1},
        {"attention": "gqa2", "seconds": 1, "cycles": 2},
        {"layer": 1, "ffn": "gated16", "seconds": 30, "cycles": 40},
        {"layer": 0, "block": "gqa2+gated16", "seconds": 7, "cycles": 8},
    ],
}
CSV = "layer,block,seconds,cycles [Mcycles]\n,fixed,0.5,1\n0,gqa2+gated16,1,inf\n"
PROFILE = Profile.take(
    Roofline("h100-sxm", SHAPE),
    SearchSpace.preset(SHAPE, "small"),
    Scenario(batch=2, prompt_tokens=8, generated_tokens=4),
    device={"name": "H100"},
).to_dict()
SCORES = Scores(({"gqa2+gated8": Score(kl=0.0), "none+none": Score(kl=0.5)},) * 2).to_dict()
NAMES = ("attention = 2 kv heads && ffn = no_op", "attention = no_op && ffn = no_op")


def score_table(layers=2):
    def entry(at):
        return {"stats": {"num_kv_heads": 2, "memory_mib": 4.0 - at}, "metrics": {"kl_div": 0.1}}

    blocks = {name: entry(at) for at, name in enumerate(NAMES)}
    return {f"layer_{layer}": blocks for layer in range(layers)}


@OFTEN
@given(damaged_files(TABLE))
def test_a_damaged_table_of_costs_is_read_or_named(tmp_path, content):
    is_read_or_named(Table, tmp_path / "costs.json", content)


@OFTEN
@given(st.one_of(damaged_bytes(CSV.encode()), st.binary(max_size=60)))
def test_a_damaged_csv_is_read_or_named(tmp_path, content):
    is_read_or_named(Table, tmp_path / "costs.csv", content)


@OFTEN
@given(damaged_files(score_table()))
def test_a_damaged_table_of_scores_is_read_or_named(tmp_path, content):
    table = is_read_or_named(ScoreTable.load, tmp_path / "scores.json", content)
    assert table is None or set(map(len, table.metrics.values())) <= {
        sum(map(len, table.labels)),
    }


@OFTEN
@given(damaged_values(SCORES))
@example({"layers": []})
@example({"layers": [{}]})
def test_damaged_scores_are_read_and_can_be_shown_or_are_refused(values):
    scores = read_or_error(Scores.from_dict, values)
    if isinstance(scores, Scores):
        assert all(type(score.method) is str for _, _, score in scores.items())
        assert f"{len(scores)} layers" in scores._repr_html_()


def sealed(values):
    try:
        return json.dumps({**values, "checksum": content_hash(values)}).encode()
    except (DataError, TypeError, ValueError):
        return json.dumps(values).encode()


@OFTEN
@given(damaged_values(PROFILE).map(sealed))
def test_a_profile_altered_with_its_checksum_is_read_whole_or_named(tmp_path, content):
    profile = is_read_or_named(Profile.load, tmp_path / "profile.json", content)
    if profile is not None:
        assert (
            profile.fixed_cost(profile.shape, profile.scenario).keys() == profile.resources.keys()
        )
        for layer, row in enumerate(profile.layers):
            for label in profile.rows[row]:
                cost = profile.block_cost(layer, Block.from_label(label), profile.scenario)
                assert cost.keys() == profile.resources.keys()
                assert all(value >= 0 for value in cost.values())


@OFTEN
@given(damaged_bytes(sealed(PROFILE)))
def test_a_profile_with_damaged_bytes_is_the_profile_or_refused(tmp_path, content):
    profile = is_read_or_named(Profile.load, tmp_path / "profile.json", content)
    assert profile is None or profile.to_dict() == PROFILE


@pytest.mark.parametrize("number", [10**12, 10**8 - 1, 10**30])
def test_the_number_of_a_layer_allocates_nothing(tmp_path, number):
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({**score_table(), f"layer_{number}": score_table()["layer_0"]}))
    with pytest.raises(DataError, match=r"scores\.json: (layer_2 missing|unknown key)"):
        ScoreTable.load(file)


def test_a_layer_written_in_two_ways_is_refused(tmp_path):
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({**score_table(), "layer_01": score_table()["layer_0"]}))
    with pytest.raises(DataError, match="layer_1 is there twice, as layer_01 too"):
        ScoreTable.load(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("long.csv", 'block,seconds\ngqa2+none,"' + "1" * 200_000 + '"\n'),
        ("null.csv", "block,seconds\ngqa2+no\0ne,1\n"),
        ("latin.csv", "block,seconds\ngqa2+n\xf6ne,1\n"),
        ("twice.json", '{"resources": {"seconds": "s"}, "rows": [], "rows": []}'),
        ("large.json", f'{{"resources": {{"seconds": "s"}}, "rows": [{{"a": {"9" * 5000}}}]}}'),
        ("unit.json", '{"resources": {"seconds": ["s"]}, "rows": [{"block": "fixed"}]}'),
    ],
)
def test_tables_that_the_standard_library_chokes_on_are_named(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CostModelError, match=name):
        Table(tmp_path / name)


@pytest.mark.parametrize("name", ["layers", "heads"])
def test_a_count_that_would_be_counted_through_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is above 65,536"):
        ModelShape(**{**SHAPE.to_dict(), name: 10**12})
