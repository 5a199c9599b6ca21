"""Claims about alignment by TRL: both modes keep their form, and it is seen where they do not."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from puzzle.errors import SettingError
from puzzle.posttraining.alignment import align
from puzzle.posttraining.mode_format import format_shares
from puzzle.posttraining.reinforcement import rl
from puzzle.posttraining.stage_settings import PairSettings
from puzzle.posttraining.supervised import sft
from puzzle.text.switch import add_thinking_switch
from tests.factories.posttraining import LAYOUTS, character_tokenizer, save_pair

trl = pytest.importorskip("trl", reason="TRL is in the extra [posttrain], which is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TOKENIZER = add_thinking_switch(character_tokenizer())
QUESTIONS = [f"{letter}?" for letter in "abcdefgh"]
PAIRS = [{"prompt": each, "completion": "<think>so</think>ok"} for each in QUESTIONS]
PREFERENCES = [
    {"prompt": each, "chosen": "<think>so</think>ok", "rejected": "<think>so</think>no"}
    for each in QUESTIONS
]
FEW = {
    "max_steps": 4,
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-4,
    "disable_tqdm": True,
    "bf16": False,
}


SYSTEM = {"on": "think", "off": "answer"}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A child that answers in the form of both modes."""
    return taught_in(tmp_path_factory.mktemp("taught"), TOKENIZER)


def taught_in(folder, tokenizer, **settings):
    save_pair(folder, "llama", LAYOUTS["mixed"])
    return sft(
        folder / "child",
        PAIRS,
        out=folder / "sft",
        tokenizer=tokenizer,
        settings=PairSettings(cut_share=0, **settings),
        training={**FEW, "max_steps": 60, "per_device_train_batch_size": 16, "learning_rate": 1e-2},
    )


def align_few(taught, tmp_path, data, **how):
    training = {**FEW, **how.pop("training", {})}
    return align(taught, data, out=tmp_path, probe_tokens=40, training=training, **how)


@pytest.mark.parametrize("method", ["dpo", "apo_zero", "kto"])
def test_both_modes_keep_their_form_after_alignment(taught, tmp_path, method):
    data = PREFERENCES
    if method == "kto":
        data = [
            {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"}
            for row in PREFERENCES
            for name in ("chosen", "rejected")
        ]
    result = align_few(taught, tmp_path, data, method=method)
    for mode in ("on", "off"):
        assert result.figures[f"in form before, thinking {mode}"] == 1
        assert result.figures[f"in form after, thinking {mode}"] == 1
    assert result.figures["rows, thinking on"] == result.figures["rows, thinking off"] == len(data)
    before, after = (
        AutoModelForCausalLM.from_pretrained(each).state_dict()
        for each in (taught.path, result.path)
    )
    assert not all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert format_shares(result, QUESTIONS, max_tokens=16) == {"on": 1, "off": 1}
    assert align_few(taught, tmp_path, data, method=method) == result


def test_an_alignment_that_breaks_the_form_is_seen(taught, tmp_path):
    # Preferred is what is no form of any mode, at steps that are far too long.
    worse = [{"prompt": q, "chosen": "no?no?no", "rejected": "ok"} for q in QUESTIONS]
    how = {"training": {"max_steps": 20, "learning_rate": 0.3}}
    result = align_few(taught, tmp_path, worse, **how)
    assert result.figures["in form before, thinking on"] == 1
    assert min(result.figures[f"in form after, thinking {mode}"] for mode in ("on", "off")) < 1


def test_a_system_prompt_is_the_switch_of_every_stage(tmp_path):
    taught = taught_in(tmp_path, character_tokenizer(), system_prompts=SYSTEM)
    trained = rl(
        taught,
        [{"question": each, "answer": "ok"} for each in QUESTIONS],
        out=tmp_path / "rl",
        system_prompts=SYSTEM,
        training={**FEW, "num_generations": 4, "max_completion_length": 40},
    )
    assert trained.figures["prompts"] == 16
    # An answer without a thought is right only where the prompt is known to ask for none: were it
    # not, half of all answers would be wrong.
    logged = [each["rewards/correct/mean"] for each in trained.history if "reward" in each]
    assert sum(logged) / len(logged) > 0.6
    aligned = align_few(
        trained, tmp_path / "align", PREFERENCES, method="apo_zero", system_prompts=SYSTEM
    )
    for mode in ("on", "off"):
        assert aligned.figures[f"rows, thinking {mode}"] == 8
        assert aligned.figures[f"in form before, thinking {mode}"] == 1
        assert aligned.figures[f"in form after, thinking {mode}"] == 1


def test_rloo_takes_a_reward_model_and_no_other_method_does(taught, tmp_path):
    scorer = AutoModelForSequenceClassification.from_pretrained(taught.path, num_labels=1)
    scorer.save_pretrained(tmp_path / "scorer")
    TOKENIZER.save_pretrained(tmp_path / "scorer")
    training = {"num_generations": 4, "max_completion_length": 8, "max_steps": 2}
    result = align_few(
        taught,
        tmp_path / "out",
        [{"prompt": each} for each in QUESTIONS],
        method="rloo",
        reward_model=str(tmp_path / "scorer"),
        training=training,
    )
    assert result.figures["rows"] == 16
    assert any("reward" in entry for entry in result.history)
    for how in ({"method": "rloo"}, {"reward_model": "x"}, {"method": "ppo"}):
        with pytest.raises(SettingError):
            align_few(taught, tmp_path / "out", PREFERENCES, **how)
