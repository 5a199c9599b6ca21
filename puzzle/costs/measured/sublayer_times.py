"""SublayerTimes: the seconds of every distinct sublayer of a space on a device, as a stage."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch

from puzzle.costs.calibrated.design import sublayers
from puzzle.costs.calibrated.engines.engine import check_clock
from puzzle.costs.device_specs import DeviceSpec
from puzzle.costs.measured.stacks import (
    STEPS,
    Depth,
    contexts,
    depth_within,
    fixed_job,
    mean_step,
    stack_bytes,
    stack_job,
    steps_together,
    timed_depth,
)
from puzzle.costs.roofline import Efficiency, Roofline
from puzzle.costs.tensor_parallel import require_devices
from puzzle.errors import ConstraintError, DamagedArtifactError
from puzzle.estimates import Estimate, Sizes
from puzzle.hardware.device_memory import free_memory
from puzzle.hardware.identity import (
    device_identity,
    device_record,
    require_device,
    software_versions,
)
from puzzle.hardware.nvml import Gpu, gpus, mean_power
from puzzle.hardware.stopwatch import (
    LEAST_ROUNDS,
    WARM_UP,
    Samples,
    Seconds,
    Stopwatch,
    out_of_memory,
    spread,
    take_turns,
)
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import config_from_layout
from puzzle.models.parent import Parent
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.json_files import interpreting
from puzzle.storage.workspace import Artifact
from search_space import Block, Layout, ModelShape, SearchSpace, counting
from search_space.device_shares import device_share

FILE, FIXED = "seconds.json", "fixed"
# Seconds that launching a sublayer takes, for estimates.
OVERHEAD = 1e-4
# Share of the memory that is free which stacks may take together; otherwise one is timed at a time.
STACKS = 0.5
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Measured times of sublayers.

    Args:
        seconds: For "fixed" and each sublayer label, the medians of one prefill and of the mean
            decode step of the scenario, in seconds per layer; infinite where it cannot run.
        spread: For each of those, the interquartile range as a share of the median.
        record: The device they were taken on, and the drift.
        watts: Mean power of each; empty where that is not known.
    """

    seconds: Mapping[str, Mapping[str, float]]
    spread: Mapping[str, Mapping[str, float]]
    record: Mapping[str, Any]
    watts: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SublayerTimes(ArtifactStage[Times]):
    """The seconds of sublayers, each timed in a stack of copies: `timed_depth`, if memory allows.

    Args:
        labels: Labels of blocks that are one sublayer each.
        scenario: Batch and lengths.
        device: "cpu", "cuda" or "cuda:1".
        clock: "wall", or "cpu": processor seconds.
        devices: Devices that share each layer: the labels are of one device's shares, and the
            vocabulary is divided among them.
    """

    kind: ClassVar[str] = "costs"
    format: ClassVar[int] = 6
    labels: tuple[str, ...]
    scenario: Scenario
    device: str
    clock: str = "wall"
    devices: int = 1

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        scenario: Scenario,
        *,
        extra: Iterable[Block] = (),
        device: str = "cpu",
        clock: str = "wall",
        tensor_parallel: int = 1,
    ) -> SublayerTimes:
        """Returns the stage of every distinct sublayer of a space.

        Args:
            space: The space.
            scenario: Batch and lengths.
            extra: Further blocks, such as fused ones.
            device: "cpu", "cuda" or "cuda:1".
            clock: As for `MeasuredCosts.measure`.
            tensor_parallel: As for `MeasuredCosts.measure`.

        Raises:
            CostModelError: The parent cannot be divided among so many devices.
            ConstraintError: The scenario stores the KV cache in another type than the weights, or
                weights have formats of an engine.
            ParentError: torch cannot use the device.
        """
        if scenario.cache_bytes != scenario.weight_bytes:
            raise ConstraintError(
                f"cache_dtype={scenario.cache_dtype!r} with weight_dtype="
                f"{scenario.weight_dtype!r} cannot be measured with torch, whose cache has the "
                "type of the weights; leave cache_dtype out or pass a cost model of your own"
            )
        check_clock(clock, device)
        require_device(device)
        devices = require_devices(tensor_parallel, space.shape)
        own = (block for layer in range(space.shape.layers) for block in space.blocks(layer))
        shares = (device_share(space.shape, block, devices) for block in chain(own, extra))
        labels = sorted({part for share in shares if share for part in sublayers(share)})
        if formats := {end for label in labels if (end := label.partition("@")[2])}:
            raise ConstraintError(
                f"weights in {', '.join(sorted(formats))} cannot be timed with torch, which "
                "computes in 16 or 32 bits; calibrate an engine that has them (costs='llama.cpp')"
            )
        return cls(
            labels=tuple(labels), scenario=scenario, device=device, clock=clock, devices=devices
        )

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the seconds depend on."""
        own = Layout.parent(run.parent.shape)
        return {
            "device": device_identity(self.device),
            "versions": software_versions(),
            "scenario": self.scenario.to_dict(),
            "config": config_from_layout(run.parent.config, own).to_json_string(),
            "sublayers": {label: asdict(d) for label, d in self._depths(run.parent.shape).items()},
            "clock": self.clock,
            **({"devices": self.devices} if self.devices > 1 else {}),
        }

    def _depths(self, shape: ModelShape) -> dict[str, Depth]:
        """Returns how many copies of each sublayer are timed where memory allows."""
        return {
            label: timed_depth(shape, Block.from_label(label), self.scenario, self.device)
            for label in self.labels
        }

    def build(self, run: Run, directory: Path) -> None:
        """Times all sublayers in turns."""
        measured = _measure(run.parent, self._depths(run.parent.shape), self)
        (directory / FILE).write_text(json.dumps(measured), encoding="utf-8")

    def load(self, run: Run, artifact: Artifact) -> Times:
        """Returns the medians and spreads of the samples."""
        with interpreting(artifact.path / FILE, "timings of sublayers", DamagedArtifactError):
            stored = artifact.load_json(FILE)
            seconds, spreads = {}, {}
            for label, phases in stored["samples"].items():
                seconds[label], spreads[label] = _summary(phases)
            for label in stored["out_of_memory"]:
                seconds[label] = {"prefill": math.inf, "decode": math.inf}
            return Times(
                seconds=seconds, spread=spreads, record=stored["record"], watts=stored["watts"]
            )

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what the minimum of rounds takes: prompts and a few steps of each stack."""
        roofline, shape, scenario = here(sizes), sizes.shape, self.scenario
        rounds = 1 + WARM_UP + LEAST_ROUNDS  # the first one shows what fits into memory
        fixed = counting.fixed_parameters(shape) * scenario.weight_bytes
        seconds, largest, together = rounds * self._fixed_seconds(roofline), 0.0, 0.0
        depths = self._depths(shape)
        for label, depth in depths.items():
            block = Block.from_label(label)
            cost = roofline.block_cost(0, block, scenario)
            step = depth.decode * cost["decode_seconds"] / scenario.generated_tokens
            count = len(contexts(scenario)) if block.attention.kind == "gqa" else 1
            steps = count * self._steps(step) * step
            seconds += rounds * (depth.prefill * cost["prefill_seconds"] + steps)
            together += stack_bytes(shape, block, scenario, depth.most)
            largest = max(largest, stack_bytes(shape, block, scenario, 2))
        room = STACKS * sizes.room
        copies = [each for depth in depths.values() for each in asdict(depth).values()]
        return Estimate(
            name="costs",
            work=f"{len(depths)} sublayers, {rounds} rounds or more, stacks of {min(copies)} to "
            f"{max(copies)}",
            seconds=seconds,
            memory=sizes.used + fixed + (together if together <= room else max(largest, room)),
            disk=0.0,
        )

    def _fixed_seconds(self, roofline: Roofline) -> float:
        """Returns what a round takes of the model without layers."""
        cost = roofline.fixed_cost(roofline.shape, self.scenario)
        step = cost["decode_seconds"] / self.scenario.generated_tokens
        return cost["prefill_seconds"] + self._steps(step) * step

    def _steps(self, seconds: float) -> int:
        """Returns how many decode steps of so many seconds are timed together."""
        return STEPS if torch.device(self.device).type == "cuda" else steps_together(seconds)


