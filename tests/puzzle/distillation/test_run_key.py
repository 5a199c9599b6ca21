"""A distillation is taken up only if nothing that its child depends on has changed."""

import copy
import dataclasses

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.distilling import distill
from puzzle.distillation.loop import TrainingText
from puzzle.distillation.run_key import run_key, tokenizer_key
from puzzle.models.pretrained import load_tokenizer
from puzzle.models.trainable import open_model
from puzzle.storage.workspace import Workspace
from puzzle.text.packing import PackedStream
from tests.factories.distillation import child_model, parent_model, settings, tokens
from tests.factories.parents import save_parent

# Of each setting, another value; None for what does not change the result.
OTHER = {
    "losses": {"kl": 1.0},
    "tokens": 2048,
    "length": 32,
    "batch": 32,
    "micro_batch": None,
    "optimizer": "adamw",
    "train_embeddings": False,
    "learning_rate": 2e-4,
    "warmup": 0.1,
    "final_share": 0.2,
    "weight_decay": 0.1,
    "betas": (0.9, 0.99),
    "max_grad_norm": 2.0,
    "mixed_precision": "no",
    "gradient_checkpointing": None,
    "vocab_chunk": None,
    "shard": None,
    "boundaries": ((0, 0),),
    "thinking": "on",
    "system_prompts": {"on": "think", "off": "answer"},
    "shuffle_buffer": 10,
    "checkpoint_every": None,
    "keep_checkpoints": None,
    "async_checkpoints": None,
    "timeout_minutes": None,
    "evaluate_every": None,
    "validation_windows": 8,
    "log_every": None,
    "seed": 1,
}


def stream(rows):
    return PackedStream(
        rows, None, length=16, seed=0, thinking="both", buffer=10, vocab=int(rows.max()) + 1
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("key")
    workspace = Workspace(folder / "run")
    saved = save_parent(folder / "parent")
    return {
        "child": open_model(child_model(), workspace),
        "parent": open_model(parent_model(), workspace),
        "config": DistillConfig(),
        "text": TrainingText(
            stream=stream(tokens()), validation=tokens(4), tokenizer=load_tokenizer(saved)
        ),
        "bf16": False,
    }


@pytest.mark.parametrize("name", OTHER)
def test_every_setting_that_changes_the_result_is_in_the_key(inputs, name):
    assert set(OTHER) == {field.name for field in dataclasses.fields(DistillConfig)}
    if OTHER[name] is not None:
        changed = dataclasses.replace(inputs["config"], **{name: OTHER[name]})
        assert run_key(**{**inputs, "config": changed}) != run_key(**inputs)


def test_every_other_input_is_in_the_key(inputs, tmp_path):
    def rotated(model):
        other = copy.deepcopy(model)
        other.config.rope_parameters = {"rope_type": "default", "rope_theta": 5.0}
        return other

    def shifted(model):
        next(model.parameters()).data[0, 0] += 1e-3
        return model

    workspace = Workspace(tmp_path)
    texts = [
        {"validation": None},
        {"validation": tokens(4, seed=9)},
        {"validation": tokens(3)},
        {"tokenizer": None},
        {"stream": stream(tokens(seed=9))},
        {"stream": stream(tokens(39))},
    ]
    changes = {
        "bf16": [True],
        "text": [dataclasses.replace(inputs["text"], **change) for change in texts],
    }
    for side, model in (("child", child_model), ("parent", parent_model)):
        changes[side] = [
            open_model(rotated(model()), workspace),
            open_model(shifted(model()), workspace),
            open_model(model().to(torch.bfloat16), workspace),
        ]
    assert changes.keys() | {"config"} == inputs.keys()
    keys = [run_key(**inputs)]
    for name, others in changes.items():
        keys += [run_key(**{**inputs, name: other}) for other in others]
    assert all(keys.count(key) == 1 for key in keys)
    assert run_key(**inputs) == keys[0]


def test_what_a_tokenizer_does_is_its_key_and_what_it_did_last_is_not(inputs):
    tokenizer = copy.deepcopy(inputs["text"].tokenizer)
    key = tokenizer_key(tokenizer)
    assert key == tokenizer_key(inputs["text"].tokenizer)
    tokenizer("some text", truncation=True, max_length=2)
    assert tokenizer_key(tokenizer) == key
    tokenizer.chat_template = "{{ messages }}"
    templated = tokenizer_key(tokenizer)
    tokenizer.add_tokens(["a new token"])
    longer = tokenizer_key(tokenizer)
    tokenizer.add_special_tokens({"eos_token": "a new token"})
    assert len({key, templated, longer, tokenizer_key(tokenizer)}) == 4
    assert isinstance(tokenizer, PreTrainedTokenizerFast)


def test_another_validation_text_is_measured_and_not_read_from_a_finished_run(tmp_path):
    parent, child = parent_model(), child_model()
    config = settings(tokens=16 * 8 * 2, checkpoint_every=1)

    def run(seed):
        return distill(
            child, parent, tokens(), config=config, validation=tokens(3, seed=seed), out=tmp_path
        )

    first, again, other = run(5), run(5), run(6)
    assert again.evaluations == first.evaluations
    assert other.evaluations != first.evaluations
    assert [entry["loss"] for entry in other.history] == [entry["loss"] for entry in first.history]
