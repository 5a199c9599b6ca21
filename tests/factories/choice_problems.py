"""Problems that several test files share, and brute force to check answers against."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from solvers import ChoiceProblem, Distinct, Limit, Span

Pick = tuple[tuple[int | None, ...], tuple[int, ...]]


def covers(problem: ChoiceProblem) -> Iterator[Pick]:
    """All ways to cover each group once."""
    numbers = range(len(problem.spans))
    for size in range(len(numbers) + 1):
        for spans in itertools.combinations(numbers, size):
            covered = [
                group
                for at in spans
                for group in range(problem.spans[at].first, problem.spans[at].last + 1)
            ]
            if len(set(covered)) < len(covered):
                continue
            own = [
                [None] if group in covered else list(range(len(labels)))
                for group, labels in enumerate(problem.groups)
            ]
            for choices in itertools.product(*own):
                yield tuple(choices), spans


def solutions(problem: ChoiceProblem) -> list[tuple[float, Pick]]:
    """All choices within the limits with their scores, found without the code under test."""
    found = []
    tolerances = {limit.resource: problem.tolerance(limit.resource) for limit in problem.limits}
    for choices, spans in covers(problem):
        objective, totals = problem.evaluate(choices, spans)
        if any(choices[group] != pin for group, pin in problem.pinned.items()):
            continue
        if isinstance(problem.distinct, Distinct):
            counted = range(len(choices))
            if problem.distinct.groups is not None:
                counted = [group % len(choices) for group in problem.distinct.groups]
            kinds = {
                problem.distinct.kind(problem.groups[group][choices[group]])
                for group in counted
                if choices[group] is not None
            }
            if len(kinds) > problem.distinct.at_most:
                continue
        if all(
            limit.slack(totals[limit.resource]) >= -tolerances[limit.resource]
            for limit in problem.limits
        ):
            found.append((objective, (choices, spans)))
    return sorted(found, key=lambda pair: pair[0])


def brute_force(problem: ChoiceProblem) -> float | None:
    """The least score within the limits, None if nothing is."""
    found = solutions(problem)
    return found[0][0] if found else None


def distance(problem: ChoiceProblem, one: Pick, other: Pick) -> int:
    """Number of groups that are covered differently."""

    def cover(pick: Pick) -> list[object]:
        choices, spans = pick
        by: list[object] = list(choices)
        for at in spans:
            span = problem.spans[at]
            by[span.first : span.last + 1] = [f"span {at}"] * (span.last - span.first + 1)
        return by

    return sum(a != b for a, b in zip(cover(one), cover(other), strict=True))


@st.composite
def problems(draw: st.DrawFn, *, plain: bool = False) -> ChoiceProblem:
    """Small problems with every feature; `plain` ones have groups and limits only."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    total = sum(sizes)
    # Whole numbers times a unit: totals are then clearly within a limit, on it, or beyond it.
    number = st.integers(-9, 9)
    whole = st.lists(number, min_size=total, max_size=total)
    units = {"a": draw(st.sampled_from([1.0, 1e-6, 0.1, 1e9])), "b": 1.0}
    limits = []
    for name, unit in units.items():
        low, high = sorted(draw(st.tuples(st.integers(-15, 15), st.integers(-15, 15))))
        sides = draw(st.sampled_from(["none", "most", "least", "both"]))
        if sides != "none":
            most = high * unit if sides in ("most", "both") else None
            least = low * unit if sides in ("least", "both") else None
            limits.append(Limit(name, at_most=most, at_least=least))
    score_unit = draw(st.sampled_from([1.0, 1e-5, 1e4]))
    more = {} if plain else draw(extras(sizes, units, score_unit))
    return ChoiceProblem(
        groups=tuple(tuple(f"o{i}" for i in range(size)) for size in sizes),
        score=np.array(draw(whole)) * score_unit,
        resources={name: np.array(draw(whole)) * unit for name, unit in units.items()},
        offsets={"b": float(draw(st.integers(-5, 5)))},
        limits=tuple(limits),
        **more,
    )


@st.composite
def extras(
    draw: st.DrawFn, sizes: list[int], units: dict[str, float], score_unit: float
) -> dict[str, object]:
    """Pins, spans and a bound on distinct choices, each perhaps."""
    more: dict[str, object] = {}
    groups = len(sizes)
    if draw(st.booleans()):
        group = draw(st.integers(0, groups - 1))
        more["pinned"] = {group: draw(st.integers(0, sizes[group] - 1))}
    if groups > 1 and draw(st.booleans()):
        spans = []
        for at in range(draw(st.integers(1, 3))):
            first = draw(st.integers(0, groups - 2))
            last = draw(st.integers(first + 1, groups - 1))
            uses = {name: draw(st.integers(-9, 9)) * unit for name, unit in units.items()}
            score = draw(st.integers(-12, 9)) * score_unit
            spans.append(Span(first, last, f"s{at}", score, uses))
        more["spans"] = tuple(spans)
    counted = draw(st.sampled_from([None, "all", "some", "kinds"]))
    if counted == "all":
        more["distinct"] = draw(st.integers(1, 3))
    elif counted == "some":
        more["distinct"] = Distinct(1, groups=(0, -1))
    elif counted == "kinds":
        more["distinct"] = Distinct(1, kinds={f"o{i}": ["even", "odd"][i % 2] for i in range(4)})
    return more


def knapsack(seed: int, groups: int, options: int, dimensions: int) -> ChoiceProblem:
    """Hard problems: what saves costs."""
    rng = np.random.default_rng(seed)
    total = groups * options
    use = {f"r{d}": rng.integers(1, 1000, total).astype(float) for d in range(dimensions)}
    limits = [Limit(name, at_most=values.mean() * groups * 0.9) for name, values in use.items()]
    return ChoiceProblem(
        groups=(tuple(map(str, range(options))),) * groups,
        # What saves costs: score falls as use rises, which makes bounds weak.
        score=-np.sum(list(use.values()), axis=0) + rng.integers(0, 50, total),
        resources=use,
        limits=tuple(limits),
    )


def market_split(seed: int, groups: int, dimensions: int) -> ChoiceProblem:
    """Problems for which any choice at all is hard to find."""
    rng = np.random.default_rng(seed)
    use, limits = {}, []
    for d in range(dimensions):
        amounts = rng.integers(0, 100, groups)
        half = float(amounts.sum() // 2)
        use[f"r{d}"] = np.stack([amounts, np.zeros(groups)], axis=1).ravel()
        limits.append(Limit(f"r{d}", at_most=half, at_least=half))
    return ChoiceProblem(
        groups=(("yes", "no"),) * groups,
        score=rng.random(2 * groups),
        resources=use,
        limits=tuple(limits),
    )
