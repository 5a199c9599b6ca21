"""Search NVIDIA's block library for a layout as good as the published Llama-3.3-Nemotron-Super-49B.

    python examples/reproduce_super.py LIBRARY

LIBRARY is the folder, or the file block_library.json, of the block library that NVIDIA publishes
with its paper (github.com/NVlabs/puzzle). It has a licence of its own and is not part of this
project. The published layout's costs are looked up in the library, and the search gets its memory
and its time as limits: the optimum has no larger sum of KL divergences. Many layouts are nearly as
good, so the two agree in most layers but not in all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from puzzle.scoring.score_table import ScoreTable
from search_space import Block, Layout
from solvers import ChoiceProblem, pool, solve

COSTS = ("memory_mib", "runtime_ms")


def reproduce(library: Path) -> bool:
    """Prints the comparison; returns whether the optimum is good enough."""
    table = ScoreTable.load(library)
    published = Layout.published("llama-3.3-nemotron-super-49b-v1")
    choices = table.choices(published)
    score, costs = table.problem().evaluate(choices)
    print(f"library: {table.layers} layers, {dict(table.measurement)}")
    print(f"published: KL {score:.4f}, {_costs(costs)}")

    problem = table.problem(limits={name: costs[name] for name in COSTS})
    solution = solve(problem, start=choices)
    blocks = [Block.from_label(label) for label in solution.labels]
    layout = Layout(published.shape, tuple(blocks))
    print(f"optimum:   KL {solution.objective:.4f}, {_costs(solution.resources)}")
    print(f"           {solution.status}, bound {solution.bound:.4f}, {solution.seconds:.2f} s")
    same = sum(a == b for a, b in zip(blocks, published.blocks, strict=True))
    pairs = zip(blocks, published.blocks, strict=True)
    attention = sum(a.attention == b.attention for a, b in pairs)
    print(f"agreement: {same} of {table.layers} blocks, {attention} attention choices")
    print(
        f"parameters: {layout.parameters():,} in the optimum, {published.parameters():,} published"
    )
    _flatness(problem, choices)
    return solution.objective <= 7.868 and _published_values(table)


def _flatness(problem: ChoiceProblem, choices: tuple[int, ...]) -> None:
    print("layouts at least 10 layers apart, best first:")
    for solution in pool(problem, 4, 10, time_limit=30.0):
        same = sum(a == b for a, b in zip(solution.choices, choices, strict=True))
        print(f"  KL {solution.objective:.4f}, {same} blocks as published")


def _published_values(table: ScoreTable) -> bool:
    """Checks the objectives that NVIDIA publishes for three searches of its library."""
    parent = table.parent_totals()
    most = {name: 0.85 * parent[name] for name in COSTS}
    objectives = [
        solve(table.problem(limits={"memory_mib": 80_000, "runtime_ms": 51_200})).objective,
        solve(table.problem(limits={"memory_mib": 40_000})).objective,
        *(solution.objective for solution in pool(table.problem(limits=most), 3, 20)),
    ]
    expected = [6.861455, 18.935023, 3.2821, 3.3417, 3.3822]
    print("objectives of the published examples:")
    for value, known in zip(objectives, expected, strict=True):
        print(f"  {value:.6f} here, {known} published")
    return all(abs(a - b) < 1e-4 for a, b in zip(objectives, expected, strict=True))


def _costs(costs: dict[str, float]) -> str:
    return f"{costs['memory_mib']:,.1f} MiB, {costs['runtime_ms']:,.1f} ms"


def main() -> None:
    """Reads the path and exits with 1 if the optimum is not good enough."""
    parser = argparse.ArgumentParser(description="Reproduce the search behind Super-49B.")
    parser.add_argument("library", type=Path, help="folder or file of the block library")
    raise SystemExit(0 if reproduce(parser.parse_args().library) else 1)


if __name__ == "__main__":
    main()
