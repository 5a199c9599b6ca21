"""Claims about children of Llama-like families in unmodified SGLang, as saved, against torch."""

import json
import logging
import os
import subprocess

import pytest
import torch

from search_space import Block, Layout
from tests.factories import sglang_answers
from tests.factories.families import family_child

logger = logging.getLogger(__name__)
# SGLang lives in an environment of its own, with puzzle installed.
SGLANG_PYTHON = os.environ.get("PUZZLE_SGLANG_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SGLANG_PYTHON is None, reason="PUZZLE_SGLANG_PYTHON is not set"),
]
TOKENS = 8
LABELS = [
    "none+gated64",
    "gqa1h2+none",
    "linear+gated96",
    "gqa1+linear",
    "none+none",
    "gqa2+gated34",
    "linear+linear",
    "gqa1+gated128",
]
SIZES = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32, "num_hidden_layers": 8}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "smollm3"])
@torch.no_grad()
def test_sglang_serves_the_child_as_it_was_saved(family, tmp_path):
    def layout_of(parent):
        return Layout(parent.shape, tuple(map(Block.from_label, LABELS)))

    model = family_child(family, layout_of, **SIZES)
    model.save_pretrained(tmp_path / "child")
    prompts = torch.randint(96, (2, 60), generator=torch.Generator().manual_seed(0)).tolist()
    request = {"model": str(tmp_path / "child"), "prompts": prompts, "tokens": TOKENS}
    source, target = tmp_path / "request.json", tmp_path / "answer.json"
    source.write_text(json.dumps(request))
    command = [SGLANG_PYTHON, "-P", sglang_answers.__file__, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for prompt, answer in zip(prompts, json.loads(target.read_text()), strict=True):
        ids = torch.tensor([[*prompt, *answer["tokens"]]])
        logs = torch.log_softmax(model(ids).logits[0, :-1], -1)
        assert logs[len(prompt) - 1 :].argmax(-1).tolist() == answer["tokens"]
        assert len(answer["scores"]) == len(logs)
        off = max(
            abs(log - float(row[int(token)]))
            for row, scores in zip(logs, answer["scores"], strict=True)
            for token, log in scores.items()
        )
        logger.info("%s: within %.1e", family, off)
        assert off < 1e-3
