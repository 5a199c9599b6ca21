"""The layouts of an explored run, and the best of them within budgets; plain Python."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Data = Mapping[str, Any]


def read(path: str | Path) -> Data:
    """Returns what `puzzle explore RUN --save layouts.json` wrote."""
    data: Data = json.loads(Path(path).read_text(encoding="utf-8"))
    return data


def steps(data: Data, resource: str) -> list[float]:
    """Returns the budgets of a resource at which the answer may change, in percent, rounded up."""
    shares = {each["shares"][resource] for each in data["layouts"]}
    return sorted({-(-1000 * share // 1) / 10 for share in shares})


def best(data: Data, budgets: Sequence[float]) -> int | None:
    """Returns the layout with the least sum of scores that keeps all budgets; None if none does.

    Args:
        data: The explored run.
        budgets: Percent of the parent's, of each resource in its order.
    """
    kept = [
        at
        for at, each in enumerate(data["layouts"])
        if all(
            100 * each["shares"][name] <= budget + 1e-9
            for name, budget in zip(data["resources"], budgets, strict=True)
        )
    ]
    return min(kept, key=lambda at: data["layouts"][at]["kl"], default=None)


def card(data: Data, at: int | None) -> str:
    """Returns a layout as HTML: its picture, what is predicted of it, and how to get it."""
    if at is None:
        return "<p>None of the solved layouts keeps these budgets; move a slider to the right.</p>"
    layout = data["layouts"][at]
    rows = {
        "sum of scores": f"{layout['kl']:.4f} nats per token",
        "parameters": f"{layout['parameters']:,}",
        **{name: f"{share:.1%} of the parent's" for name, share in layout["shares"].items()},
        "blocks": layout["words"],
    }
    table = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    command = html.escape(data["command"].replace("CONSTRAINTS", layout["constraints"]))
    return (
        f"{layout['picture']}<table>{table}</table>"
        f'<pre style="white-space: pre-wrap; overflow-wrap: anywhere">{command}</pre>'
    )
