"""Claims about choosing fused layers, on a tiny child."""

import itertools

import pytest
import torch

from puzzle.costs.checked import layout_cost
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.costs.protocol import RESOURCES, counted_cost
from puzzle.errors import ConstraintError
from puzzle.evaluation.text_quality import quality
from puzzle.fusion.choice import choose_fusion
from puzzle.fusion.fused import fuse_child
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import layout_from_config
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from search_space import Block, Fusion, SearchSpace, counting
from search_space.fusion import candidate_runs
from solvers import InfeasibleError, Limit
from tests.factories.fused_children import child_of, tokens
from tests.factories.parents import parent_model, tokenizer

LABELS = ["gqa2+gated48", *["none+gated48"] * 4, "gqa1+gated16"]
SCENARIO = Scenario(batch=2, prompt_tokens=8, generated_tokens=8)


class PerLayer:
    """A device on which a layer costs 1 ms whatever it holds, plus its counted sizes."""

    resources = RESOURCES

    def block_cost(self, layer, block, scenario):
        used = counted_cost(self.shape, block, scenario)
        return {**used, "seconds": 1e-3, "prefill_seconds": 5e-4, "decode_seconds": 5e-4}

    def fixed_cost(self, shape, scenario):
        used = {"parameters": float(counting.fixed_parameters(shape)), "memory": 0.0}
        return {name: used.get(name, 0.0) for name in RESOURCES}

    def __init__(self, shape):
        self.shape = shape


def choose(child, layers, **options):
    costs = PerLayer(layout_from_config(child.config).shape)
    limits = [Limit("seconds", at_most=layers * 1e-3)]
    return choose_fusion(
        child, costs, SCENARIO, tokens(), limits=limits, keep_last=False, **options
    )


def cover(first, last):
    """Every way to split layers first to last into runs, single layers included."""
    if first > last:
        yield []
    for end in range(first, last + 1):
        for rest in cover(end + 1, last):
            yield [(first, end), *rest]


@pytest.mark.parametrize("layers", [5, 4, 3])
def test_the_chosen_fusion_is_the_best_of_all_by_summed_kl_within_the_limit(layers):
    child = child_of(LABELS)
    layout = layout_from_config(child.config)
    chosen = choose(child, layers)
    kls = {}
    for first, last in itertools.combinations(range(1, 5), 2):
        fused = fuse_child(child, Fusion.of(layout, [(first, last)]))
        kls[first, last] = quality(child, fused, tokens(), progress=False).kl
    best = min(
        sum(kls.get(run, 0.0) for run in runs) for runs in cover(1, 4) if len(runs) + 2 <= layers
    )
    assert chosen.solution.objective == pytest.approx(best, rel=1e-6)
    fused = fuse_child(child, chosen.fusion)
    assert len(fused.model.layers) <= layers
    cost = layout_cost(PerLayer(layout.shape), layout_from_config(fused.config), SCENARIO)
    assert cost["seconds"] == pytest.approx(chosen.solution.resources["seconds"])


def test_nothing_is_fused_where_nothing_has_to_be():
    assert choose(child_of(LABELS), 6).fusion is None


def test_what_cannot_be_reached_or_fused_is_said():
    with pytest.raises(InfeasibleError, match="seconds"):
        choose(child_of(LABELS), 2)
    with pytest.raises(ConstraintError, match=r"no layers of Layout.* can be fused"):
        choose(child_of(["gqa2+gated48", "none+gated48"]), 2)


def test_fused_blocks_are_measured_when_asked_for(tmp_path):
    workspace = Workspace(tmp_path)
    parent = open_parent(
        parent_model(), workspace=workspace, tokenizer=tokenizer(), dtype="float32"
    )
    space = SearchSpace.uniform(parent.shape, attentions=["none"])
    scenario = Scenario(batch=2, prompt_tokens=8, generated_tokens=8, weight_dtype="float32")
    label = "none+gated64"
    child = child_of(["gqa2+gated48", *["none+gated48"] * 3])
    runs = candidate_runs(layout_from_config(child.config), keep_last=False)
    wide = {run.block for run in runs} | {Block.from_label("none+gated192")}
    costs = MeasuredCosts.measure(parent, space, scenario, workspace=workspace, extra=wide)
    for block in wide:
        assert costs.block_cost(0, block, scenario)["seconds"] > 0
    plain = MeasuredCosts.measure(parent, space, scenario, workspace=workspace)
    assert plain.block_cost(0, Block.from_label(label), scenario)["seconds"] > 0
    with pytest.raises(KeyError):
        plain.block_cost(0, Block.from_label("none+gated192"), scenario)
    assert torch.get_default_dtype() == torch.float32
