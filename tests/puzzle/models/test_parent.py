"""Claims about parents that are opened: their layers one by one, and what is refused."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from puzzle.errors import DataError, ParentError
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import windows
from tests.factories.parents import DATA, opened, parent_model, text, tokenizer


def test_streamed_layers_give_the_parents_logits(saved, tmp_path):
    _, parent, _, cut = opened(saved, tmp_path)
    x = parent.embed(cut.score)
    for index in range(parent.shape.layers):
        x = parent.run(parent.layer(index), x)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(saved)(cut.score).logits
    torch.testing.assert_close(parent.head()(x), expected, rtol=1e-5, atol=1e-5)


def test_bad_parents_and_texts_are_named(saved, tmp_path):
    workspace = Workspace(tmp_path / "run")
    broken = parent_model()
    broken.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(ParentError, match=r"layers\.1\.mlp\.up_proj\.weight' holds 1 NaN"):
        open_parent(broken, workspace=workspace, tokenizer=tokenizer())
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ParentError, match=r"'gpt2' is not supported; known families: \[.*'llama'"):
        open_parent(saved, workspace=workspace)
    with pytest.raises(DataError, match="no tokenizer"):
        windows(text(), None, DATA)
    with pytest.raises(DataError, match="too short"):
        windows("one\n\ntwo", tokenizer(), DATA)
