"""The roofline against published speeds: fitted on some rows, tested on the others.

Throughputs, tokens/s for each H100 SXM in FP8 (weights and cache) with TensorRT-LLM: Puzzle, arXiv
2411.19146, table of Nemotron-51B and Llama-3.1-70B. The table gives no batch sizes: the model takes
the best one up to 256 that fits into 95 % of the memory with the cache of complete sequences. (This
rule was chosen on all rows, as the one of twelve that left the least error.)

Latencies, tokens/s of one sequence on eight H100: FFN Fusion, arXiv 2503.18908. Precision and
lengths are not given: FP8 and 128 tokens in and out are assumed.

No device is needed: this takes a minute on one core. There is no randomness.

    python benchmarks/roofline.py
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.machine import print_machine
from scipy.optimize import minimize

from puzzle.costs.roofline import Efficiency, Roofline
from puzzle.limits.scenario import Scenario
from search_space import Layout, published_layout, remove_identity_layers

BATCHES = (1, 2, 4, *range(8, 257, 8))
SHARE_OF_MEMORY = 0.95

N51 = published_layout("llama-3.1-nemotron-51b").layout
N49 = published_layout("llama-3.3-nemotron-super-49b-v1").layout
L70 = Layout.parent(N51.shape)
ULTRA = published_layout("llama-3.1-nemotron-ultra-253b-v1")
UNFUSED, FUSED = ULTRA.search_result(), remove_identity_layers(ULTRA.layout)
L405 = Layout.parent(UNFUSED.shape)


@dataclass(frozen=True)
class Row:
    """A published speed, tokens/s."""

    lengths: tuple[int, int]
    name: str
    layout: Layout
    devices: int
    published: float

    @property
    def title(self) -> str:
        """Lengths, model and devices."""
        return f"{self.lengths[0]}/{self.lengths[1]} {self.name} (TP{self.devices})"


def rows(prompt: int, generated: int, *speeds: tuple[str, int, float]) -> list[Row]:
    """Rows of the Puzzle paper's table."""
    layouts = {"51B": N51, "70B": L70}
    return [Row((prompt, generated), n, layouts[n], tp, v) for n, tp, v in speeds]


FIRST = [
    *rows(128, 128, ("51B", 1, 5478), ("70B", 1, 2645)),
    *rows(128, 2048, ("51B", 2, 4910), ("70B", 4, 2786)),
    *rows(2048, 2048, ("51B", 2, 2622), ("70B", 4, 1336)),
]
SECOND = [
    *rows(128, 1024, ("51B", 1, 6472), ("70B", 4, 2975), ("70B", 1, 1274)),
    *rows(128, 4096, ("51B", 2, 3855), ("70B", 4, 1828)),
    *rows(2048, 128, ("51B", 1, 653), ("70B", 4, 339), ("70B", 1, 301)),
]
LATENCY = [
    Row((128, 128), "405B", L405, 8, 41.44),
    Row((128, 128), "70B", L70, 8, 94.03),
    Row((128, 128), "253B before fusion", UNFUSED, 8, 63.38),
    Row((128, 128), "Ultra-253B", FUSED, 8, 70.92),
]


def cost(costs: Roofline, layout: Layout, scenario: Scenario) -> dict[str, float]:
    """The same as `layout_cost`, equal blocks priced once."""
    total = costs.fixed_cost(layout.shape, scenario)
    for block, count in Counter(layout.blocks).items():
        for name, value in costs.block_cost(0, block, scenario).items():
            total[name] += count * value
    return total


def model(layout: Layout, devices: int, efficiency: Efficiency) -> Roofline:
    """The roofline of H100s that serve in FP8."""
    return Roofline(
        "h100-sxm",
        layout.shape,
        tensor_parallel=devices,
        weight_dtype="fp8",
        cache_dtype="fp8",
        efficiency=efficiency,
    )


def throughput(row: Row, efficiency: Efficiency) -> tuple[float, int]:
    """Tokens/s for each device at the best batch that fits, and that batch."""
    costs, best = model(row.layout, row.devices, efficiency), (0.0, 0)
    prompt, generated = row.lengths
    for batch in BATCHES:
        scenario = Scenario(batch=batch, prompt_tokens=prompt, generated_tokens=generated)
        total = cost(costs, row.layout, scenario)
        if total["memory"] > SHARE_OF_MEMORY * costs.spec.memory:
            break
        best = max(best, (batch * generated / total["seconds"] / row.devices, batch))
    return best


