"""Claims about checking a child in an engine, with transformers and with engines that fail."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

from puzzle import serve_check
from puzzle.errors import ExportError
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import config_from_layout
from puzzle.models.families import LLAMA
from puzzle.serving.check import EngineRun, compare_runs, run_engine
from puzzle.serving.token_ids import TokenIds
from search_space import Block, Layout

CONFIG = LlamaConfig(
    num_hidden_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=64,
    vocab_size=97,
    bos_token_id=1,
    eos_token_id=2,
)


@pytest.fixture
def child(tmp_path):
    layout = Layout.parent(LLAMA.shape(CONFIG)).replace(0, Block.from_label("none+gated32"))
    torch.manual_seed(0)
    model = PuzzleForCausalLM(config_from_layout(CONFIG, layout))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "child")
    return tmp_path / "child"


def test_a_child_says_the_same_in_a_process_of_transformers_and_its_speed_is_measured(child):
    found = serve_check(child, engine="transformers", prompt_tokens=8, repeats=1)
    assert found.passed
    assert found.agreement == 1.0
    assert found.max_difference < 1e-4
    assert found.greedy_equal
    assert found.prefill > 0
    assert found.decode > 0
    assert found.version.startswith("transformers ")
    assert json.loads(json.dumps(found.to_dict()))["positions"] == 63
    assert "same as torch at 100.0% of 63 positions" in str(found)


def test_answers_that_differ_do_not_pass_and_text_is_compared_up_to_its_end(child):
    ids = TokenIds(child, "", "")
    right = EngineRun(version="torch", greedy=(5, 2), top=(((3, -0.1), (4, -3.0)),) * 50)
    wrong = EngineRun(version="x", greedy=(5, 2, 9), top=(((4, -0.4), (3, -1.1)), *right.top[1:]))
    found = compare_runs("x", child, wrong, right, ids)
    assert found.agreement == 0.98
    assert not found.passed
    assert found.max_difference == pytest.approx(2.6)
    assert found.greedy_equal
    assert "DIFFERS from torch" in str(found)
    assert not compare_runs("x", child, right, replace(right, greedy=(4,)), ids).greedy_equal


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "vlm"}, "did you mean 'vllm'"),
        ({"engine": "sglang"}, "sglang cannot be run from here; export for it"),
        ({"engine": "vllm"}, r"vllm is not installed .* run: pip install vllm"),
        ({"engine": "transformers", "python": "/no/python"}, "cannot be started"),
        ({"engine": "transformers", "quantisation": "q8_0"}, "is for llama.cpp"),
        ({"engine": "llama.cpp"}, "has no tokenizer|llama.cpp is not installed"),
    ],
)
def test_a_missing_engine_or_wrong_option_is_said(child, options, message):
    with pytest.raises(ExportError, match=message):
        serve_check(child, **options)


def test_a_crashing_and_a_hanging_engine_are_reported_with_their_last_words(tmp_path):
    crash = tmp_path / "run_crash.py"
    crash.write_text("import os, sys; print('GGML_ASSERT(buffer)', flush=True); os.abort()")
    with pytest.raises(ExportError, match=r"exit code -6:\nGGML_ASSERT\(buffer\)"):
        run_engine(crash, {})
    hang = tmp_path / "run_hang.py"
    hang.write_text("import time; time.sleep(60)")
    with pytest.raises(ExportError, match="run_hang did not finish within 1 seconds"):
        run_engine(hang, {}, timeout=1)
