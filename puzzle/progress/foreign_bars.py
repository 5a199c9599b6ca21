"""Bars of other libraries: as they are, or as a part of the display that is shown instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tqdm.auto import tqdm

from puzzle.progress.bars import Count, displayed


class ForeignBar(tqdm):
    """A bar that another library updates; what a display shows has no bar of its own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        inside = displayed()
        if inside:
            options["disable"] = True
        super().__init__(*args, **options)
        self._count: Count | None = None
        unit = options.get("unit", "it")
        # The hub counts bytes twice: as they arrive, and as they are written.
        if inside and (unit != "B" or "ownload" in options.get("desc", "")):
            self._count = Count(options.get("desc", ""), unit, self.total, done=self.n)

    def update(self, n: float | None = 1) -> bool | None:
        """Counts units."""
        if self._count is not None:
            self._count.total = self.total
            self._count.update(int(n or 0))
        return bool(super().update(n))

    def __iter__(self) -> Iterator[Any]:
        if self._count is None:
            yield from super().__iter__()
            return
        with self._count:
            for each in self.iterable:
                yield each
                self._count.update()

    def close(self) -> None:
        """Ends the count."""
        count = getattr(self, "_count", None)
        if count is not None:
            count.__exit__()
        super().close()


@contextmanager
def bars_of(module: ModuleType) -> Iterator[None]:
    """Lets bars that a module makes of tqdm itself be a part of what is displayed, if anything is.

    Args:
        module: One that has imported `tqdm`, and takes no hook for it.
    """
    before = vars(module)["tqdm"]
    vars(module)["tqdm"] = ForeignBar
    try:
        yield
    finally:
        vars(module)["tqdm"] = before
