"""What a family of three sizes takes beyond one search, and what nesting takes to solve.

    python benchmarks/size_family.py --out family-run [--nested]
    python benchmarks/size_family.py --nesting

With `--out`, the demo's parent is searched for the middle size alone, on a quarter of the demo's
text, then for three sizes free and, with `--nested`, for three nested ones. All have one run
directory, which has to be new, so that what a line says is what it takes beyond those before it.
Seconds are those of the CPU and of the clock. Costs are modelled (`roofline:h100-sxm`), so that
nothing is timed and layouts are the same each time.

With `--nesting`, `solve_nested` is timed on random problems of the size of real searches: 54
options for each layer, three members, of which the first is short of one resource and the last of
another.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.machine import print_machine
from solver_times import ATTENTION, FFN, random_problem

import puzzle
from puzzle.demo import DEMO_DATA, demo_text, fetch_demo_model
from solvers import Limit, solve_nested

SIZES = {"nano": "parameters <= 0.65x", "super": "parameters <= 0.8x", "ultra": "kv_cache <= 0.7x"}


def spent() -> tuple[float, float]:
    """Returns the CPU-seconds of this process so far, and the clock's."""
    return time.process_time(), time.perf_counter()


def searches(out: Path, effort: str, tokens: int, *, nested: bool) -> dict[str, Any]:
    """Returns what one search and two families took, and what they chose."""
    data = replace(
        DEMO_DATA,
        fit_tokens=tokens,
        healing_tokens=tokens,
        score_tokens=256,
        validation_tokens=512,
    )
    common: dict[str, Any] = {
        "hardware": "roofline:h100-sxm",
        "device": "cpu",
        "precision": "float32",
        "data": data,
        "effort": effort,
    }
    parent, text, found = fetch_demo_model(), demo_text(), {}
    runs: dict[str, Any] = {
        "one search": lambda: puzzle.search(
            parent, text, constraints=SIZES["super"], out=out, **common
        ),
        "three free, beyond it": lambda: puzzle.family(
            parent, text, sizes=SIZES, out=out, **common
        ),
    }
    if nested:
        runs["three nested, beyond them"] = lambda: puzzle.family(
            parent, text, sizes=SIZES, nested=True, out=out, **common
        )
    if out.exists():
        raise SystemExit(f"{out} exists; give a new directory")
    for name, run in runs.items():
        cpu, clock = spent()
        result = run()
        after = spent()
        children = result if isinstance(result, puzzle.FamilyResult) else {"super": result}
        found[name] = {
            "cpu_seconds": round(after[0] - cpu, 1),
            "seconds": round(after[1] - clock, 1),
            "kl": {size: child.measured.child.kl for size, child in children.items()},
            "scored": {size: child.solution.objective for size, child in children.items()},
            "price": getattr(result, "price", {}),
        }
        print(name, json.dumps(found[name]), flush=True)
    return found


def nesting() -> list[dict[str, Any]]:
    """Returns what nested families of random problems took to solve."""
    found = []
    for layers in (8, 16, 32):
        problem = random_problem(layers, 2, "mid", seed=0)
        first, second = problem.limits
        shares = ((0.6, 1.2), (0.9, 0.9), (1.2, 0.8))
        problems = [
            problem.with_limits(
                Limit(limit.resource, at_most=(limit.at_most or 0.0) * share)
                for limit, share in zip((first, second), own, strict=True)
            )
            for own in shares
        ]
        labels = [label.split("+") for group in problem.groups for label in group]
        heads = [ATTENTION[own] + 0.5 * (own == "linear") for own, _ in labels]
        widths = [FFN[own] + 0.05 * (own == "linear") for _, own in labels]
        sizes = {"attention": heads, "cache": [int(each) for each in heads], "ffn": widths}
        cpu, clock = spent()
        nested = solve_nested(problems, [sizes] * len(problems))
        after = spent()
        found.append(
            {
                "layers": layers,
                "cpu_seconds": round(after[0] - cpu, 2),
                "seconds": round(after[1] - clock, 2),
                "free_seconds": round(sum(each.seconds for each in nested.free), 2),
                "price": nested.price,
                "status": nested.status.value,
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--tokens", type=int, default=DEMO_DATA.fit_tokens // 4)
    parser.add_argument("--nested", action="store_true")
    parser.add_argument("--nesting", action="store_true")
    given = parser.parse_args()
    print_machine(packages=("torch", "highspy"))
    if given.nesting:
        nesting()
    if given.out is not None:
        searches(given.out, given.effort, given.tokens, nested=given.nested)


if __name__ == "__main__":
    main()
