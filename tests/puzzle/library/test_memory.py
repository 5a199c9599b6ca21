"""Claims about memory: of the fits of a layer, and of scoring its blocks."""

from contextlib import contextmanager

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from puzzle.estimates import Sizes
from puzzle.hardware.rates import Rates
from puzzle.library import elimination
from puzzle.library.build import build_library
from puzzle.library.fitting import Fitting
from puzzle.library.layer_fit import LayerFit
from puzzle.library.layers import FittedLayer, LibrarySpec
from puzzle.library.least_squares import Moments
from puzzle.library.work import fit_memory
from puzzle.limits.scenario import Scenario
from puzzle.models.boundaries import MappedTensors
from puzzle.models.parent import open_parent
from puzzle.scoring.gradient_sweep import GradientSweep
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from puzzle.text.data_config import DataConfig
from puzzle.text.windows import windows
from search_space import SearchSpace
from tests.factories.live_tensors import LiveTensors
from tests.factories.parents import text, tokenizer

# Llama 3.1 405B, a sixty-fourth as wide: squares of sizes are 4096 times smaller.
SCALE, SQUARE = 64, 64**2
DATA = DataConfig(window=8, fit_tokens=512, score_tokens=16, validation_tokens=16)


def opened(place, **sizes):
    config = LlamaConfig(
        num_hidden_layers=2, vocab_size=len(tokenizer()), tie_word_embeddings=True, **sizes
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(place / "parent")
    workspace = Workspace(place / "run")
    parent = open_parent(
        place / "parent", workspace=workspace, tokenizer=tokenizer(), dtype="float32"
    )
    cut = windows(text(count=120), parent.tokenizer, DATA)
    return Run(workspace=workspace, parent=parent, windows=cut)


@contextmanager
def off_the_device(self):
    """As `Moments.set_aside` on a GPU: what is in the host's memory is not counted."""
    lower = self._lower.numpy().copy()
    self._lower = None
    yield
    self._lower = torch.from_numpy(lower).clone()


@pytest.mark.slow
def test_the_fits_of_a_layer_of_405b_take_no_more_than_70_gb(tmp_path, monkeypatch):
    run = opened(
        tmp_path,
        hidden_size=16384 // SCALE,
        intermediate_size=53248 // SCALE,
        num_attention_heads=16,
        num_key_value_heads=8,
    )
    # These do not grow with the model.
    monkeypatch.setattr(elimination, "CHUNK", 8)
    monkeypatch.setattr(elimination, "BLOCK", 4)
    monkeypatch.setattr(elimination, "CANDIDATES", 8)
    monkeypatch.setattr(Moments, "set_aside", off_the_device)
    space = SearchSpace.preset(run.parent.shape, "default")
    stage = FittedLayer(library=LibrarySpec(space=space), layer=0)
    with run.workspace.scratch() as scratch, torch.no_grad():
        layer, streams = stage.streams(run, scratch)
        fits = Fitting(run.parent, 0, layer, streams, stage.library.config)
        fits.tensors = MappedTensors(run.workspace.root)
        with LiveTensors() as live:
            LayerFit(fits).build(space.blocks(0))
    sizes = Sizes(
        shape=run.parent.shape,
        data=DATA,
        scenario=Scenario(weight_dtype="float32"),
        rates=Rates(model=1.0, fits=1.0, bandwidth=1.0),
        # LAPACK inverts in place; the copy that a GPU needs besides is not seen here.
        on_gpu=False,
    )
    assert live.peak <= 70e9 / SQUARE
    estimate = fit_memory(sizes, stage.library.config)
    assert live.peak == pytest.approx(estimate, rel=0.15)


def test_scores_hold_less_than_three_layers_of_variants(tmp_path):
    run = opened(
        tmp_path,
        hidden_size=64,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    space = SearchSpace.preset(run.parent.shape, "default")
    assert len(space.blocks(0)) > 30
    library = build_library(run.parent, space, run.text, workspace=run.workspace)
    with run.workspace.scratch() as scratch:
        sweep = GradientSweep(library, run.text.score, scratch, 1)
        sweep.forward()
        sweep.probe(0)
        with LiveTensors() as live:
            sweep.backward(space)
    layer = sum(tensor.nbytes for tensor in run.parent.layer_tensors(0).values())
    # The parent's own layer is read from its file.
    assert live.peak + layer <= 3 * layer
