"""Claims about stages of post-training, run by TRL on tiny children."""

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from puzzle.errors import DataError, SettingError, WorkspaceError
from puzzle.posttraining import stage_run
from puzzle.posttraining.reinforcement import require_whole_groups, rl
from puzzle.posttraining.rewards import Correct, Formed
from puzzle.posttraining.supervised import sft
from puzzle.text.switch import add_thinking_switch
from tests.factories.posttraining import LAYOUTS, character_tokenizer, save_pair

trl = pytest.importorskip("trl", reason="TRL is in the extra [posttrain], which is not installed")
peft = pytest.importorskip("peft", reason="peft is in the extra [posttrain]; it is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TOKENIZER = add_thinking_switch(character_tokenizer())
PAIRS = [
    {"prompt": f"{n}+1=", "completion": f"<think>{n}+1={n + 1}</think>{n + 1}"} for n in range(8)
]
FEW = {
    "max_steps": 4,
    "save_steps": 2,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder, "llama", LAYOUTS["mixed"])
    return folder


def weights(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Stop(TrainerCallback):
    """Ends a run as a kill would, after a step."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_sft_goes_on_where_it_was_killed_to_the_same_bits(place, tmp_path):
    how = {"tokenizer": TOKENIZER, "training": FEW}
    whole = sft(place / "child", PAIRS, out=tmp_path / "whole", **how)
    with pytest.raises(KeyboardInterrupt):
        sft(place / "child", PAIRS, out=tmp_path / "killed", callbacks=[Stop()], **how)
    again = sft(place / "child", PAIRS, out=tmp_path / "killed", **how)
    assert same(weights(whole.path), weights(again.path))
    assert not same(weights(whole.path), weights(place / "child"))
    assert (
        whole.child().config.blocks
        == AutoModelForCausalLM.from_pretrained(place / "child").config.blocks
    )
    assert whole.tokenizer.chat_template == TOKENIZER.chat_template
    assert whole.figures["rows, thinking on"] == whole.figures["rows, thinking off"] == 8
    assert [entry["loss"] for entry in again.history if "loss" in entry]
    # A run that is done is not run again, and other settings are another run.
    done = sft(place / "child", PAIRS, out=tmp_path / "whole", callbacks=[Stop()], **how)
    assert done == whole
    with pytest.raises(WorkspaceError, match="has checkpoints of this run"):
        sft(place / "child", PAIRS, out=tmp_path / "whole", resume=False, **how)
    with pytest.raises(KeyboardInterrupt):
        sft(place / "child", PAIRS[:4], out=tmp_path / "whole", callbacks=[Stop()], **how)


def test_a_child_in_memory_is_trained_with_adapters_and_stays_as_it_is(place, tmp_path):
    child = AutoModelForCausalLM.from_pretrained(place / "child")
    before = {name: tensor.clone() for name, tensor in child.state_dict().items()}
    lora = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    result = sft(child, PAIRS, out=tmp_path, tokenizer=TOKENIZER, training=FEW, peft_config=lora)
    assert same(before, child.state_dict())
    after = weights(result.path)
    assert after.keys() == before.keys()
    assert not same(before, after)


SUMS = [{"question": f"{n}+1=", "answer": n + 1} for n in range(4)]
GROUPS = {
    **FEW,
    "max_steps": 2,
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "max_completion_length": 6,
}


def odd(answer, right):
    """Takes about half of all answers for right ones, so that random models have some."""
    if right == 3:
        raise ValueError("a task with a fault")
    return float(sum(map(ord, answer)) % 2)


@pytest.mark.parametrize(("method", "thinking"), [("grpo", "both"), ("rloo", "off")])
def test_rl_trains_on_the_rewards_of_a_mode_and_counts_a_scorers_failures(
    place, tmp_path, method, thinking
):
    how = {"tokenizer": TOKENIZER, "training": GROUPS, "method": method, "thinking": thinking}
    result = rl(place / "child", SUMS, odd, out=tmp_path, **how)
    assert result.figures["tasks"] == 4
    assert result.figures["prompts"] == (8 if thinking == "both" else 4)
    if thinking == "off":  # where an answer needs no end of a thought
        logged = [entry["rewards/correct/mean"] for entry in result.history if "reward" in entry]
        assert max(logged) > 0
        assert not same(weights(result.path), weights(place / "child"))
        assert set(result.figures) <= {"tasks", "prompts", "scorer raised"}
    assert rl(place / "child", SUMS, odd, out=tmp_path, **how) == result


def not_a_number(prompts, **columns):
    return [float("nan")] * len(prompts)


def test_rl_refuses_split_groups_rewards_that_are_no_numbers_and_templates_of_one_mode(
    place, tmp_path
):
    def train(**how):
        how = {"tokenizer": TOKENIZER, "training": GROUPS, **how}
        return rl(place / "child", SUMS, out=tmp_path, **how)

    with pytest.raises(SettingError, match="divi"):
        train(training={**GROUPS, "num_generations": 3})
    # Of two processes, each makes half of the answers to one prompt.
    config = trl.GRPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True)
    config.per_device_train_batch_size = 4
    with pytest.raises(SettingError, match="groups would be split"):
        require_whole_groups(config)
    with pytest.raises(DataError, match="the reward not_a_number is nan for an answer to"):
        train(rewards={not_a_number: 1.0})
    with pytest.raises(DataError, match="take one mode for a whole run"):
        train(tokenizer=character_tokenizer())
    with pytest.raises(SettingError, match="weight of Formed"):
        train(rewards={Correct(): 1.0, Formed(): 1.0})


def test_settings_that_trl_does_not_have_and_emulated_formats_are_refused(
    place, tmp_path, monkeypatch
):
    for training, message in (
        ({"learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"output_dir": "x"}, "decided by"),
        ({"learning_rate": "high"}, "takes a number"),
    ):
        with pytest.raises(SettingError, match=message):
            sft(place / "child", PAIRS, out=tmp_path, tokenizer=TOKENIZER, training=training)
    monkeypatch.setattr(stage_run, "computing_format", lambda stored, device: torch.float32)
    with pytest.raises(SettingError, match="emulated"):
        sft(place / "child", PAIRS, out=tmp_path, tokenizer=TOKENIZER, training={"bf16": True})
