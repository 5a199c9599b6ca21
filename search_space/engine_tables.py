"""The tables of the docs: what each serving engine supports, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from search_space.engine_families import FAMILY_NAMES, family_support, plain_support
from search_space.engine_features import FEATURES, Support
from search_space.engines import ENGINES, engine_named

# "plain" stands for all engines that run the parent, so it says nothing of one of them.
WITH_VARIANTS = tuple(name for name, engine in ENGINES.items() if engine.format != "plain")


def engine_table(names: Iterable[str] = WITH_VARIANTS) -> str:
    """Returns the table of the docs in Markdown: a row per feature, a column per engine.

    Example:
        >>> print(engine_table(["mlx"]).splitlines()[0])
        | variant | mlx |
    """
    engines = [engine_named(name) for name in names]
    notes: dict[str, int] = {}
    rows = [["variant", *(engine.name for engine in engines)], ["---"] * (len(engines) + 1)]
    for feature, title in FEATURES.items():
        rows.append([title, *(_cell(engine.support[feature], notes) for engine in engines)])
    widths = (
        "any" if e.width_multiple == 1 else f"multiples of {e.width_multiple}" for e in engines
    )
    rows.append(["FFN widths as they are", *widths])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"{n}. {text}" for text, n in notes.items())])


def family_table(names: Iterable[str] = WITH_VARIANTS) -> str:
    """Returns the table of families in Markdown: a row per family, a column per engine.

    The last column is of plain children, in llama.cpp.

    Example:
        >>> print(family_table(["mlx"]).splitlines()[0])
        | family | mlx | plain, in llama.cpp |
    """
    names, notes = tuple(names), dict[str, int]()
    rows = [["family", *names, "plain, in llama.cpp"], ["---"] * (len(names) + 2)]
    for family in FAMILY_NAMES:
        supports = (*(family_support(name, family) for name in names), plain_support(family))
        cells = (_cell(support, notes) for support in supports)
        rows.append([f"`{family}`", *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"{n}. {text}" for text, n in notes.items())])


def _cell(support: Support, notes: dict[str, int]) -> str:
    text = {"native": "yes", "rewritten": "rewritten", "no": "no"}[support.how]
    if support.note:
        cost = "; costs more than the variant itself" if support.costly else ""
        text += f" ({notes.setdefault(support.note + cost, len(notes) + 1)})"
    return text if support.tried else f"{text} *"
