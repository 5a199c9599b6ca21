"""Claims about which blocks a child has: healed ones, or the library's where these are better."""

import dataclasses
import logging

import torch

from puzzle.choice.layout_kl import measured_kl
from puzzle.library.build import heal
from puzzle.limits.scenario import Workload
from puzzle.pipeline.steps import Steps
from puzzle.stages import Run
from search_space import Block, Layout
from tests.factories.parents import SCENARIO


def test_healing_that_makes_a_child_worse_is_not_used(built, caplog):
    """As it does in some families; here, because it is fitted to one token, repeated."""
    workspace, parent, space, cut, library = built
    layout = Layout(parent.shape, (Block.from_label("gqa1+gated32"),) * parent.shape.layers)
    dull = dataclasses.replace(cut, fit=torch.full_like(cut.fit, 7))
    good = heal(parent, layout, cut, workspace=workspace)
    bad = heal(parent, layout, dull, workspace=workspace)
    kls = [measured_kl(each, layout, cut.score).kl for each in (good, library, bad)]
    assert kls[0] < kls[1] < kls[2]
    run = Run(workspace=workspace, parent=parent, windows=cut)
    steps = Steps(space=space, workload=Workload.of(SCENARIO))
    with caplog.at_level(logging.WARNING):
        assert steps.nearer(run, layout, good, library) is good
        assert not caplog.text
        assert steps.nearer(run, layout, bad, library) is library
    assert "healing makes this child worse" in caplog.text
