"""How long the solvers take on random problems of the size of real searches.

    python benchmarks/solver_times.py --quick
    python benchmarks/solver_times.py --seeds 3 --time-limit 120 --json times.json
    OMP_NUM_THREADS=1 python benchmarks/solver_times.py --hard --gap 0

Each problem has 54 options for each group, 6 attention by 9 FFN variants as in a large search.
Costs and scores are monotone: what is smaller costs less and scores worse, by amounts that differ
from layer to layer. Limits are shares of what the parent uses, up to four at once. Everything goes
through `solvers.solve`, so every route gets the same scaled matrix without dominated options;
"highs" hands it to highspy, "pulp:HiGHS" is the same HiGHS behind PuLP, "scipy" the copy of HiGHS
in SciPy, "cbc" CBC behind PuLP. "plain cbc" is what is often written by hand: all options, in the
units of the user, through PuLP to CBC, and "plain scipy" the same through `scipy.optimize.milp`.
What PuLP costs beside solving is measured apart. With `--hard`, eight problems of three and four
limits are solved by `solve` and by "plain scipy", and the ratios of their CPU-seconds reported.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common.machine import print_machine, spread

from solvers import ChoiceProblem, Limit, NoSolutionError, available_solvers, solve
from solvers._model import Variation, build_program

ATTENTION = {"gqa8": 8, "gqa4": 4, "gqa2": 2, "gqa1": 1, "linear": 0, "none": 0}
FFN = {"100": 1.0, "87": 0.87, "75": 0.75, "50": 0.5, "25": 0.25, "20": 0.2, "10": 0.1}
FFN |= {"linear": 0.0, "none": 0.0}
RESOURCES = ("memory", "runtime", "parameters", "kv_heads")
PLAIN = ("plain cbc", "plain scipy")
PACKAGES = ("numpy", "scipy", "pulp", "highspy")
SHARES = {"mid": 0.75, "tight": 0.5}
HARD = [
    (groups, limits, tightness)
    for groups in (80, 126)
    for limits, tightness in ((3, "mid"), (3, "uncorrelated"), (4, "mid"), (4, "tight"))
]


def random_problem(groups: int, limits: int, tightness: str, seed: int) -> ChoiceProblem:
    """Draw a problem.

    Args:
        groups: Number of layers.
        limits: How many of the four resources are limited.
        tightness: Key of `SHARES`: what share of the parent's use is allowed; or
            "uncorrelated", for costs and scores that have nothing to do with each other.
        seed: Seed of the drawing.

    Returns:
        The problem; scores have a size of 1e-3 to 1 and parameters of 1e7 to 1e9.
    """
    rng = np.random.default_rng(seed)
    if tightness == "uncorrelated":
        return _uncorrelated(rng, groups, limits)
    columns: dict[str, list[float]] = {name: [] for name in ("score", *RESOURCES)}
    for _ in range(groups):
        layer = _layer(rng)
        for name, values in columns.items():
            values.extend(layer[name])
    score = columns.pop("score")
    labels = tuple(f"{a}+{f}" for a, f in itertools.product(ATTENTION, FFN))
    problem = ChoiceProblem((labels,) * groups, score, columns)
    parent = problem.evaluate([0] * groups)[1]
    share = SHARES[tightness]
    return problem.with_limits(
        Limit(name, at_most=share * parent[name]) for name in RESOURCES[:limits]
    )


def _uncorrelated(rng: np.random.Generator, groups: int, limits: int) -> ChoiceProblem:
    names = RESOURCES[:limits]
    options = len(ATTENTION) * len(FFN)
    return ChoiceProblem(
        (tuple(map(str, range(options))),) * groups,
        rng.random(groups * options),
        {name: rng.random(groups * options) for name in names},
        limits=tuple(Limit(name, at_most=0.35 * groups) for name in names),
    )


def _layer(rng: np.random.Generator) -> dict[str, list[float]]:
    """One layer; damages grow as variants shrink, in steps drawn anew for each layer."""
    attention = _damage(rng, len(ATTENTION), rng.lognormal(-3.0, 1.0))
    ffn = _damage(rng, len(FFN), rng.lognormal(-3.0, 1.0))
    speed = rng.normal(1.0, 0.02, 2)
    layer: dict[str, list[float]] = {name: [] for name in ("score", *RESOURCES)}
    for (a, (kind, heads)), (f, (width_kind, width)) in itertools.product(
        enumerate(ATTENTION.items()), enumerate(FFN.items())
    ):
        own = {"linear": 67e6, "none": 0.0}.get(kind, 134e6 + 2.1e6 * heads)
        own_ffn = {"linear": 67e6, "none": 0.0}.get(width_kind, 705e6 * width)
        layer["score"].append(attention[a] + ffn[f] + 0.3 * attention[a] * ffn[f])
        layer["parameters"].append(own + own_ffn)
        layer["memory"].append((own + own_ffn) / 2**20 + 75.0 * heads)
        cache = {"linear": 0.0, "none": 0.0}.get(kind, 120.0 + 25.0 * heads)
        layer["runtime"].append(speed[0] * (own / 2e6 + cache) + speed[1] * own_ffn / 1.5e6)
        layer["kv_heads"].append(float(heads))
    return layer


def _damage(rng: np.random.Generator, variants: int, size: float) -> list[float]:
    steps = rng.exponential(1.0, variants - 1) * np.linspace(0.2, 2.0, variants - 1)
    return [0.0, *(size * np.cumsum(steps)).tolist()]


def pulp_overhead(problem: ChoiceProblem) -> float:
    """Seconds that PuLP takes to build the model and hand it to HiGHS, without solving."""
    import pulp

    from solvers._pulp import _build

    program = build_program(problem, Variation(shift_score=False))
    started = time.perf_counter()
    prob, _ = _build(program)
    solver: Any = pulp.HiGHS(msg=False, output_flag=False)
    solver.createAndConfigureSolver(prob)
    solver.buildSolverModel(prob)
    return time.perf_counter() - started


def plain_cbc(problem: ChoiceProblem, options: argparse.Namespace) -> dict[str, Any]:
    """Solve a problem as it stands, without anything that `solvers` does to it."""
    import pulp

    from solvers._pulp import cbc_path, read_outcome

    started = time.perf_counter()
    prob = pulp.LpProblem("plain", pulp.LpMinimize)
    x = [prob.add_variable(f"x_{i}", 0, 1, pulp.LpInteger) for i in range(problem.size)]
    prob += pulp.lpSum(s * v for s, v in zip(problem.score.tolist(), x, strict=True))
    for start, labels in zip(problem.starts.tolist(), problem.groups, strict=True):
        prob += pulp.lpSum(x[start : start + len(labels)]) == 1
    for limit in problem.limits:
        use = problem.resources[limit.resource].tolist()
        prob += pulp.lpSum(u * v for u, v in zip(use, x, strict=True)) <= limit.at_most
    solver = pulp.COIN_CMD(
        msg=False, path=cbc_path(), gapRel=options.gap, timeLimit=options.time_limit
    )
    ending, _ = read_outcome(prob, prob.solve(solver))
    seconds = time.perf_counter() - started
    value = sum(s * (v.value() or 0.0) for s, v in zip(problem.score, x, strict=True))
    status = {"OPTIMAL": "optimal", "STOPPED": "feasible"}.get(ending.name, "none")
    return {"status": status, "seconds": seconds, "objective": float(value)}


def plain_scipy(problem: ChoiceProblem, options: argparse.Namespace) -> dict[str, Any]:
    """Hand a problem as it stands to SciPy."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    started = time.perf_counter()
    sizes = [len(labels) for labels in problem.groups]
    group = np.repeat(np.arange(len(sizes)), sizes)
    cover = csr_array((np.ones(problem.size), (group, np.arange(problem.size))))
    use = csr_array([problem.resources[limit.resource] for limit in problem.limits])
    most = [limit.at_most for limit in problem.limits]
    result = milp(
        problem.score,
        integrality=np.ones(problem.size),
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(
            vstack([cover, use]),
            [1.0] * len(sizes) + [-np.inf] * len(most),
            [1.0] * len(sizes) + most,
        ),
        options={"mip_rel_gap": options.gap, "time_limit": options.time_limit},
    )
    status = {0: "optimal", 1: "feasible"}.get(result.status, "none")
    objective = float(result.fun) if result.x is not None else float("nan")
    return {
        "status": status,
        "seconds": time.perf_counter() - started,
        "objective": objective,
    }


