"""Costs measured on the device at hand, one distinct sublayer shape at a time."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from puzzle.costs.calibrated.design import sublayers
from puzzle.costs.calibrated.engines.engine import check_clock
from puzzle.costs.measured.stacks import fixed_job, mean_step, stack_job
from puzzle.costs.protocol import RESOURCES, STANDARD_UNITS, counted_cost
from puzzle.errors import ConstraintError
from puzzle.hardware.fast_format import fast_format
from puzzle.hardware.identity import (
    device_identity,
    device_record,
    require_device,
    software_versions,
)
from puzzle.hardware.nvml import Gpu, gpus, mean_power
from puzzle.hardware.stopwatch import Seconds, Stopwatch, out_of_memory, spread, take_turns
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import config_from_layout
from puzzle.models.parent import Parent
from puzzle.storage.workspace import Workspace
from search_space import Block, Layout, ModelShape, SearchSpace, counting

ROUNDS = 7
# Part of every artifact's name: raise it when what is timed changes.
FORMAT = 4
FIXED = "fixed"

logger = logging.getLogger(__name__)


class MeasuredCosts:
    """Seconds of each distinct sublayer, timed inside a stack as deep as the model.

    A stack of as many copies as the model has layers, each with weights of its own, reads its
    weights from where the real model does; one copy timed over and over would sit in the
    processor's cache. All shapes are timed in turn, round after round, and the median is taken,
    so that a slow spell of the machine falls on all of them. Decoding is timed at the first,
    middle and last number of cached tokens of the scenario, and interpolated between them. On a
    GPU, times are between CUDA events, decoding runs as a CUDA graph and the L2 cache is
    overwritten between repeats. A shape for which memory does not suffice costs infinity.

    A GPU that tells its energy or power gives "energy" as well: the mean power while a sublayer
    runs, times its seconds. On a CPU there is none.

    Args:
        shape: The parent's sizes.
        seconds: For "fixed" and each sublayer label, the medians of one prefill and of the mean
            decode step of the scenario, in seconds per layer; infinite where it cannot run.
        spread: For each of those, the interquartile range as a share of the median.
        scenario: What was timed; other scenarios are refused. None where that does not matter.
        record: What it was timed on, and how steadily.
        watts: Mean power while "fixed" and each sublayer ran; empty where that is not known.
        device: Where they were timed, if that is a device of this machine.
    """

    def __init__(
        self,
        shape: ModelShape,
        seconds: Mapping[str, Mapping[str, float]],
        spread: Mapping[str, Mapping[str, float]],
        *,
        scenario: Scenario | None = None,
        record: Mapping[str, Any] | None = None,
        watts: Mapping[str, float] | None = None,
        device: str | None = None,
    ) -> None:
        self.device = device
        self.watts = dict(watts or {})
        self.resources: Mapping[str, str] = RESOURCES
        if self.watts:
            self.resources = {**RESOURCES, "energy": STANDARD_UNITS["energy"]}
        self.shape, self.seconds, self.spread = shape, seconds, spread
        self.scenario, self.record = scenario, dict(record or {})

    @classmethod
    def measure(
        cls,
        parent: Parent,
        space: SearchSpace,
        scenario: Scenario,
        *,
        workspace: Workspace,
        extra: Iterable[Block] = (),
        device: str = "cpu",
        clock: str = "wall",
    ) -> MeasuredCosts:
        """Times every sublayer of a space on a device, or reads what was timed before.

        Args:
            parent: The parent.
            space: Whose sublayers are timed.
            scenario: Batch, lengths and the number format that is served; "auto" is what the
                device computes fast.
            workspace: Where the times are stored.
            extra: Further blocks to time, such as the fused ones of
                `search_space.fusion.candidate_runs`; they may be wider than the parent's.
            device: "cpu", "cuda" or "cuda:1".
            clock: "wall", or "cpu": processor seconds, which other work on the machine hardly
                disturbs, and which are the wall's where torch has one thread.

        Raises:
            ConstraintError: The scenario stores the KV cache in another type than the weights,
                which torch does not do, or the device has not even the memory for the head.
            ParentError: torch cannot use the device.
        """
        if scenario.cache_bytes != scenario.weight_bytes:
            raise ConstraintError(
                f"cache_dtype={scenario.cache_dtype!r} with weight_dtype="
                f"{scenario.weight_dtype!r} cannot be measured with torch, whose cache has the "
                "type of the weights; leave cache_dtype out or pass a cost_model of your own"
            )
        check_clock(clock, device)
        require_device(device)
        scenario = scenario.served_in(fast_format(device, workspace=workspace).name)
        blocks = _sublayers(space, extra)
        config = config_from_layout(parent.config, Layout.parent(parent.shape))
        spec = {
            "format": FORMAT,
            "device": device_identity(device),
            "versions": software_versions(),
            "scenario": scenario.to_dict(),
            "config": config.to_json_string(),
            "sublayers": sorted(blocks),
            "rounds": ROUNDS,
            "clock": clock,
        }

        def build(directory: Path) -> None:
            found = _measure(parent, blocks, scenario, device, clock)
            (directory / "seconds.json").write_text(json.dumps(found), encoding="utf-8")

        stored = workspace.get_or_build("costs", spec, build).load_json("seconds.json")
        seconds, spreads = {}, {}
        for label, phases in stored["samples"].items():
            seconds[label], spreads[label] = _summary(phases, scenario)
        for label in stored["out_of_memory"]:
            seconds[label] = {"prefill": math.inf, "decode": math.inf}
        return cls(
            parent.shape,
            seconds,
            spreads,
            scenario=scenario,
            record=stored["record"],
            watts=stored["watts"],
            device=device,
        )

    def _decided(self, scenario: Scenario) -> Scenario:
        """Returns a scenario that is still "auto" in the number format that was timed."""
        return scenario if self.scenario is None else scenario.served_in(self.scenario.weight_dtype)

    def _timed(self, label: str, scenario: Scenario) -> dict[str, float]:
        if self.scenario is not None and self._decided(scenario) != self.scenario:
            raise ConstraintError(
                f"costs measured for {self.scenario} were asked for {scenario}; measure this "
                "scenario too"
            )
        prefill = self.seconds[label]["prefill"]
        decode = self.seconds[label]["decode"] * scenario.generated_tokens
        found = {
            "prefill_seconds": prefill,
            "decode_seconds": decode,
            "seconds": prefill + decode,
        }
        if self.watts:
            # What did not fit was not run.
            found["energy"] = self.watts.get(label, math.inf) * found["seconds"]
        return found

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns what one block takes; the same in every layer."""
        total = counted_cost(self.shape, block, self._decided(scenario))
        for part in sublayers(block):
            for name, value in self._timed(part, scenario).items():
                total[name] = total.get(name, 0.0) + value
        return {name: total.get(name, 0.0) for name in self.resources}

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns what embedding, masks, rotary tables, final norm and head take."""
        parameters = float(counting.fixed_parameters(shape))
        return {
            **self._timed(FIXED, scenario),
            "memory": parameters * self._decided(scenario).weight_bytes,
            "kv_cache": 0.0,
            "parameters": parameters,
        }


def _sublayers(space: SearchSpace, extra: Iterable[Block]) -> dict[str, Block]:
    own = (block for layer in range(space.shape.layers) for block in space.blocks(layer))
    labels = {part for block in chain(own, extra) for part in sublayers(block)}
    return {label: Block.from_label(label) for label in labels}


def _summary(
    phases: Mapping[str, list[float]], scenario: Scenario
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns medians and spreads of prefill and of the mean decode step."""
    steps = {
        int(name.partition("@")[2] or scenario.prompt_tokens): values
        for name, values in phases.items()
        if name.startswith("decode")
    }
    medians = [(at, statistics.median(steps[at])) for at in sorted(steps)]
    found = {
        "prefill": statistics.median(phases["prefill"]),
        "decode": mean_step(medians, scenario),
    }
    return found, {
        "prefill": spread(phases["prefill"]),
        "decode": max(map(spread, steps.values())),
    }


