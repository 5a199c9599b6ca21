"""The choice problem: one option for each group, limits on sums, least total score."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import numpy.typing as npt

from solvers import _checks
from solvers._columns import Columns, FloatArray, joined, unpinned
from solvers._ranges import limit_tolerance
from solvers.limits import Distinct, Limit
from solvers.span import Span


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceProblem:
    """Cover each group once, by one of its options or by a span, for the least total score.

    Options are numbered through all groups in order, so the arrays have one value for each
    option of group 0, then of group 1, and so on.

    Args:
        groups: Labels of the options, one tuple for each group.
        score: Score of each option; the total is minimised.
        resources: What each option uses, by resource name.
        offsets: What is used in any case, added to the totals; missing names mean 0.
        limits: Bounds on the totals.
        pinned: Groups whose option is given, by label or index; negative groups count from the
            end. No span covers them.
        spans: Candidates that cover several consecutive groups.
        distinct: Bound on how many different choices are mixed, or several bounds that all hold; a
            number counts labels over all groups, and 1 means the same choice everywhere.

    Raises:
        ValueError: If a group is empty or repeats a label, an array has the wrong size or holds
            a value that is not finite, or anything names an unknown resource, group or option.

    Example:
        >>> problem = ChoiceProblem(
        ...     groups=(("big", "small"),) * 2,
        ...     score=[0.0, 0.3, 0.0, 0.1],
        ...     resources={"memory": [4, 1, 4, 1]},
        ...     limits=(Limit("memory", at_most=5),),
        ... )
        >>> problem.evaluate([0, 1])
        (0.1, {'memory': 5.0})
    """

    groups: tuple[tuple[str, ...], ...]
    score: FloatArray
    resources: Mapping[str, FloatArray] = field(default_factory=dict)
    _: KW_ONLY
    offsets: Mapping[str, float] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    pinned: Mapping[int, int | str] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    distinct: Distinct | int | Sequence[Distinct] | None = None
    columns: Columns = field(init=False, repr=False)

    def __post_init__(self) -> None:
        fix = object.__setattr__
        fix(self, "groups", _checks.groups(self.groups))
        fix(self, "score", _checks.values("score", self.score, self.groups))
        named = {
            name: _checks.values(f"resource {name!r}", values, self.groups)
            for name, values in self.resources.items()
        }
        fix(self, "resources", named)
        fix(self, "offsets", {name: float(value) for name, value in self.offsets.items()})
        fix(self, "limits", tuple(self.limits))
        for name, value in self.offsets.items():
            self._require_resource(name, "offset")
            if not math.isfinite(value):
                raise ValueError(f"offset of {name!r} is {value}; give a finite number")
        for limit in self.limits:
            self._require_resource(limit.resource, "limit")
        fix(self, "pinned", _checks.pins(self.pinned, self.groups))
        fix(self, "spans", tuple(self.spans))
        for span in self.spans:
            _checks.span(span, len(self.groups), named)
        fix(self, "distinct", _checks.distinct(self.distinct, self.groups))
        fix(self, "columns", self._make_columns())

    @property
    def size(self) -> int:
        """Number of options in all groups together."""
        return len(self.score)

    @property
    def distinct_bounds(self) -> tuple[Distinct, ...]:
        """The bounds on distinct choices; empty without any."""
        return _checks.distinct_bounds(self.distinct)

    @property
    def starts(self) -> npt.NDArray[np.intp]:
        """Position of the first option of each group in the arrays."""
        return np.cumsum([0, *(len(group) for group in self.groups[:-1])], dtype=np.intp)

    def evaluate(
        self, choices: Sequence[int | None], spans: Sequence[int] = ()
    ) -> tuple[float, dict[str, float]]:
        """Compute the objective and the resource totals of a choice.

        Args:
            choices: Index of the chosen option within its group, for each group; None where a
                span covers it.
            spans: Positions of the chosen spans in `spans`.

        Returns:
            The total score, and the total of each resource with its offset.

        Raises:
            ValueError: If a group is not covered exactly once, or an index is out of range.
        """
        return self.total(self.selection(choices, spans))

    def labels(self, choices: Sequence[int | None], spans: Sequence[int] = ()) -> tuple[str, ...]:
        """Name what covers each group.

        Args:
            choices: As for `evaluate`.
            spans: As for `evaluate`.

        Returns:
            One label for each group: its option's, or that of the span.

        Raises:
            ValueError: As for `evaluate`.
        """
        names = []
        selection = self.selection(choices, spans)
        for group, column in enumerate(self.columns.by_group(selection).tolist()):
            own = column < self.size
            label = self.groups[group][column - int(self.columns.starts[group])] if own else None
            names.append(self.spans[column - self.size].label if label is None else label)
        return tuple(names)

    def violations(
        self, choices: Sequence[int | None], spans: Sequence[int] = ()
    ) -> tuple[str, ...]:
        """List what a choice breaks.

        Args:
            choices: As for `evaluate`.
            spans: As for `evaluate`.

        Returns:
            The limits, pins and bound on distinct choices that do not hold, in words; empty if
            the choice is a solution.

        Raises:
            ValueError: As for `evaluate`.
        """
        return self.broken(self.selection(choices, spans))

    def with_limits(self, limits: Iterable[Limit]) -> ChoiceProblem:
        """Copy the problem with other limits.

        Args:
            limits: The limits of the copy, replacing all present ones.

        Returns:
            The copy.

        Raises:
            ValueError: If a limit names an unknown resource.
        """
        return dataclasses.replace(self, limits=tuple(limits))

    def with_resource(
        self,
        name: str,
        values: npt.ArrayLike,
        *,
        spans: Sequence[float] = (),
        offset: float = 0.0,
        limit: Limit | None = None,
    ) -> ChoiceProblem:
        """Copy the problem with one more resource.

        Args:
            name: Name of the resource.
            values: What each option uses.
            spans: What each span uses.
            offset: What is used in any case.
            limit: A limit to add to the present ones.

        Returns:
            The copy.

        Raises:
            ValueError: If there is such a resource already, or the values do not fit.
        """
        if name in self.resources:
            raise ValueError(f"resource {name!r} is there already; choose another name")
        if len(spans) != len(self.spans):
            raise ValueError(
                f"{len(spans)} values of {name!r} for {len(self.spans)} spans; give one for each"
            )
        wider = tuple(
            dataclasses.replace(span, resources={**span.resources, name: float(value)})
            for span, value in zip(self.spans, spans, strict=True)
        )
        return dataclasses.replace(
            self,
            resources={**self.resources, name: np.asarray(values, dtype=np.float64)},
            spans=wider,
            offsets={**self.offsets, name: offset},
            limits=(*self.limits, limit) if limit else self.limits,
        )

    def with_count(
        self,
        name: str,
        counts: Callable[[str], float],
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> ChoiceProblem:
        """Copy the problem with a resource that counts the chosen labels of some sort.

        Args:
            name: Name of the new resource.
            counts: Says whether a label counts, or by how much.
            at_most: Bound on the count, None for none.
            at_least: Bound on the count, None for none.

        Returns:
            The copy.

        Raises:
            ValueError: If there is such a resource already.

        Example:
            >>> problem = ChoiceProblem((("gqa8", "none"),) * 3, [0, 1] * 3)
            >>> counted = problem.with_count("attention", lambda x: x != "none", at_most=2)
            >>> counted.evaluate([0, 1, 0])[1]
            {'attention': 2.0}
        """
        bounded = at_most is not None or at_least is not None
        return self.with_resource(
            name,
            [float(counts(label)) for group in self.groups for label in group],
            spans=[float(counts(span.label)) for span in self.spans],
            limit=Limit(name, at_most=at_most, at_least=at_least) if bounded else None,
        )

    def keep(self, groups: Iterable[int], option: int | str = 0) -> ChoiceProblem:
        """Copy the problem with some groups pinned to one option.

        Args:
            groups: The groups, negative ones from the end.
            option: Index or label of the option they keep, by default their first.

        Returns:
            The copy; pins that were there stay.

        Raises:
            ValueError: If there is no such group or option, or it is pinned to another already.

        Example:
            >>> ChoiceProblem((("a", "b"),) * 4, [1, 0] * 4).keep([0, -1]).pinned
            {0: 0, 3: 0}
        """
        added = _checks.pins(dict.fromkeys(groups, option), self.groups)
        for group, pin in added.items():
            if self.pinned.get(group, pin) != pin:
                raise ValueError(f"group {group} is pinned to another option already; drop a pin")
        return dataclasses.replace(self, pinned={**self.pinned, **added})

    def bounds(self, resource: str) -> tuple[float, float]:
        """Find the range a resource total can take when nothing is limited.

        Pins count here. A bound on distinct choices does not, so that with one the range may be
        wider than what can be reached.

        Args:
            resource: Name of the resource.

        Returns:
            The least and the greatest total, offset included.

        Raises:
            ValueError: If there is no such resource.
        """
        self._require_resource(resource, "bounds")
        return self.columns.extremes(resource, self.offsets.get(resource, 0.0))

    def tolerance(self, resource: str) -> float:
        """Say by how much a total may miss a limit and still count as within it.

        Args:
            resource: Name of the resource.

        Returns:
            An absolute amount, about 1e-9 of what the choices within its limits can change.
        """
        self._require_resource(resource, "tolerance")
        own = [limit for limit in self.limits if limit.resource == resource]
        sides = [side for limit in own for side in limit.sides()]
        return limit_tolerance(self.columns, sides, resource, self.offsets.get(resource, 0.0))

    def selection(
        self, choices: Sequence[int | None], spans: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """Write a choice as positions among all options and spans.

        Args:
            choices: As for `evaluate`.
            spans: As for `evaluate`.

        Returns:
            Positions, sorted by group; spans are numbered after all options.

        Raises:
            ValueError: As for `evaluate`.
        """
        return _checks.selection(choices, spans, self.groups, self.columns)

    def total(self, selection: Sequence[int]) -> tuple[float, dict[str, float]]:
        """Compute the objective and the totals of a selection.

        Args:
            selection: What `selection` returns.

        Returns:
            The total score, and the total of each resource with its offset.
        """
        chosen = np.array(selection, dtype=np.intp)
        totals = {
            name: math.fsum([*values[chosen], self.offsets.get(name, 0.0)])
            for name, values in self.columns.resources.items()
        }
        return math.fsum(self.columns.score[chosen]), totals

    def broken(self, selection: Sequence[int]) -> tuple[str, ...]:
        """List what a selection breaks.

        Args:
            selection: What `selection` returns.

        Returns:
            The limits, pins and bound on distinct choices that do not hold, in words.
        """
        totals = self.total(selection)[1]
        broken = [
            side.text
            for limit in self.limits
            for side in limit.sides()
            if side.slack(totals[side.resource]) < -self.tolerance(side.resource)
        ]
        if not self.columns.allowed[list(selection)].all():
            covering = self.columns.by_group(selection)
            at = [g for g in self.pinned if not self.columns.allowed[covering[g]]]
            broken.append(f"pins of groups {', '.join(map(str, at))}")
        for bound, kinds in zip(self.distinct_bounds, self.columns.kinds, strict=True):
            codes = kinds[list(selection)]
            if len(set(codes[codes >= 0].tolist())) > bound.at_most:
                broken.append(bound.text)
        return tuple(dict.fromkeys(broken))

    def _make_columns(self) -> Columns:
        sizes = np.array([len(group) for group in self.groups], dtype=np.intp)
        own = np.repeat(np.arange(len(sizes)), sizes)
        pinned = {group: int(self.starts[group]) + int(pin) for group, pin in self.pinned.items()}
        first = np.concatenate([own, np.array([s.first for s in self.spans], dtype=np.intp)])
        last = np.concatenate([own, np.array([s.last for s in self.spans], dtype=np.intp)])
        return Columns(
            options=self.size,
            starts=self.starts,
            first=first,
            last=last,
            score=joined(self.score, [span.score for span in self.spans]),
            resources={
                name: joined(values, [span.resources[name] for span in self.spans])
                for name, values in self.resources.items()
            },
            allowed=unpinned(first, last, pinned),
            kinds=tuple(
                _checks.kind_codes(bound, self.groups, len(self.spans))
                for bound in self.distinct_bounds
            ),
        )

    def _require_resource(self, name: str, what: str) -> None:
        if name in self.resources:
            return
        near = difflib.get_close_matches(name, list(self.resources), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(map(repr, self.resources)) or "none"
        raise ValueError(f"{what} on unknown resource {name!r}; known resources: {known}{hint}")
