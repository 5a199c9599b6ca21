"""Claims about children that load without puzzle."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from puzzle.errors import ExportError
from puzzle.models.child import PuzzleForCausalLM
from puzzle.serving.writers.self_contained import add_modelling_file
from tests.factories.children import CONFIG, child_of

WITHOUT_PUZZLE = """
import sys, torch
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("puzzle", "puzzle_vllm", "search_space", "solvers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from transformers import AutoModelForCausalLM
from safetensors.torch import save_file
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokens = torch.arange(2, 14)[None]
logits = model(tokens).logits.detach()
text = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6,
                      do_sample=False, pad_token_id=0)
save_file({"logits": logits, "text": text}, sys.argv[2])
"""


@torch.no_grad()
def test_a_self_contained_child_loads_without_puzzle_and_says_the_same(tmp_path, other_process):
    labels = ["none+gated9", "linear+linear", "gqa1+none"]
    model = child_of(labels)
    model.save_pretrained(tmp_path / "child")
    add_modelling_file(tmp_path / "child")
    done = other_process.run(WITHOUT_PUZZLE, tmp_path / "child", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found, tokens = load_file(tmp_path / "out"), torch.arange(2, 14)[None]
    assert torch.equal(found["logits"], model(tokens).logits)
    text = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(found["text"], text)
    # With puzzle its own classes are used, and nothing is asked.
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    assert type(again) is PuzzleForCausalLM


def test_only_a_child_gets_a_modelling_file(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"holds no child .model_type 'llama'"):
        add_modelling_file(tmp_path)
