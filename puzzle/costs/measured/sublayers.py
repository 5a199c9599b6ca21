"""Costs measured on a device of this machine, one distinct sublayer shape at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from puzzle.costs.calibrated.design import sublayers
from puzzle.costs.measured.sublayer_times import FIXED, SublayerTimes
from puzzle.costs.protocol import RESOURCES, STANDARD_UNITS, counted_cost
from puzzle.costs.tensor_parallel import TensorParallel, require_link
from puzzle.errors import ConstraintError
from puzzle.hardware.format_speed import fast_format
from puzzle.hardware.identity import require_device
from puzzle.limits.scenario import Scenario
from puzzle.models.parent import Parent
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from search_space import Block, ModelShape, SearchSpace, counting
from search_space.device_shares import device_share


class MeasuredCosts:
    """Seconds of each distinct sublayer, timed inside a stack of copies.

    A stack of copies, each with weights of its own and together larger than the processor's cache,
    reads its weights from where the real model does; a single copy timed repeatedly would stay in
    the cache. All shapes are timed in turn, round after round, and the median is taken, so that a
    slow spell of the machine affects all of them. Decoding is timed at two numbers of cached tokens
    of the scenario, whose mean is that of the reply. On a GPU, stacks are as deep as the model,
    times are between CUDA events, decoding runs as a CUDA graph and the L2 cache is
    overwritten between repeats. A shape that does not fit into memory costs infinity.

    A GPU that reports its energy or power gives "energy" as well: the mean power while a
    sublayer runs, times its seconds. A CPU gives none.

    Of several devices that share each layer, one is timed, with its share of every sublayer as vLLM
    divides them; the time in which outputs are added up is computed from the bandwidth of the link.
    Memory and KV cache are then those of one device, and energy is that of all.

    Args:
        shape: The parent's sizes.
        seconds: For "fixed" and each sublayer label, the medians of one prefill and of the mean
            decode step of the scenario, in seconds per layer; infinite where it cannot run.
        spread: For each of those, the interquartile range as a share of the median.
        scenario: What was timed; other scenarios are refused. None where that does not matter.
        record: The device it was timed on, and the drift.
        watts: Mean power while "fixed" and each sublayer ran; empty where that is not known.
        device: The device that was timed, if it is one of this machine and runs whole models.
        group: The devices that share each layer; by default one has it alone.
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
        group: TensorParallel | None = None,
    ) -> None:
        self.device, self.group = device, group or TensorParallel()
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
        tensor_parallel: int = 1,
        link: float | None = None,
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
                disturbs, and which equal wall time where torch has one thread.
            tensor_parallel: Devices that share each layer, of which this is one.
            link: Bytes per second between them in one direction; needed if there are several.

        Raises:
            CostModelError: The parent cannot be divided among so many devices, or there is no link.
            ConstraintError: The scenario stores the KV cache in another type than the weights,
                which torch does not support, or the device lacks the memory even for the head.
            ParentError: torch cannot use the device.
        """
        require_device(device)
        served = scenario.served_in(fast_format(device, workspace=workspace).name)
        stage = SublayerTimes.of(
            space,
            served,
            extra=extra,
            device=device,
            clock=clock,
            tensor_parallel=tensor_parallel,
        )
        return cls.read(Run(workspace=workspace, parent=parent), stage, link=link)

    @classmethod
    def read(cls, run: Run, stage: SublayerTimes, *, link: float | None = None) -> MeasuredCosts:
        """Returns the costs that follow from times of sublayers, measured now if need be.

        Args:
            run: The run.
            stage: Which sublayers, where and in which scenario.
            link: As for `measure`.

        Raises:
            CostModelError: Several devices share each layer, and there is no link.
        """
        group = require_link(link, stage.devices)
        times = run.get(stage)
        return cls(
            run.parent.shape,
            times.seconds,
            times.spread,
            scenario=stage.scenario,
            record=times.record,
            watts=times.watts,
            device=stage.device if stage.devices == 1 else None,
            group=group,
        )

    def _with_format(self, scenario: Scenario) -> Scenario:
        """Returns the scenario with "auto" replaced by the number format that was timed."""
        return scenario if self.scenario is None else scenario.served_in(self.scenario.weight_dtype)

    def _timed(self, label: str, scenario: Scenario) -> dict[str, float]:
        if self.scenario is not None and self._with_format(scenario) != self.scenario:
            raise ConstraintError(
                f"costs measured for {self.scenario} cannot be used for {scenario}; measure this "
                "scenario too"
            )
        prefill = self.seconds[label]["prefill"]
        decode = self.seconds[label]["decode"] * scenario.generated_tokens
        cost = {
            "prefill_seconds": prefill,
            "decode_seconds": decode,
            "seconds": prefill + decode,
        }
        if self.watts:
            # What did not fit was not run.
            cost["energy"] = self.group.devices * self.watts.get(label, math.inf) * cost["seconds"]
        return cost

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns the cost of one block; the seconds are the same in every layer."""
        served = self._with_format(scenario)
        share = device_share(self.shape, block, self.group.devices)
        limited = self.shape.windowed(layer, share or block)
        total = counted_cost(self.shape, limited, served)
        total["parameters"] = float(counting.block_parameters(self.shape, block))
        if share is None:
            return {name: total.get(name, math.inf) for name in self.resources}
        prefill, decode = self.group.exchange(self.shape, share, served)
        seconds = prefill + decode
        total |= {"prefill_seconds": prefill, "decode_seconds": decode, "seconds": seconds}
        for part in sublayers(share):
            for name, value in self._timed(part, scenario).items():
                total[name] = total.get(name, 0.0) + value
        return {name: total.get(name, 0.0) for name in self.resources}

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns the cost of embedding, masks, rotary tables, final norm and head."""
        parameters = float(counting.fixed_parameters(shape))
        return {
            **self._timed(FIXED, scenario),
            "memory": parameters * self._with_format(scenario).weight_bytes / self.group.devices,
            "kv_cache": 0.0,
            "parameters": parameters,
        }