def hard_ratios(options: argparse.Namespace) -> list[float]:
    """Compare `solve` with the plain call on eight problems, by CPU-seconds of the process."""
    ratios = []
    for groups, limits, tightness in HARD:
        problem = random_problem(groups, limits, tightness, options.hard_seed)
        seconds, objectives = [], []
        for way in ("plain scipy", "highs"):
            started = time.process_time()
            row = measure(problem, way, options)
            seconds.append(time.process_time() - started)
            objectives.append(row["objective"])
            assert row["status"] == "optimal", row
        ratios.append(seconds[1] / seconds[0])
        print(
            f"{groups:5d} x 54  {limits} limits  {tightness:12s}  plain {seconds[0]:6.2f}"
            f"  solve {seconds[1]:6.2f} CPU-s  ratio {ratios[-1]:.2f}"
            f"  objectives {objectives[0]:.9f} {objectives[1]:.9f}",
            flush=True,
        )
    print(f"ratio: median {statistics.median(ratios):.2f}, largest {max(ratios):.2f}")
    return ratios


def measure(problem: ChoiceProblem, solver: str, options: argparse.Namespace) -> dict[str, Any]:
    """Solve one problem one way."""
    if solver.startswith("plain "):
        plain = plain_cbc if solver == "plain cbc" else plain_scipy
        return plain(problem, options)
    started = time.perf_counter()
    try:
        solution = solve(
            problem,
            solver=solver,
            gap=options.gap,
            time_limit=options.time_limit,
            threads=options.threads if solver != "scipy" else None,
        )
    except NoSolutionError:
        return {"status": "none", "seconds": time.perf_counter() - started}
    return {
        "status": str(solution.status),
        "seconds": time.perf_counter() - started,
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
    }


