"""Claims about number formats: what is worked in, served and stored, and how each is chosen."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import puzzle
from puzzle.costs.measured import stacks
from puzzle.costs.profile import Profile
from puzzle.costs.served import served_format
from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.parallel import Parallel
from puzzle.errors import PuzzleError
from puzzle.hardware import format_speed as measuring
from puzzle.hardware.format_speed import computing_format, fast_format
from puzzle.hardware.precision import Formats, Precision, choose_format
from puzzle.limits.scenario import Scenario, Workload
from puzzle.models.assembling import assemble
from puzzle.models.parent import DTYPES, open_parent
from puzzle.pipeline.format_choice import choose_formats
from puzzle.pipeline.loading import load_result
from puzzle.storage.workspace import Workspace
from search_space import Block, SearchSpace
from tests.factories.parents import DATA, parent_model, text, tokenizer

SLOW = {"float32": 1.0, "bfloat16": 4.1, "float16": 4.0}
FAST = {"float32": 1.0, "bfloat16": 0.25, "float16": 0.9}
SHORT = Scenario(batch=2, prompt_tokens=8, generated_tokens=8)


@pytest.fixture
def machine(monkeypatch):
    """Returns a function that makes products take so long in each number format."""

    def pretend(seconds):
        monkeypatch.setattr(measuring, "_product_seconds", lambda _, name: seconds[name])

    measuring._measured_choice.cache_clear()
    yield pretend
    measuring._measured_choice.cache_clear()


@pytest.mark.parametrize(
    ("seconds", "name", "reason"),
    [
        (SLOW, "float32", "bfloat16 products run 4.1 times slower on it"),
        (FAST, "bfloat16", "float32 products run 4.0 times slower on it"),
        ({"float32": 1.0, "bfloat16": 1.2}, "bfloat16", "as fast as float32 on it"),
        ({"float32": 1.0, "bfloat16": 1.3}, "float32", "1.3 times slower"),
        ({"float32": 8.0, "bfloat16": 9.0, "float16": 1.0}, "float16", "9.0 times slower"),
        ({"float32": 1.0, "bfloat16": 9.0, "float16": 0.9}, "float32", "9.0 times slower"),
    ],
)
def test_bfloat16_is_chosen_unless_it_is_clearly_slower(seconds, name, reason):
    choice = choose_format(seconds, "it")
    assert choice.name == name
    assert reason in choice.reason


def test_what_is_measured_takes_time_and_draws_no_random_number():
    state = torch.random.get_rng_state()
    assert all(measuring._product_seconds("cpu", name) > 0 for name in ("float32", "bfloat16"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_run_that_goes_on_keeps_the_choice_of_its_directory(machine, tmp_path):
    machine(FAST)
    assert fast_format("cpu", workspace=Workspace(tmp_path)).name == "bfloat16"
    machine(SLOW)
    measuring._measured_choice.cache_clear()
    assert fast_format("cpu", workspace=Workspace(tmp_path)).name == "bfloat16"
    assert fast_format("cpu", workspace=Workspace(tmp_path / "other")).name == "float32"


def test_weights_are_computed_as_stored_unless_float32_is_clearly_faster(machine):
    machine(SLOW)
    assert computing_format(torch.bfloat16) == torch.float32
    assert computing_format(torch.float64) == torch.float64
    machine(FAST)
    assert computing_format(torch.bfloat16) == torch.bfloat16
    assert computing_format(torch.float32) == torch.float32
    assert computing_format(torch.float16) == torch.float32


def test_one_word_is_the_precision_of_all_and_unknown_ones_are_refused():
    assert Precision.of("bfloat16") == Precision(working="bfloat16", stored="bfloat16")
    assert Precision.of(Precision(stored="float16")).working == "auto"
    with pytest.raises(PuzzleError, match=r"Precision\.stored is 'int8'; allowed: auto, bfloat16"):
        Precision(stored="int8")


def opened(workspace, stored, dtype="auto"):
    model = parent_model().to(getattr(torch, stored))
    return open_parent(model, workspace=workspace, tokenizer=tokenizer(), dtype=dtype)


@pytest.mark.parametrize(
    ("precision", "served", "names"),
    [
        ("auto", "auto", ("float32", "float32", "bfloat16")),
        ("float16", "auto", ("float16", "float16", "float16")),
        ("float16", "bfloat16", ("float16", "bfloat16", "float16")),
        (Precision(), "bfloat16", ("float32", "bfloat16", "bfloat16")),
        (Precision(working="bfloat16"), "auto", ("bfloat16", "float32", "bfloat16")),
        (Precision(stored="float16"), "auto", ("float32", "float32", "float16")),
    ],
)
def test_formats_that_are_given_win_and_the_others_are_chosen_apart(
    machine, tmp_path, precision, served, names
):
    machine(SLOW)
    workspace = Workspace(tmp_path)
    parent = opened(workspace, "bfloat16", Precision.of(precision).working)
    whole = Workload.of(Scenario(weight_dtype=served))
    formats = choose_formats(precision, whole, "cpu", parent, workspace)
    assert (formats.working.name, formats.served.name, formats.stored.name) == names
    assert parent.dtype == getattr(torch, names[0])
    assert Formats.from_dict(formats.to_dict()) == formats


def test_a_parent_whose_own_format_is_unknown_gives_a_child_stored_as_served(machine, tmp_path):
    machine(SLOW)
    workspace = Workspace(tmp_path)
    parent = opened(workspace, "float64")
    assert parent.stored_dtype is None
    formats = choose_formats("auto", Workload.of(SHORT), "cpu", parent, workspace)
    assert str(formats.stored) == "float32 (as it is served)"


def test_what_is_served_follows_what_costs_are_of(machine, tmp_path):
    machine(SLOW)
    shape = opened(Workspace(tmp_path / "run"), "float32").shape
    space = SearchSpace.preset(shape, "small")
    roofline = puzzle.Roofline("h100-sxm", shape)
    taken = Profile.take(
        roofline, space, Scenario(weight_dtype="float16"), device={"name": "modelled"}
    )
    served = [
        ("cpu", "float32"),
        ("torch", "float32"),
        ("roofline:h100-sxm", "bfloat16"),
        ("llama.cpp", "bfloat16"),
        ("vllm", "bfloat16"),
        (f"table:{tmp_path}/costs.json", "bfloat16"),
        (taken.save(tmp_path / "profile.json"), "float16"),
        (taken, "float16"),
        (roofline, "bfloat16"),
        (Profile.take(roofline, space, SHORT, device={}), "bfloat16"),
    ]
    for hardware, name in served:
        assert served_format(hardware).name == name


def test_costs_are_timed_in_what_their_bytes_are_counted_in(machine, tmp_path):
    machine(SLOW)
    workspace = Workspace(tmp_path)
    parent = opened(workspace, "bfloat16", "bfloat16")
    for scenario, bytes_each in ((SHORT, 4), (Scenario(weight_dtype="bfloat16"), 2)):
        depth = stacks.Depth(prefill=2, decode=2)
        stack = stacks._Stack(
            parent, parent.shape.parent_blocks[0], scenario.served_in("float32"), "cpu", depth
        )
        assert stack.model.dtype.itemsize == stack.x_BLD.element_size() == bytes_each
    space = SearchSpace.uniform(parent.shape, attentions=["none"], ffns=[])
    costs = puzzle.MeasuredCosts.measure(parent, space, SHORT, workspace=workspace)
    assert costs.scenario == SHORT.served_in("float32")
    for asked in (SHORT, costs.scenario):
        cost = costs.block_cost(0, Block.from_label("none+gated64"), asked)
        assert cost["memory"] == 4 * cost["parameters"]


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_the_child_is_stored_as_its_parent_is_with_the_parents_own_bits(machine, tmp_path, stored):
    machine(SLOW if stored == "bfloat16" else FAST)
    parent_model().to(getattr(torch, stored)).save_pretrained(tmp_path / "parent")
    tokenizer().save_pretrained(tmp_path / "parent")
    result = puzzle.search(
        tmp_path / "parent",
        text(),
        constraints=["parameters <= 0.9x"],
        scenario=SHORT,
        data=DATA,
        hardware="roofline:h100-sxm",
        effort="fast",
        out=tmp_path / "run",
    )
    assert result.library.parent.dtype != getattr(torch, stored)
    assert result.child().dtype == getattr(torch, stored)
    assert result.scenario.weight_dtype == "bfloat16"
    path = result.save(tmp_path / "child")
    child, parent = (load_file(p / "model.safetensors") for p in (path, tmp_path / "parent"))
    assert {tensor.dtype for tensor in child.values()} == {getattr(torch, stored)}
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(child[name], parent[name])
    for told in (result, load_result(path)):
        assert f"stores in {stored} (as the parent is stored)" in told.table()


def test_a_checkpoint_is_asked_for_the_format_of_most_of_its_tensors(tmp_path):
    config = LlamaConfig(
        num_hidden_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=16,
    )
    model = LlamaForCausalLM(config).to(torch.float16)
    model.model.norm.float()
    model.save_pretrained(tmp_path / "parent")
    parent = open_parent(
        tmp_path / "parent", workspace=Workspace(tmp_path), tokenizer=tokenizer(), dtype="float32"
    )
    assert parent.stored_dtype == "float16"


TOKENS = torch.randint(0, 62, (8, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seconds", [SLOW, FAST])
def test_a_model_stored_in_bfloat16_is_evaluated_in_what_is_fast(machine, tmp_path, seconds):
    machine(seconds)
    parent_model().to(torch.bfloat16).save_pretrained(tmp_path)
    fast = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=DTYPES[fast_format().name])
    found, expected = (puzzle.evaluate(each, data=TOKENS) for each in (tmp_path, fast))
    assert found.to_dict() == expected.to_dict()


@pytest.mark.parametrize("seconds", [SLOW, FAST])
def test_a_parent_stored_in_bfloat16_teaches_in_what_is_fast(machine, tmp_path, seconds):
    machine(seconds)
    config = DistillConfig(tokens=64, length=16, batch=2, micro_batch=2, mixed_precision="no")
    stored = parent_model().to(torch.bfloat16)
    cast = copy.deepcopy(stored).to(DTYPES[fast_format().name])
    own = puzzle.Layout.parent(opened(Workspace(tmp_path), "float32").shape)
    child = assemble(stored.config, own, parent_model().state_dict(), dtype=torch.float32)
    losses = [
        [
            entry["loss"]
            for entry in puzzle.distill(
                child, teacher, TOKENS, config=config, out=tmp_path / name
            ).history
        ]
        for name, teacher in (("stored", stored), ("cast", cast))
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]


def test_mixed_precision_that_the_device_is_slow_in_is_done_and_said(machine, caplog):
    machine(SLOW)
    assert Parallel(DistillConfig(mixed_precision="bf16")).bf16
    assert "mixed_precision='no' the same distillation takes less time" in caplog.text