def here(sizes: Sizes) -> Roofline:
    """Returns a roofline of this machine from its measured rates, for estimates."""
    rates = sizes.rates
    flops = {"float32": rates.fits, "bfloat16": rates.model}
    spec = DeviceSpec(
        name="here", flops=flops, memory=math.inf, bandwidth=rates.bandwidth, source="measured"
    )
    efficiency = Efficiency(compute=1.0, memory=1.0, launch=OVERHEAD)
    return Roofline(spec, sizes.shape, efficiency=efficiency)


def _summary(
    phases: Mapping[str, list[float]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns medians and spreads of prefill and of the mean decode step."""
    steps = [values for name, values in phases.items() if name.startswith("decode")]
    seconds = {
        "prefill": statistics.median(phases["prefill"]),
        "decode": mean_step([statistics.median(values) for values in steps]),
    }
    return seconds, {"prefill": spread(phases["prefill"]), "decode": max(map(spread, steps))}


@torch.no_grad()
def _measure(parent: Parent, depths: Mapping[str, Depth], stage: SublayerTimes) -> dict[str, Any]:
    scenario, device = stage.scenario, stage.device
    _warn_of_others(device)
    watch, room = Stopwatch(device, stage.clock), STACKS * free_memory(device)
    fixed = fixed_job(parent, scenario, device, watch, stage.devices)
    timed = _Timed(samples={}, too_large=[], watts={}, drift=0.0)
    labels, shape, used = sorted(depths), parent.shape, dict(depths)
    blocks = {label: Block.from_label(label) for label in labels}
    whole = (stack_bytes(shape, blocks[label], scenario, depths[label].most) for label in labels)
    groups = [labels] if sum(whole) <= room else [[label] for label in labels]
    for group in groups:
        jobs: dict[str, Callable[[], Seconds]] = {FIXED: fixed}
        for label in group:
            block = blocks[label]
            # Only what does not fit beside the others is timed alone, and less deep if need be.
            if len(groups) > 1:
                used[label] = used[label].within(depth_within(shape, block, scenario, room))
            try:
                jobs[label] = stack_job(parent, block, scenario, device, watch, used[label])
                jobs[label]()  # memory is allocated when it runs; what does not fit is left out
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                jobs.pop(label, None)
                timed.leave_out(label, device)
        timed.take(jobs, device)
    record = {
        "device": device_record(device),
        "depths": {label: asdict(depth) for label, depth in used.items()},
        "drift": timed.drift,
        "gpu": _gpu_state(device),
    }
    if watch.cuda:
        record["peak_memory"] = torch.cuda.max_memory_allocated(device)
    return {
        "samples": timed.samples,
        "out_of_memory": timed.too_large,
        "record": record,
        "watts": timed.watts if len(timed.watts) == len(timed.samples) else {},
    }


@dataclass(slots=True, kw_only=True)
class _Timed:
    """What was timed so far."""

    samples: Samples
    too_large: list[str]
    watts: dict[str, float]
    drift: float

    def take(self, jobs: Mapping[str, Callable[[], Seconds]], device: str) -> None:
        """Times jobs in turns."""
        samples, drift = take_turns(jobs)
        self.samples = {**samples, **self.samples}
        self.drift = max(self.drift, drift, key=abs)
        self.watts = {**_watts(jobs, device), **self.watts}

    def leave_out(self, label: str, device: str) -> None:
        """Notes a sublayer that does not fit into memory."""
        self.too_large.append(label)
        logger.warning("%s does not fit into %s: it is left out", label, device)
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def _watts(jobs: Mapping[str, Callable[[], Seconds]], device: str) -> dict[str, float]:
    """Returns the mean power of each job; empty if it is unknown for any of them."""
    gpu = _gpu(device)
    powers = {name: mean_power(job, gpu.uuid if gpu else None) for name, job in jobs.items()}
    known = {name: watts for name, watts in powers.items() if watts is not None}
    return known if len(known) == len(powers) else {}


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
            "process %d (%s) also runs on %s; times measured now are too long",
            process.pid,
            process.name,
            device,
        )
