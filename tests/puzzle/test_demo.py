"""Claims about the real SmolLM2-135M-Instruct; skipped where the demo packages are absent."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import puzzle
from puzzle.demo import demo_model, demo_text
from puzzle.errors import PuzzleError
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import Layout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    try:
        source, text = demo_model(), demo_text()
    except PuzzleError as error:
        pytest.skip(str(error))
    workspace = Workspace(tmp_path_factory.mktemp("run"))
    parent = open_parent(source, workspace=workspace, dtype="float32")
    data = DataConfig(window=64, fit_tokens=512, score_tokens=128, validation_tokens=128)
    return workspace, parent, windows(text, parent.tokenizer, data)


@torch.no_grad()
def test_the_unpacked_gguf_is_a_plain_checkpoint_with_the_same_logits(opened):
    workspace, parent, cut = opened
    (directory,) = (workspace.root / "parent").iterdir()
    assert "quantization_config" not in json.loads((directory / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    x = parent.embed(cut.score)
    for index in range(parent.shape.layers):
        x = parent.run(parent.layer(index), x)
    torch.testing.assert_close(parent.head()(x), model(cut.score).logits, rtol=1e-3, atol=1e-3)
    loss = model(cut.validation, labels=cut.validation).loss
    # A model that reads English; guessing among its 49,152 tokens would be 10.8 nats.
    assert loss < 4.5


@torch.no_grad()
def test_the_identity_child_of_the_real_model_knows_paris(opened):
    workspace, parent, _ = opened
    own = Layout.parent(parent.shape)
    child = puzzle.models.assemble(parent.config, own, parent.state_dict(), dtype=torch.float32)
    tokens = parent.tokenizer("The capital of France is", return_tensors="pt")
    answer = child.generate(**tokens, max_new_tokens=6, do_sample=False)
    assert "Paris" in parent.tokenizer.decode(answer[0])
    (directory,) = (workspace.root / "parent").iterdir()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert torch.equal(model(tokens.input_ids).logits, child(tokens.input_ids).logits)
