"""Roofline: costs from operations, bytes and peak rates, for planning without the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from puzzle.costs.device_specs import DeviceSpec, device_spec
from puzzle.costs.protocol import RESOURCES, activation_bytes
from puzzle.costs.tensor_parallel import (
    LINK_SHARE,
    SYNCHRONISE,
    TensorParallel,
    require_devices,
)
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from puzzle.storage.plain_values import make_plain
from search_space import FFN, Attention, Block, ModelShape, counting
from search_space.blocks import MIXERS
from search_space.device_shares import device_share

__all__ = ["Efficiency", "Roofline"]

# int4 carries a 16-bit scale for each group of 128 weights.
FORMAT_BYTES = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5 + 2 / 128,
}
CACHE_FORMATS = ("float32", "bfloat16", "float16", "fp8", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """The shares of the peak rates that programs reach.

    The defaults of `compute`, `memory` and `synchronise` were fitted to published throughputs of
    two models on H100 SXM in FP8 (docs/results/costs.md); `link` and `launch` are assumed.

    Args:
        compute: Share of the peak operations per second, in (0, 1].
        memory: Share of the peak bandwidth, in (0, 1].
        link: Share of the link's bandwidth, in (0, 1].
        launch: Seconds that each sublayer takes in each pass, whatever its size.
        synchronise: Additional seconds of each all-reduce, where there are several devices.

    Raises:
        CostModelError: A share is outside (0, 1], or a time is negative.
    """

    compute: float = 0.67
    memory: float = 0.62
    link: float = LINK_SHARE
    launch: float = 5e-6
    synchronise: float = SYNCHRONISE

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("compute", "memory", "link"):
            if not 0 < getattr(self, name) <= 1:
                raise CostModelError(
                    f"Efficiency.{name} is {getattr(self, name)!r}; give a share above 0, up to 1"
                )
        for name in ("launch", "synchronise"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise CostModelError(f"Efficiency.{name} is {value!r}; give seconds, 0 or more")


@dataclass(frozen=True, slots=True)
class _Pass:
    """Work of one sublayer in one forward pass, on one device."""

    flops: float
    bytes: float


class Roofline:
    """Seconds from the slower of computing and moving, per product, plus communication.

    Each matrix product takes as long as its operations at the device's peak rate or its bytes at
    the device's bandwidth, whichever is longer, each at a stated efficiency (Williams et al.,
    2009). The attention's products with the cache are counted separately from its projections. With
    several devices each holds its share of heads and channels, as vLLM divides them, at least one
    KV head, and linear sublayers whole. Every divided sublayer ends in an all-reduce of its output,
    2 (n - 1) / n of its bytes over the link in each direction. A block that cannot be divided among
    the devices takes infinite time.

    Decoding reads all weights once per step, and a cache that grows from the prompt to the whole
    sequence. `memory`, `kv_cache` and `peak_memory` are per device; `parameters` and `flops`
    are totals. `peak_memory` adds the widest activations of the prompt and the logits. Energy is
    not modelled.

    Args:
        spec: The device, or its name in `puzzle.costs.SPECS`.
        shape: The parent's sizes.
        tensor_parallel: Devices that share each layer.
        weight_dtype: Format of the blocks' weights, None for the scenario's: float32, bfloat16,
            float16, fp8, int8 or int4. Embedding and head stay in the scenario's. fp8 and int8
            also compute at that rate where the device has one; int4 computes in 16 bits. Of a
            sublayer with weights of its own format (`search_space.WEIGHT_FORMATS`), the bytes are
            those of that format, and the operations those of this one.
        cache_dtype: Format of the KV cache, None for the scenario's.
        efficiency: The shares of the peak rates that are reached.

    Raises:
        CostModelError: The device or a format is unknown, or the number of devices is not allowed.

    Example:
        >>> shape = ModelShape(layers=32, hidden=4096, heads=32, head_dim=128, kv_heads=8,
        ...                    ffn_width=14336, vocab=128256)
        >>> costs = Roofline("h100-sxm", shape, weight_dtype="fp8")
        >>> costs.block_cost(0, shape.parent_blocks[0], Scenario())["kv_cache"]
        8388608.0
    """

    additive = "sublayers"

    def __init__(
        self,
        spec: DeviceSpec | str,
        shape: ModelShape,
        *,
        tensor_parallel: int = 1,
        weight_dtype: str | None = None,
        cache_dtype: str | None = None,
        efficiency: Efficiency | None = None,
    ) -> None:
        self.spec = spec if isinstance(spec, DeviceSpec) else device_spec(spec)
        self.shape, self.efficiency = shape, efficiency or Efficiency()
        self.weight_dtype = _format("weight_dtype", weight_dtype, tuple(FORMAT_BYTES))
        self.cache_dtype = _format("cache_dtype", cache_dtype, CACHE_FORMATS)
        self.devices = require_devices(tensor_parallel, shape)
        if self.devices > 1 and not self.spec.link:
            raise CostModelError(
                f"tensor_parallel={self.devices}, but {self.spec.name!r} has no link to other "
                "devices; use 1, or a DeviceSpec with a link"
            )
        self.group = TensorParallel(
            devices=self.devices,
            link=self.spec.link,
            share=self.efficiency.link,
            synchronise=self.efficiency.synchronise,
        )
        self.resources: Mapping[str, str] = {**RESOURCES, "peak_memory": "bytes", "flops": "FLOP"}

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns the cost of one block; the same in layers of the same window."""
        block = self.shape.windowed(layer, block)
        whole, share = block, device_share(self.shape, block, self.devices)
        block = share or block
        parts = [part for part in (block.attention, block.ffn) if part.kind != "none"]
        prompt, steps = scenario.prompt_tokens, scenario.generated_tokens
        window, tokens = block.attention.window, scenario.sequence_tokens
        read = counting.attended_pairs(prompt, window)
        prefill = sum(self._sublayer_seconds(part, scenario, prompt, read) for part in parts)
        # Bytes and operations grow linearly with the tokens attended to: their mean represents all
        # steps.
        mean = (counting.attended_pairs(tokens, window) - read) / steps
        decode = steps * sum(self._sublayer_seconds(part, scenario, 1, mean) for part in parts)
        exchanges = self.group.exchange(self.shape, block, scenario)
        prefill, decode = prefill + exchanges[0], decode + exchanges[1]
        if share is None:
            prefill = decode = math.inf
        parameters = counting.block_parameters(self.shape, whole)
        cached = tokens if window is None else min(tokens, window)
        if block.attention.kind in MIXERS:
            cached = 1
        cache = scenario.batch * cached * self._cache_bytes(block.attention, scenario)
        usual = self._weight_bytes(scenario)
        held = counting.attention_weight_bytes(self.shape, block.attention, usual)
        held = held / self._ways(block.attention)
        memory = held + counting.ffn_weight_bytes(self.shape, block.ffn, usual) + cache
        flops = counting.block_flops(
            self.shape, whole, tokens=scenario.total_tokens, pairs=scenario.pairs_within(window)
        )
        return {
            "prefill_seconds": prefill,
            "decode_seconds": decode,
            "seconds": prefill + decode,
            "memory": memory,
            "kv_cache": cache,
            "parameters": float(parameters),
            "peak_memory": memory,
            "flops": float(flops),
        }

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns the cost of embedding and head, and the widest activations."""
        head = shape.vocab * shape.hidden
        per_token = counting.head_flops(shape) / self.devices
        size = head * scenario.weight_bytes / self.devices
        one_pass = _Pass(scenario.batch * per_token, size)
        once = self._seconds(one_pass, scenario.served_dtype) + self.efficiency.launch
        parameters = float(counting.fixed_parameters(shape))
        memory = parameters * scenario.weight_bytes / self.devices
        return {
            "prefill_seconds": once,
            "decode_seconds": scenario.generated_tokens * once,
            "seconds": once + scenario.generated_tokens * once,
            "memory": memory,
            "kv_cache": 0.0,
            "parameters": parameters,
            "peak_memory": memory + activation_bytes(shape, scenario, self.devices),
            "flops": float(counting.head_flops(shape) * scenario.decoded_tokens),
        }

    def _sublayer_seconds(
        self, part: Attention | FFN, scenario: Scenario, length: int, pairs: float
    ) -> float:
        """Returns the seconds of one pass of `length` new tokens of each sequence, on one device.

        Args:
            part: The sublayer, or a device's share of it.
            scenario: Batch and number formats.
            length: New tokens of each sequence.
            pairs: Pairs of a new token and one that it attends to, in each sequence.
        """
        shape, tokens = self.shape, scenario.batch * length
        activations = 2.0 * tokens * shape.hidden * scenario.weight_bytes
        if isinstance(part, Attention):
            flops = counting.attention_flops(shape, part, tokens=tokens, pairs=0)
            held = counting.attention_weight_bytes(shape, part, self._weight_bytes(scenario))
        else:
            flops = counting.ffn_flops(shape, part, tokens=tokens)
            parameters = counting.active_ffn_parameters(shape, part, tokens)
            held = parameters * counting.bytes_of(part.weights, self._weight_bytes(scenario))
        ways = self._ways(part)
        products = _Pass(flops / ways, held / ways + activations)
        seconds = self._seconds(products, self._compute_format(scenario))
        if isinstance(part, Attention) and part.kind == "gqa":
            queries = counting.query_heads(shape, part) * shape.head_dim
            scores = 4 * scenario.batch * pairs * queries
            # A prompt's keys and values are read once; a step reads what its token attends to.
            keys = pairs if length == 1 else float(length)
            moved = scenario.batch * keys * self._cache_bytes(part, scenario)
            seconds += self._seconds(_Pass(scores, moved), scenario.served_dtype)
        elif (
            isinstance(part, Attention) and part.kind in MIXERS
        ):  # its state is read and written once in each pass
            moved = 2 * scenario.batch * self._cache_bytes(part, scenario)
            seconds += self._seconds(_Pass(0.0, moved), scenario.served_dtype)
        return seconds + self.efficiency.launch

    def _ways(self, part: Attention | FFN) -> int:
        """Returns what a sublayer's work is divided by that has no sizes for a device's share."""
        return self.devices if part.kind in MIXERS else 1

    def _seconds(self, work: _Pass, number_format: str) -> float:
        rates = self.spec.flops
        wanted = "bfloat16" if number_format in ("float16", "int4") else number_format
        peak = rates.get(wanted, rates["bfloat16"])
        compute = work.flops / (peak * self.efficiency.compute)
        return max(compute, work.bytes / (self.spec.bandwidth * self.efficiency.memory))

    def _weight_bytes(self, scenario: Scenario) -> float:
        return FORMAT_BYTES[self.weight_dtype or scenario.served_dtype]

    def _compute_format(self, scenario: Scenario) -> str:
        return self.weight_dtype or scenario.served_dtype

    def _cache_bytes(self, attention: Attention, scenario: Scenario) -> float:
        """Returns the cache bytes of one token of a device's share of an attention.

        Of a hybrid's mixer, those of its state, of which each device holds its part.
        """
        own_format = self.cache_dtype or scenario.cache_dtype or scenario.served_dtype
        if attention.kind in MIXERS:
            return counting.mixer_state(self.shape) * FORMAT_BYTES[own_format] / self.devices
        heads = attention.kv_heads or 0
        return 2.0 * heads * self.shape.head_dim * FORMAT_BYTES[own_format]


def _format(name: str, value: str | None, known: tuple[str, ...]) -> str | None:
    if value is not None and value not in known:
        raise CostModelError(
            f"{name}={value!r}; allowed: None (the scenario's), {', '.join(known)}"
        )
    return value
