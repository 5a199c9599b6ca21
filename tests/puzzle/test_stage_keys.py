"""Every field of a stage, and all of its run that its result depends on, is in its key."""

import dataclasses

import pytest

from puzzle.choice.layout_choice import LayoutChoice, effort_named
from puzzle.costs.measured.layout_times import LayoutTimes
from puzzle.evaluation.child_quality import ChildQuality
from puzzle.library.boundary import ParentBoundary
from puzzle.library.layers import DistilledLayer, FittedLayer, LibrarySpec
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.limits.scenario import Scenario
from puzzle.scoring.exact_scores import ExactLayerScores
from puzzle.scoring.fisher_layers import FisherLayer
from puzzle.scoring.fisher_scores import FisherConfig, FisherRound
from puzzle.stages import Run
from puzzle.storage.workspace import ArtifactRef
from search_space import Block, Layout, SearchSpace
from solvers import ChoiceProblem, Distinct, Limit, Span, solve
from tests.factories.parents import opened


@pytest.fixture
def run(built):
    workspace, parent, _, cut, _ = built
    return Run(workspace=workspace, parent=parent, windows=cut)


def spec(run, **changes):
    space = SearchSpace.preset(run.parent.shape, "small")
    return LibrarySpec(**{"space": space, **changes})


def stages(run):
    """Returns stages, and for each of their fields another value."""
    shape, ref = run.parent.shape, ArtifactRef(kind="library-layer", key="a")
    own, other = Layout.parent(shape), ArtifactRef(kind="library-layer", key="b")
    thin = own.replace(0, Block.from_label("none+none"))
    small, wide = (SearchSpace.preset(shape, name) for name in ("small", "default"))
    fitted = FittedLayer(library=spec(run), layer=0)
    bld = LibraryConfig(bld=BLDConfig())
    trained = FittedLayer(library=spec(run, config=bld), layer=0)
    longer = FittedLayer(library=spec(run, config=LibraryConfig(bld=BLDConfig(tokens=5))), layer=0)
    labels = [tuple(block.label for block in small.blocks(i)) for i in range(shape.layers)]
    size = sum(map(len, labels))
    problem = ChoiceProblem(tuple(labels), [0.1 * i for i in range(size)], {"memory": [1.0] * size})
    optimum = solve(problem)
    worse = dataclasses.replace(optimum, labels=tuple(row[-1] for row in labels))
    problems = [
        dataclasses.replace(problem, **change)
        for change in (
            {"score": problem.score + 1},
            {"resources": {"memory": [2.0] * size}},
            {"resources": {"time": [1.0] * size}},
            {"offsets": {"memory": 1.0}},
            {"limits": (Limit("memory", at_most=50.0),)},
            {"pinned": {0: labels[0][0]}},
            {"distinct": 2},
            {"distinct": Distinct(3)},
            {"spans": (Span(0, 2, label="fused", score=0.5, resources={"memory": 1.0}),)},
        )
    ]
    return {
        fitted: {
            "layer": [1],
            "library": [
                spec(run, space=wide),
                spec(run, config=LibraryConfig(held_out=0.25)),
                spec(run, config=LibraryConfig(start="puzzle")),
                spec(run, config=LibraryConfig(channels="largest")),
                spec(run, around=thin),
            ],
        },
        DistilledLayer(fitted=trained): {"fitted": [longer]},
        ParentBoundary(part="fit", layer=0): {"part": ["score"], "layer": [1]},
        ExactLayerScores(layer=0, variants=ref, blocks=small.blocks(0), distance="kl"): {
            "variants": [other],
            "blocks": [small.blocks(0)[:1]],
            "distance": ["cosine"],
        },
        FisherLayer(layer=0, variants=ref, blocks=small.blocks(0), gradients=ref): {
            "variants": [other],
            "blocks": [small.blocks(0)[:1]],
            "gradients": [other],
        },
        FisherRound(space=small, layers=(ref,), config=FisherConfig(), number=0): {
            "space": [wide],
            "layers": [(other,)],
            "config": [FisherConfig(probes=3), FisherConfig(seed=1)],
            "number": [1],
        },
        ChildQuality(layout=own, layers=(ref,)): {
            "layout": [thin],
            "layers": [(other,)],
            "part": ["score"],
        },
        LayoutTimes(layout=own, scenario=Scenario(), device="cpu", clock="wall"): {
            "layout": [thin],
            "scenario": [Scenario(batch=2), Scenario(weight_dtype="float32")],
            "clock": ["cpu"],
        },
        LayoutChoice(
            problem=problem,
            optimum=optimum,
            layers=(ref,),
            space=small,
            effort=effort_named("default"),
        ): {
            "problem": problems,
            "optimum": [worse],
            "layers": [(other,)],
            "space": [wide],
            "effort": [effort_named("fast"), effort_named("thorough")],
            "held_out": [0.5],
        },
    }


# Decided by another field: a layer by its variants, a device by the identity of what it is.
DECIDED = {
    ("ExactLayerScores", "layer"),
    ("FisherLayer", "layer"),
    ("LayoutTimes", "device"),
}


def test_every_field_of_a_stage_is_in_its_key(run):
    for stage, changes in stages(run).items():
        name = type(stage).__name__
        fields = {field.name for field in dataclasses.fields(stage)}
        assert fields == set(changes) | {field for kind, field in DECIDED if kind == name}
        keys = [run.artifact(stage).key]
        for field, values in changes.items():
            keys += [
                run.artifact(dataclasses.replace(stage, **{field: value})).key for value in values
            ]
        assert len(set(keys)) == len(keys), name


def test_an_artifact_depends_on_the_tokens_that_the_tokenizer_makes(saved, tmp_path):
    def key():
        workspace, parent, space, cut = opened(saved, tmp_path)
        run = Run(workspace=workspace, parent=parent, windows=cut)
        return run.artifact(FittedLayer(library=LibrarySpec(space=space), layer=0)).key

    before = key()
    file = saved / "tokenizer.json"
    text = file.read_text()
    # Two words change places; the weights and the config stay as they are.
    file.write_text(text.replace('"w3"', '"?"').replace('"w4"', '"w3"').replace('"?"', '"w4"'))
    assert key() != before
    file.write_text(text)
    assert key() == before