def single(row: Row, efficiency: Efficiency) -> tuple[float, int]:
    """Tokens/s of one sequence."""
    prompt, generated = row.lengths
    scenario = Scenario(batch=1, prompt_tokens=prompt, generated_tokens=generated)
    total = cost(model(row.layout, row.devices, efficiency), row.layout, scenario)
    return generated / total["decode_seconds"], 1


Speed = Callable[[Row, Efficiency], tuple[float, int]]


def fit(
    speed: Speed, table: Sequence[Row], base: Efficiency, start: dict[str, float]
) -> Efficiency:
    """The named efficiencies with the least sum of |log(predicted / published)|, of several starts.

    Absolute and not squared, since a row whose batch was different may be far off.
    """

    def made(values: Sequence[float]) -> Efficiency:
        sizes = {name: abs(float(value)) for name, value in zip(start, values, strict=True)}
        shares = {n: min(v, 1.0) for n, v in sizes.items() if n in ("compute", "memory")}
        micros = {n: 1e-6 * v for n, v in sizes.items() if n not in shares}
        return replace(base, **shares, **micros)

    def loss(values: Sequence[float]) -> float:
        efficiency = made(values)
        return sum(abs(math.log(speed(row, efficiency)[0] / row.published)) for row in table)

    options = {"maxfev": 300, "xatol": 1e-3, "fatol": 1e-6}
    starts = ([factor * value for value in start.values()] for factor in (0.7, 1.0, 1.3))
    tries = [minimize(loss, x, method="Nelder-Mead", options=options) for x in starts]
    return made(min(tries, key=lambda result: result.fun).x)


def errors(pairs: Sequence[tuple[str, float, float, str]]) -> None:
    """Prints a table of (name, published, predicted, remark) and sums it up."""
    print("| row | published | predicted | error |\n|---|---|---|---|")
    for name, published, predicted, remark in pairs:
        error = f"{predicted / published - 1:+.1%}"
        print(f"| {name} | {published:.4g} | {predicted:.4g}{remark} | {error} |")
    sizes = [abs(predicted / published - 1) for _, published, predicted, _ in pairs]
    print(f"\nmedian error {statistics.median(sizes):.1%}, worst {max(sizes):.1%}\n")


def absolute(speed: Speed, table: Sequence[Row], efficiency: Efficiency) -> None:
    """Prints predicted and published speeds."""
    speeds = [(row, *speed(row, efficiency)) for row in table]
    errors([(row.title, row.published, value, f" ({batch})") for row, value, batch in speeds])


def ratios(speed: Speed, table: Sequence[Row], base: str, efficiency: Efficiency) -> None:
    """Prints predicted and published ratios to the base model at the same lengths."""
    pairs = [
        (f"{row.title} : {other.name} (TP{other.devices})", row, other)
        for other in table
        for row in table
        if other.name == base and row.name not in ("70B", base) and row.lengths == other.lengths
    ]
    errors(
        [
            (name, a.published / b.published, speed(a, efficiency)[0] / speed(b, efficiency)[0], "")
            for name, a, b in pairs
        ]
    )


def main() -> None:
    """Fits and tests throughput both ways round, then latency."""
    print_machine(packages=("puzzle-nas", "numpy", "scipy"))
    start = {"compute": 0.6, "memory": 0.7, "synchronise": 50.0}
    for name, fitted, tested in (("first", FIRST, SECOND), ("second", SECOND, FIRST)):
        half_fit = fit(throughput, fitted, Efficiency(), start)
        print(f"## Throughput, fitted on the {name} half: {half_fit}\n")
        for half, table in (("fitted", fitted), ("test", tested)):
            print(f"{half} rows\n")
            absolute(throughput, table, half_fit)
            print(f"ratios of {half} rows\n")
            ratios(throughput, table, "70B", half_fit)
    efficiency = fit(throughput, [*FIRST, *SECOND], Efficiency(), start)
    print(f"## Throughput, fitted on all: {efficiency}\n")
    absolute(throughput, [*FIRST, *SECOND], efficiency)
    print("Super-49B against the 70B, 128/1024 (published: 5x or more, and 2.17x or more)\n")
    own = throughput(Row((128, 1024), "49B", N49, 1, 1.0), efficiency)
    for devices in (1, 4):
        other = throughput(Row((128, 1024), "70B", L70, devices, 1.0), efficiency)
        print(f"TP1 (batch {own[1]}) / TP{devices} (batch {other[1]}): {own[0] / other[0]:.2f}")

    print("\n## Latency, efficiencies of throughput\n")
    absolute(single, LATENCY, efficiency)
    print("ratios\n")
    ratios(single, LATENCY, "405B", efficiency)


if __name__ == "__main__":
    main()
