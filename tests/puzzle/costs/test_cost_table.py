import json
import math

import pytest

from puzzle.costs.checked import layout_cost
from puzzle.costs.cost_table import Table
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from search_space import Block, Layout, ModelShape

SHAPE = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2, ffn_width=16, vocab=32)
CSV = """layer,block,attention,ffn,seconds,cycles [Mcycles]
,fixed,,,0.5,1
,,gqa2,,1,2
,,,gated16,3,4
,,,gated8,2,inf
1,,,gated16,30,40
0,gqa2+gated16,,,7,8
"""


def table(tmp_path, text, name="costs.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return Table(path)


def cost(costs, layer, label):
    return tuple(costs.block_cost(layer, Block.from_label(label), Scenario()).values())


def test_the_nearest_row_counts_block_before_sublayers_and_layer_before_all(tmp_path):
    costs = table(tmp_path, CSV)
    assert costs.resources == {"seconds": "s", "cycles": "Mcycles"}
    assert cost(costs, 0, "gqa2+gated16") == (7, 8)
    assert cost(costs, 1, "gqa2+gated16") == (31, 42)
    assert cost(costs, 0, "none+gated16") == (3, 4)
    assert cost(costs, 0, "none+gated8") == (2, math.inf)
    assert cost(costs, 1, "none+none") == (0, 0)
    assert layout_cost(costs, Layout.parent(SHAPE), Scenario()) == {"seconds": 38.5, "cycles": 51.0}


def test_json_and_csv_with_the_same_rows_give_the_same_costs(tmp_path):
    rows = [
        {"block": "fixed", "seconds": 0.5, "cycles": 1},
        {"attention": "gqa2", "seconds": 1, "cycles": 2},
        {"ffn": "gated16", "seconds": 3, "cycles": 4},
        {"layer": 1, "ffn": "gated16", "seconds": 30, "cycles": 40},
        {"layer": 0, "block": "gqa2+gated16", "seconds": 7, "cycles": 8},
    ]
    values = {"resources": {"seconds": "s", "cycles": "Mcycles"}, "rows": rows}
    same = table(tmp_path, json.dumps(values), "costs.json")
    costs = table(tmp_path, CSV)
    for layer in (0, 1):
        for label in ("gqa2+gated16", "none+gated16"):
            assert cost(same, layer, label) == cost(costs, layer, label)


def test_a_missing_block_is_named_with_what_there_is(tmp_path):
    costs = table(tmp_path, CSV)
    with pytest.raises(CostModelError, match=r"block gqa1\+gated16 of layer 1, nor .* 'gqa1'"):
        cost(costs, 1, "gqa1+gated16")
    blocks_only = table(tmp_path, "block,seconds\ngqa2+gated16,1\n")
    with pytest.raises(CostModelError, match=r"none\+none .* such as gqa2\+gated16"):
        cost(blocks_only, 0, "none+none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block,seconds\n", "no rows under a header"),
        ("block,cycles\ngqa2+none,1\n", r"write 'cycles \[its unit\]'"),
        ("block,seconds [ms]\ngqa2+none,1\n", "always means 's'"),
        ("block,seconds\ngqa2+none\n", "line 2 has 1 cells, the header 2"),
        ("block,seconds\ngqa2+none,fast\n", r"line 2: seconds of block gqa2\+none is 'fast'"),
        ("block,seconds\ngqa2+none,nan\n", "is 'nan'; give a number"),
        ("block,seconds\ngqa2+none,-1\n", "is '-1'"),
        ("block,seconds\ngqa2+none,\n", r"block gqa2\+none lacks seconds"),
        ("block,seconds\ngqa2+none,1\n\ngqa2+none,2\n", "line 4: there is a cost .* already"),
        ("block,seconds\ngqa2,1\n", "line 2: block label 'gqa2'"),
        ("block,ffn,seconds\ngqa2+none,none,1\n", "it names block and ffn; give one"),
        ("block,ffn,seconds\n,,1\n", "it names nothing"),
        ("layer,block,seconds\nfirst,gqa2+none,1\n", "line 2: invalid literal"),
        ("layer,block,seconds\n-1,gqa2+none,1\n", "layers count from 0"),
        ("block,seconds,seconds\ngqa2+none,1,1\n", "'seconds' twice"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, text, message):
    with pytest.raises(CostModelError, match=message):
        table(tmp_path, text)


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(CostModelError, match=r"ends in \.csv or \.json"):
        table(tmp_path, CSV, "costs.txt")
    with pytest.raises(CostModelError, match="cannot be read: No such file"):
        Table(tmp_path / "absent.csv")
    with pytest.raises(CostModelError, match="Expecting value"):
        table(tmp_path, "nonsense", "costs.json")
    with pytest.raises(CostModelError, match="the file is"):
        table(tmp_path, "[]", "costs.json")
