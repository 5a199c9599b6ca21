"""What sampling answers, DPO and reinforcement learning take of a fleet, before they run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from puzzle.costs.checked import layout_cost
from puzzle.costs.roofline import Roofline
from puzzle.distillation.planned_configs import planned_configs
from puzzle.distillation.planned_flops import TRAINED, forward_flops
from puzzle.errors import SettingError
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import layout_from_config, shape_of
from puzzle.pipeline.fleet import Fleet
from puzzle.storage.plain_values import count_of


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """What a stage takes of a fleet, in seconds.

    Args:
        sampling: In which answers are sampled.
        training: In which models are run over whole answers, and trained.

    Example:
        >>> StageSeconds(sampling=1800.0, training=5400.0).hours
        2.0
    """

    sampling: float = 0.0
    training: float = 0.0

    @property
    def hours(self) -> float:
        """Both, one after the other, in hours."""
        return (self.sampling + self.training) / 3600


def trace_seconds(
    model: Any,
    fleet: Fleet,
    *,
    answers: int,
    scenario: Scenario,
    tensor_parallel: int = 1,
    parent: Any = None,
) -> StageSeconds:
    """Returns what sampling answers takes, as `traces` has it done by engines.

    Each group of `tensor_parallel` devices answers `scenario.batch` prompts at once:

        seconds = ceil(answers / (batch * groups)) * (prefill + decode)

    with both from `puzzle.costs.Roofline` at the fleet's efficiencies: prompts read once, then a
    step for each token, which reads all weights and the cache so far. Each answer has
    `scenario.generated_tokens`, the mean of those expected: an engine that gives the place of an
    answer that ended to the next one takes as long, one that waits for the longest takes longer.

    Args:
        model: Its directory, its config, or a `Layout` of the parent.
        fleet: The devices.
        answers: How many are sampled, those that are thrown away included.
        scenario: Answers of one engine at once, and the mean lengths of prompts and answers.
        tensor_parallel: Devices that share an engine.
        parent: For a `Layout`, the parent's directory, hub id or config.

    Raises:
        SettingError: The fleet has not the devices or the memory for an engine.

    Example:
        >>> from transformers import LlamaConfig
        >>> model = LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        ...                     intermediate_size=128, vocab_size=100, head_dim=16)
        >>> scenario = Scenario(batch=8, prompt_tokens=16, generated_tokens=100)
        >>> one, many = (trace_seconds(model, Fleet.named("h100-sxm"), answers=n, scenario=scenario)
        ...              for n in (8, 80))
        >>> round(many.sampling / one.sampling)
        10
    """
    config = _config(model, parent)
    count_of("answers", answers, error=SettingError)
    groups = fleet.count // count_of("tensor_parallel", tensor_parallel, error=SettingError)
    if not groups:
        raise SettingError(
            f"tensor_parallel={tensor_parallel} on {fleet.count} device(s); give at most as many"
        )
    costs = Roofline(
        fleet.device,
        shape_of(config),
        tensor_parallel=tensor_parallel,
        efficiency=fleet.efficiency,
    )
    cost = layout_cost(costs, layout_from_config(config), scenario)
    if cost["peak_memory"] > fleet.device.memory:
        raise SettingError(
            f"an engine needs {cost['peak_memory'] / 1e9:.1f} GB of each device, and "
            f"{fleet.device.name} has {fleet.device.memory / 1e9:.1f}; lower batch or raise "
            "tensor_parallel"
        )
    if math.isinf(cost["seconds"]):
        raise SettingError(
            f"a block of the model cannot be divided among tensor_parallel={tensor_parallel} "
            "devices; give fewer"
        )
    return StageSeconds(sampling=math.ceil(answers / (scenario.batch * groups)) * cost["seconds"])


def preference_seconds(
    child: Any,
    fleet: Fleet,
    *,
    pairs: int,
    length: int,
    reference: bool = True,
    checkpointing: bool = True,
    parent: Any = None,
) -> StageSeconds:
    """Returns what training on pairs of answers takes, as DPO does.

    Both answers of a pair pass through the policy, forward and backward, and forward through the
    reference. With L and H the operations of one forward pass of a sequence in layers and head:

        seconds = 2 * pairs * ((3 + c) * L + 3 * H + r * (L + H)) / (devices * rate)

    where c is 1 with gradient checkpointing, r is 1 with a reference, and the rate is what a device
    reaches of its published one. Nothing that is exchanged between devices is in it.

    Args:
        child: Its directory, its config, or a `Layout` of the parent.
        fleet: The devices.
        pairs: Pairs, each as often as it is trained on.
        length: Mean tokens of a prompt with one of its answers.
        reference: Whether a reference is run; not where its log-probabilities are given.
        checkpointing: Whether layers are computed again in the backward pass.
        parent: For a `Layout`, the parent's directory, hub id or config.
    """
    sequences = 2 * count_of("pairs", pairs, error=SettingError)
    flops = _passes(_config(child, parent), length, int(reference), 1, checkpointing)
    return StageSeconds(training=sequences * flops / (fleet.count * fleet.rates.model))


def reinforcement_seconds(
    child: Any,
    fleet: Fleet,
    samplers: Fleet,
    *,
    steps: int,
    answers: int,
    scenario: Scenario,
    tensor_parallel: int = 1,
    reference: bool = True,
    updates: int = 1,
    checkpointing: bool = True,
    parent: Any = None,
) -> StageSeconds:
    """Returns what GRPO or RLOO takes, where engines on devices of their own sample the answers.

    A step samples, and then trains: neither fleet works while the other does. With the notation of
    `preference_seconds`, and n the updates for which the same answers are used:

        sampling = steps * ceil(answers / (batch * groups)) * (prefill + decode)
        training = steps * answers * (n * ((3 + c) * L + 3 * H) + r * (L + H)) / (devices * rate)

    Left out are what is exchanged between devices, new weights for the engines included, and the
    rewards. That all answers have the mean length is kinder here than in `trace_seconds`, since a
    step waits for its longest answer.

    Args:
        child: Its directory, its config, or a `Layout` of the parent.
        fleet: The devices that train.
        samplers: Those that sample.
        steps: Steps.
        answers: Answers of a step: prompts times answers to each.
        scenario: As in `trace_seconds`.
        tensor_parallel: Devices that share an engine.
        reference: Whether the reference is run, as with a penalty on the distance to it.
        updates: Updates for which the answers of a step are used.
        checkpointing: Whether layers are computed again in the backward pass.
        parent: For a `Layout`, the parent's directory, hub id or config.

    Raises:
        SettingError: The samplers have not the devices or the memory for an engine.
    """
    count_of("steps", steps, error=SettingError)
    count_of("updates", updates, error=SettingError)
    one = trace_seconds(
        child,
        samplers,
        answers=answers,
        scenario=scenario,
        tensor_parallel=tensor_parallel,
        parent=parent,
    )
    length = scenario.sequence_tokens
    flops = _passes(_config(child, parent), length, int(reference), updates, checkpointing)
    training = answers * flops / (fleet.count * fleet.rates.model)
    return StageSeconds(sampling=steps * one.sampling, training=steps * training)


def _config(model: Any, parent: Any) -> Any:
    """Returns the config of a model as that of a child."""
    return planned_configs(model, model if parent is None else parent)[0]


def _passes(config: Any, length: int, read: int, trained: int, checkpointing: bool) -> int:
    """Returns the operations of a sequence that is read and trained on so many times."""
    layers, head = forward_flops(config, count_of("length", length, error=SettingError))
    return read * (layers + head) + trained * ((TRAINED + checkpointing) * layers + TRAINED * head)
