"""Claims about trainers of TRL: they take a child, of every kind and of two families."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.factories.posttraining import FAMILIES, LAYOUTS, save_pair

trl = pytest.importorskip("trl", reason="TRL is in the extra [posttrain], which is not installed")
peft = pytest.importorskip("peft", reason="peft is in the extra [posttrain]; it is not installed")

PAGE = Path(__file__).parents[3] / "docs/post-training.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
PARAMETERS = [(family, name) for family in FAMILIES for name in LAYOUTS]
# Of the libraries beside ours, which warn of what they will change.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", params=PARAMETERS, ids="-".join)
def place(request, tmp_path_factory):
    family, name = request.param
    folder = tmp_path_factory.mktemp(f"{family}-{name}")
    save_pair(folder, family, LAYOUTS[name])
    return folder


def program(monkeypatch, place, tmp_path):
    """Returns the names that the page's first snippet defines, for the children of a place."""
    for name in ("child", "parent"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(SNIPPETS[0], names)
    names["common"]["disable_tqdm"] = True
    return names


def snippet_with(text):
    return next(snippet for snippet in SNIPPETS if text in snippet)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_page_runs_and_what_it_trains_is_a_child_of_the_same_blocks(
    monkeypatch, place, tmp_path
):
    names = program(monkeypatch, place, tmp_path)
    before = names["load"]()
    for number, snippet in enumerate(SNIPPETS[1:]):
        names["common"]["output_dir"] = str(tmp_path / f"trained-{number}")
        exec(snippet, names)
        if ".train()" not in snippet:
            continue
        saved = tmp_path / f"trained-{number}" / "checkpoint-2"
        if "LoraConfig" in snippet:
            assert (saved / "adapter_model.safetensors").is_file()
        elif "SequenceClassification" not in snippet:
            after = AutoModelForCausalLM.from_pretrained(saved)
            assert after.config.blocks == before.config.blocks
            assert all(t.isfinite().all() for t in after.state_dict().values())


def test_with_adapters_every_trainer_leaves_the_childs_weights_as_they_are(
    monkeypatch, place, tmp_path
):
    names = program(monkeypatch, place, tmp_path)
    load, loaded = names["load"], []
    names["load"] = lambda: loaded.append(load()) or loaded[-1]
    names["lora"] = peft.LoraConfig(r=2, target_modules="all-linear")
    last = "processing_class=tokenizer"
    snippets = [
        text
        for text in SNIPPETS
        if last in text and "SequenceClassification" not in text and "LoraConfig" not in text
    ]
    assert len(snippets) == 7
    for snippet in snippets:
        exec(snippet.replace(last, f"{last}, peft_config=lora"), names)
    assert len(loaded) == 8  # GRPO twice in one of them
    before = state(load())
    for child in loaded:
        after = {name.replace(".base_layer", ""): t for name, t in state(child).items()}
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert any(name.endswith("lora_B.default.weight") for name in after)
    names["lora"] = peft.LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS")
    reward_model = snippet_with("RewardTrainer(").replace(last, f"{last}, peft_config=lora")
    exec(reward_model, names)
    after = {n.replace(".base_layer", ""): t for n, t in state(names["scorer"]).items()}
    shared = [name for name in after if name in before]
    assert len(shared) > 5
    assert all(torch.equal(after[name], before[name]) for name in shared)


def sft(names, **settings):
    child = names["load"]()
    args = trl.SFTConfig(**names["common"], learning_rate=1e-2, **settings)
    exec(snippet_with("pairs =").partition("SFTTrainer(")[0], names)
    rows = names["pairs"]
    trainer = trl.SFTTrainer(
        child, args=args, train_dataset=rows, processing_class=names["tokenizer"]
    )
    trainer.train()
    return state(trainer.model)


def test_checkpointing_changes_no_bit_of_what_is_trained(monkeypatch, place, tmp_path):
    names = program(monkeypatch, place, tmp_path)
    with_it, without = (sft(names, gradient_checkpointing=value) for value in (True, False))
    assert not torch.equal(with_it["lm_head.weight"], names["load"]().lm_head.weight)
    assert all(torch.equal(tensor, without[name]) for name, tensor in with_it.items())


def test_packed_rows_train_a_child(monkeypatch, place, tmp_path):
    names = program(monkeypatch, place, tmp_path)
    names["common"]["per_device_train_batch_size"] = 1
    packed = sft(names, packing=True, packing_strategy="wrapped", max_length=32)
    assert not torch.equal(packed["lm_head.weight"], names["load"]().lm_head.weight)
    assert all(tensor.isfinite().all() for tensor in packed.values())


def test_left_padded_prompts_are_answered_as_each_alone(place):
    child = AutoModelForCausalLM.from_pretrained(place / "child")
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(6, 100, (n,), generator=generator) for n in (3, 11, 1, 7)]
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    ids = torch.stack(
        [torch.nn.functional.pad(p, (n, 0)) for p, n in zip(prompts, padding, strict=True)]
    )
    mask = torch.stack([torch.arange(longest) >= n for n in padding]).long()
    how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = child.generate(ids, attention_mask=mask, **how)[:, longest:]
    for prompt, answer in zip(prompts, together, strict=True):
        one = child.generate(prompt[None], attention_mask=torch.ones_like(prompt[None]), **how)
        assert one[0, len(prompt) :].tolist() == answer.tolist()


def test_continuous_batching_samples_for_grpo_where_every_layer_fits_its_cache(
    monkeypatch, place, tmp_path
):
    names = program(monkeypatch, place, tmp_path)
    args = trl.GRPOConfig(
        **names["common"],
        num_generations=2,
        max_completion_length=6,
        use_transformers_continuous_batching=True,
        transformers_continuous_batching_config={
            "num_blocks": 16,
            "max_batch_tokens": 64,
            "page_size": 32,
        },
    )
    exec(snippet_with("for beta").partition("for beta")[0], names)
    trainer = trl.GRPOTrainer(
        names["load"](),
        names["digits"],
        args=args,
        train_dataset=names["questions"],
        processing_class=names["tokenizer"],
    )
    trainer.train()
    lengths = [entry["completions/mean_length"] for entry in trainer.state.log_history[:1]]
    assert lengths[0] > 0


def test_a_child_in_memory_that_was_never_saved_has_no_reference_model(
    monkeypatch, place, tmp_path
):
    names = program(monkeypatch, place, tmp_path)
    config = names["load"]().config
    config._name_or_path = ""
    names["load"] = lambda: AutoModelForCausalLM.from_config(config)
    with pytest.raises(OSError, match="Repo id must use alphanumeric chars"):
        exec(snippet_with("DPOTrainer("), names)
