"""FamilyResult: the children of a family, beside each other and one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.distill_result import DistillResult
from puzzle.errors import SettingError
from puzzle.pipeline.result import SearchResult
from puzzle.report.compared_runs import RunComparison
from puzzle.storage.paths import user_path
from solvers import Nested

TEACHERS = ("larger", "parent")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class FamilyResult(Mapping[str, SearchResult]):
    """The children of a family by their names, the smallest first.

    Args:
        children: The result of each size, as of a search.
        nested: The program that was solved for all of them; None if each was solved for itself.

    Example:
        >>> three["nano"].generate("In the beginning")  # doctest: +SKIP
    """

    children: Mapping[str, SearchResult]
    nested: Nested | None = None

    def __getitem__(self, name: str) -> SearchResult:
        return self.children[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.children)

    def __len__(self) -> int:
        return len(self.children)

    @property
    def price(self) -> dict[str, float]:
        """What nesting costs each child: nats per token by the scores; empty if nothing is nested.

        A child may gain where another pays: the sum is least, not each part of it.
        """
        if self.nested is None:
            return {}
        return dict(zip(self.children, self.nested.price, strict=True))

    def compared(self) -> RunComparison:
        """Returns the children beside each other: table, picture and page."""
        heading = f"A {'nested ' if self.nested else ''}family of {len(self)} children"
        return RunComparison(records=self.children, heading=heading, notes=self.notes())

    def notes(self) -> tuple[str, ...]:
        """Returns sentences on what nesting costs."""
        if self.nested is None:
            return ()
        each = ", ".join(f"{name} {cost:.4f}" for name, cost in self.price.items())
        return (
            "No sublayer of a child takes more bytes than that of the next larger one. By the "
            f"scores, this costs {sum(self.nested.price):.4f} nats per token in all ({each}); the "
            f"program's optimum is {self.nested.status.value}.",
        )

    def table(self) -> str:
        """Returns a row for each child, and what nesting costs, as text."""
        return "\n".join([self.compared().table(), *self.notes()])

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Writes one HTML page: table, frontiers, and each child with its verdict and layout.

        Args:
            path: The file; by default `family.html` in the run directory.

        Raises:
            WorkspaceError: The file cannot be written.
        """
        first = next(iter(self.children.values()))
        return self.compared().report(path or first.place("family.html"))

    def save(self, directory: str | os.PathLike[str]) -> dict[str, Path]:
        """Writes each child with its model card into a directory of its name.

        Args:
            directory: Where these directories are.

        Returns:
            The directory of each child.

        Raises:
            WorkspaceError: As for `SearchResult.save`.
        """
        place = user_path(directory)
        return {name: child.save(place / name) for name, child in self.children.items()}

    def distill(
        self,
        text: Any,
        *,
        teacher: str = "larger",
        config: DistillConfig | Mapping[str, DistillConfig] | None = None,
        out: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> dict[str, DistillResult]:
        """Distils the children, the largest first.

        Args:
            text: As for `SearchResult.distill`.
            teacher: "larger": the parent teaches the largest child, and each distilled child the
                next smaller one; "parent": the parent teaches all.
            config: As for `puzzle.distill`, for all or by name.
            out: Where a directory for each child is written; by default `distilled` in the run
                directory.
            settings: The other arguments of `puzzle.distill`.

        Returns:
            The distillation of each child. KLs in it are to its own teacher.

        Raises:
            SettingError: There is no such teacher.
            PuzzleError: As for `puzzle.distill`.
        """
        if teacher not in TEACHERS:
            raise SettingError(f"teacher={teacher!r}; allowed: {', '.join(TEACHERS)}")
        first = next(iter(self.children.values()))
        place = user_path(out if out is not None else first.place("distilled"))
        done: dict[str, DistillResult] = {}
        above = None
        for name, child in reversed(list(self.children.items())):
            own = config.get(name) if isinstance(config, Mapping) else config
            done[name] = child.distill(text, out=place / name, config=own, parent=above, **settings)
            above = done[name].path if teacher == "larger" else None
        return {name: done[name] for name in self.children}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        nested = None
        if self.nested is not None:
            nested = {
                "objective": self.nested.objective,
                "bound": self.nested.bound,
                "status": self.nested.status.value,
                "price": self.price,
            }
        children = {name: child.to_dict() for name, child in self.children.items()}
        return {"children": children, "nested": nested}

    def __repr__(self) -> str:
        return f"FamilyResult({', '.join(f'{n}: {c!r}' for n, c in self.children.items())})"

    def _repr_html_(self) -> str:
        return self.compared()._repr_html_()
