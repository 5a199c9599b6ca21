"""The table of families: python benchmarks/families.py > families.txt

Random models of six layers in float32 (those of tests/factories/families.py), with
`puzzle.testing.check_family`. Lines are those of a family's description as the formatter writes
it; nothing is timed.
"""

from __future__ import annotations

import ast
import inspect

from transformers.utils import logging

from puzzle.models import families, family_of
from puzzle.testing import check_family
from tests.factories.families import CONFIGS, family_config


def described_lines() -> dict[str, int]:
    """The lines of each description, by the first of its model types."""
    tree = ast.parse(inspect.getsource(families))
    known = next(n for n in tree.body if getattr(n, "targets", None) and "KNOWN" in ast.dump(n))
    assert isinstance(known, ast.Assign)
    assert isinstance(known.value, ast.Tuple)
    named = {
        target.id: node
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    lines = {}
    for family, element in zip(families.KNOWN, known.value.elts, strict=True):
        node = named[element.id] if isinstance(element, ast.Name) else element
        lines[family.model_types[0]] = (node.end_lineno or node.lineno) - node.lineno + 1
    return lines


def main() -> None:
    """Prints the table."""
    logging.disable_progress_bar()
    lines = described_lines()
    print(
        "| model | streamed - model | child - parent | cached - uncached | parameters | Spearman | "
        "local error, before | fitted | lines |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name in CONFIGS:
        config = family_config(name)
        family = family_of(config)
        f = check_family(family, config)
        print(
            f"| {name} | {f.streamed:.1g} | {f.child:.1g} | {f.cached:.0e} | {f.parameters:,} | "
            f"{f.rank:.3f} | {f.before:.2f} | {f.fitted:.2f} | {lines[family.model_types[0]]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