@torch.no_grad()
def _measure(
    parent: Parent, blocks: Mapping[str, Block], scenario: Scenario, device: str, clock: str
) -> dict[str, Any]:
    _warn_of_others(device)
    watch = Stopwatch(device, clock)
    jobs: dict[str, Callable[[], Seconds]] = {FIXED: fixed_job(parent, scenario, device, watch)}
    full = []
    for label in sorted(blocks):
        try:
            jobs[label] = stack_job(parent, blocks[label], scenario, device, watch)
            jobs[label]()  # memory is taken when it runs, and a shape that lacks it is left out
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            jobs.pop(label, None)
            full.append(label)
            logger.warning("%s does not fit into %s: it is left out", label, device)
            if watch.cuda:
                torch.cuda.empty_cache()
    samples, left = take_turns(jobs, ROUNDS)
    watts = _watts(jobs, device)
    record = {"device": device_record(device), "drift": left, "gpu": _gpu_state(device)}
    if watch.cuda:
        record["peak_memory"] = torch.cuda.max_memory_allocated(device)
    return {"samples": samples, "out_of_memory": full, "record": record, "watts": watts}


def _watts(jobs: Mapping[str, Callable[[], Seconds]], device: str) -> dict[str, float]:
    """Returns the mean power of each job; nothing if one of them is not known."""
    gpu = _gpu(device)
    found = {name: mean_power(job, gpu.uuid if gpu else None) for name, job in jobs.items()}
    known = {name: watts for name, watts in found.items() if watts is not None}
    return known if len(known) == len(found) else {}


def _gpu(device: str) -> Gpu | None:
    if torch.device(device).type != "cuda":
        return None
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    return next((gpu for gpu in gpus() if uuid and gpu.uuid.endswith(uuid)), None)


def _gpu_state(device: str) -> dict[str, Any] | None:
    """Returns clocks, power and temperature of a GPU at the end of the run."""
    gpu = _gpu(device)
    if gpu is None:
        return None
    return {
        "clocks": gpu.clocks,
        "power": gpu.power,
        "power_limit": gpu.power_limit,
        "temperature": gpu.temperature,
    }


def _warn_of_others(device: str) -> None:
    gpu = _gpu(device)
    for process in gpu.processes if gpu else ():
        logger.warning(
            "process %d (%s) computes on %s as well; what is measured now is too slow",
            process.pid,
            process.name,
            device,
        )