def cases(options: argparse.Namespace) -> Iterator[tuple[int, int, str, int]]:
    """All requested problems: groups, limits, tightness, seed."""
    yield from itertools.product(
        options.groups, options.limits, options.tightness, range(options.seeds)
    )


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Solve everything, printing a line for each run."""
    rows = []
    for groups, limits, tightness, seed in cases(options):
        problem = random_problem(groups, limits, tightness, seed)
        overhead = pulp_overhead(problem)
        for solver in options.solvers:
            row = {"groups": groups, "limits": limits, "tightness": tightness, "seed": seed}
            row |= {"solver": solver, **measure(problem, solver, options)}
            row["pulp_overhead"] = overhead
            rows.append(row)
            print(
                f"{groups:5d} x 54  {limits} limits  {tightness:5s}  seed {seed}  {solver:11s}"
                f"{row['seconds']:8.2f} s  {row['status']:9s}  {row.get('objective', 0.0):.6f}"
                f"  gap {row.get('gap', float('nan')):.1e}",
                flush=True,
            )
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """One line for each size and solver: median, spread, and how many were proved."""
    lines = ["groups  limits  solver       median s   least    most  proved  PuLP alone, s"]
    keys = sorted({(row["groups"], row["limits"], row["solver"]) for row in rows})
    for groups, limits, solver in keys:
        same = [
            row
            for row in rows
            if (row["groups"], row["limits"], row["solver"]) == (groups, limits, solver)
        ]
        seconds = spread([row["seconds"] for row in same])
        proved = sum(row["status"] == "optimal" for row in same)
        overhead = statistics.median(row["pulp_overhead"] for row in same)
        lines.append(
            f"{groups:6d}  {limits:6d}  {solver:11s}{seconds['median']:10.2f}"
            f"{seconds['least']:8.2f}{seconds['most']:8.2f}  {proved:3d}/{len(same):<3d}"
            f"{overhead:8.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the options, run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--groups", type=int, nargs="+", default=[80, 126, 1000])
    parser.add_argument("--limits", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument(
        "--tightness", nargs="+", choices=[*SHARES, "uncorrelated"], default=list(SHARES)
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--solvers", nargs="+", default=[*available_solvers(), *PLAIN])
    parser.add_argument("--gap", type=float, default=1e-4)
    parser.add_argument("--time-limit", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="80 groups, 2 limits, one seed")
    parser.add_argument("--hard", action="store_true", help="compare with plain scipy")
    parser.add_argument("--hard-seed", type=int, default=0, help="seed of those problems")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    if options.quick:
        options.groups, options.limits, options.seeds = [80], [2], 1
    machine = print_machine(packages=PACKAGES)
    if options.hard:
        warm = random_problem(5, 2, "mid", 0)
        measure(warm, "highs", options), measure(warm, "plain scipy", options)
        hard_ratios(options)
        return
    rows = run(options)
    print(summary(rows))
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k != "json"}
        report = {"machine": machine, "options": settings, "runs": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
