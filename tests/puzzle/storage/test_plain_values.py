"""Claims about numbers of numpy, torch and pandas, wherever settings are made of them."""

import json

import numpy as np
import pandas
import pytest
import torch

import puzzle
from puzzle.choice.layout_choice import Effort
from puzzle.costs.calibrated.engines.llama_cpp import LlamaCpp
from puzzle.costs.calibrated.engines.torch_generate import TorchGenerate
from puzzle.costs.calibrated.engines.vllm import Vllm
from puzzle.errors import PuzzleError
from puzzle.evaluation.tasks import TaskSettings
from puzzle.scoring.fisher_scores import FisherConfig
from puzzle.scoring.hybrid_scores import HybridConfig
from puzzle.storage.plain_values import count_of, plain
from puzzle.text.windows import windows
from search_space import FusedRun
from solvers import ChoiceProblem, Limit, solve
from tests.factories.parents import DATA, text, tokenizer

KINDS = {
    "numpy": (np.int64, np.float32),
    "numpy, narrow": (np.uint8, np.float16),
    "array": (np.array, np.array),
    "torch": (torch.tensor, torch.tensor),
    "pandas": (lambda n: pandas.Series([n]).iloc[0], lambda x: pandas.Series([x]).iloc[0]),
}
SETTINGS = {
    "Scenario": lambda n, x: puzzle.Scenario(batch=n(8), prompt_tokens=n(4), generated_tokens=n(2)),
    "Workload": lambda n, x: puzzle.Workload.of({"chat": (puzzle.Scenario(), x(0.5))}),
    "Constraint": lambda n, x: puzzle.Constraint(
        resource="memory", relation="<=", value=x(0.5), relative=True, at=(("batch", n(4)),)
    ),
    "DataConfig": lambda n, x: puzzle.DataConfig(window=n(16), fit_tokens=n(64), seed=n(2)),
    "BLDConfig": lambda n, x: puzzle.BLDConfig(
        tokens=n(64), learning_rate=x(0.5), warm_up=x(0.25), seed=n(2)
    ),
    "LibraryConfig": lambda n, x: puzzle.LibraryConfig(
        held_out=x(0.25), ridges=(x(0.5), x(1.0)), bld=puzzle.BLDConfig(batch=n(2))
    ),
    "DistillConfig": lambda n, x: puzzle.DistillConfig(
        length=n(64), seed=n(2), betas=(x(0.5), x(0.75)), losses={"kl": x(0.5)}, weight_decay=x(0.5)
    ),
    "Effort": lambda n, x: Effort(pool=n(4), rounds=n(2), moves=n(1)),
    "FisherConfig": lambda n, x: FisherConfig(probes=n(2), stable=x(0.5), seed=n(4)),
    "HybridConfig": lambda n, x: HybridConfig(anchors=n(8), trust=x(0.5)),
    "TaskSettings": lambda n, x: TaskSettings(limit=n(8), shots=n(1), batch=n(2)),
    "Efficiency": lambda n, x: puzzle.Efficiency(compute=x(0.5), launch=x(0.25)),
    "DeviceSpec": lambda n, x: puzzle.DeviceSpec(
        name="own", flops={"bfloat16": x(512.0)}, memory=x(64.0), bandwidth=x(32.0), source="none"
    ),
    "TorchGenerate": lambda n, x: TorchGenerate(rounds=n(2)),
    "LlamaCpp": lambda n, x: LlamaCpp(threads=n(1), rounds=n(2), timeout=x(64.0)),
    "Vllm": lambda n, x: Vllm(iterations=n(4), timeout=x(64.0)),
    "Attention": lambda n, x: puzzle.Attention("gqa", n(3)),
    "FFN": lambda n, x: puzzle.FFN("gated", n(96)),
    "FusedRun": lambda n, x: FusedRun(n(3), (n(8), n(4))),
    "ModelShape": lambda n, x: puzzle.ModelShape(
        layers=n(2), hidden=n(8), heads=n(4), head_dim=n(2), kv_heads=n(2), ffn_width=n(8),
        vocab=n(16),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_made_of_foreign_numbers_are_those_made_of_pythons(name, kind):
    make = SETTINGS[name]
    foreign = make(*KINDS[kind])
    own = make(int, float)
    assert foreign == own
    # The same words, so the same hash and the same JSON: np.int64(8) would be written otherwise.
    assert repr(foreign) == repr(own)


@pytest.mark.parametrize("value", [np.bool_(True), True, 8.0, np.float32(8), "8", None, 0, -1])
def test_what_is_no_count_is_refused_whoever_counted(value):
    for make in (
        lambda: count_of("batch", value),
        lambda: puzzle.Scenario(batch=value),
        lambda: puzzle.DataConfig(window=value),
        lambda: puzzle.DistillConfig(length=value),
        lambda: puzzle.Processes(value),
        lambda: puzzle.evaluate("none", data="text", windows=value),
    ):
        with pytest.raises(PuzzleError):
            make()
    with pytest.raises(ValueError, match="allowed: integers of 1 or more"):
        puzzle.FFN("gated", value)


@pytest.mark.parametrize("seed", [1.5, "1", True, -1, None])
def test_what_is_no_seed_is_refused(seed):
    configs = [puzzle.BLDConfig, puzzle.DistillConfig, FisherConfig]
    if seed is not None:  # which to the data's settings means the seed of the search
        configs.append(puzzle.DataConfig)
    for make in configs:
        with pytest.raises(PuzzleError, match="seed="):
            make(seed=seed)
    with pytest.raises(ValueError, match="give a whole number"):
        solve(ChoiceProblem((("a",),), [0.0], {}), seed=seed)


def test_containers_are_converted_all_the_way_down():
    values = {
        np.str_("rates"): [np.float64(0.5), (np.bool_(True), np.arange(3))],
        "more": {"n": torch.tensor([[1], [2]]), "none": None, "config": DATA},
    }
    found = plain(values)
    assert found == {
        "rates": [0.5, (True, [0, 1, 2])],
        "more": {"n": [[1], [2]], "none": None, "config": DATA},
    }
    assert {type(each) for each in (*found, found["rates"][0], found["rates"][1][0])} == {
        str,
        float,
        bool,
    }
    del found["more"]["config"]
    json.dumps(found)


def test_seeds_of_numpy_cut_the_text_and_solve_as_pythons_do():
    foreign = puzzle.DataConfig(**{**_values(DATA), "seed": np.int64(2)})
    own = puzzle.DataConfig(**{**_values(DATA), "seed": 2})
    assert torch.equal(
        windows(text(), tokenizer(), foreign).fit, windows(text(), tokenizer(), own).fit
    )
    problem = ChoiceProblem((("a", "b"),) * 2, [0, 1, 0, 2], {"m": [2, 1, 2, 1]}).with_limits(
        [Limit("m", at_most=3)]
    )
    assert solve(problem, seed=np.int64(3)).labels == solve(problem, seed=3).labels == ("b", "a")


def _values(config):
    return {name: getattr(config, name) for name in type(config).__dataclass_fields__}
