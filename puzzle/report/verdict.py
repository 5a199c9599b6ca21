"""What a result comes to, in words: how much faster, how much kept, how sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from puzzle.limits.quantities import QUANTITIES, readable

if TYPE_CHECKING:
    from puzzle.pipeline.result import SearchResult
    from puzzle.report.stability import Stability


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, measured of parent and child, with its unit."""

    name: str
    parent: str
    child: str
    ratio: str


def heading(result: SearchResult) -> str:
    """Returns the title of a report."""
    run = result.evidence.run if result.evidence else {}
    return f"Child of {run['parent']['name']}" if run else "A child"


def verdict(result: SearchResult) -> str:
    """Returns one sentence: how much faster, and how much of the parent is kept."""
    child, gain = result.measured["child"], result.gain()
    if gain is None:
        size = child["parameters"] / result.measured["parent"]["parameters"]
        words = f"{100 * size:.0f} % of the parent's parameters"
    else:
        words = f"{gain[0]:.2f} times the parent's throughput"
        words += "" if gain[1] == "measured" else " as predicted"
        words = words if gain[0] >= 1 else f"Only {words}"
    if "agreement" in child:
        share = f"{100 * child['agreement']:.1f}"
        if "agreement_error" in child:
            share += f" \u00b1 {100 * child['agreement_error']:.1f}"
        words += f", keeping its choice of next token {share} % of the time"
    error = f" \u00b1 {child['kl_error']:.3f}" if "kl_error" in child else ""
    return f"{words} (KL {child['kl']:.3f}{error} nats per token)."


def sure(result: SearchResult, found: Stability | None) -> list[str]:
    """Returns sentences on how sure the verdict is.

    Args:
        result: The result.
        found: How firm the choice is, if known.
    """
    sentences = [_predicted(result)]
    evidence = result.evidence
    if evidence is not None and evidence.run:
        tokens = evidence.run["text"]["validation"]["tokens"]
        sentences[0] += (
            f" Quality was measured on {tokens:,} tokens of text that nothing was chosen with; "
            "\u00b1 is a standard error."
        )
    solution = result.solution
    status = "proved best" if solution.status.value == "optimal" else "not proved best"
    sentences.append(f"For the scores it got, the program's optimum is {status}.")
    if found is not None:
        sentences[1] += (
            f" Moved by their standard errors, they leave {found.firm} of {len(found.chosen)} "
            "layers as they are."
        )
    return sentences


def _predicted(result: SearchResult) -> str:
    found = result.speedup()
    if "throughput" not in found["measured"]:
        return "Nothing was timed: the costs are not of this machine."
    if "throughput" not in found["predicted"]:
        return "The cost model predicts no time."
    gain = found["predicted"]["throughput"]
    return f"Throughput was predicted to be {gain:.2f} times the parent's."


def comparison(result: SearchResult) -> tuple[Row, ...]:
    """Returns the measured figures of parent and child, and their ratios."""
    parent, child = (
        {**result.measured[who], **result.rates(result.measured[who])}
        for who in ("parent", "child")
    )
    rows = []
    for name, key in (
        ("throughput", "throughput"),
        ("prefill", "prefill_throughput"),
        ("decode", "decode_throughput"),
        ("memory", "memory"),
        ("KV cache", "kv_cache"),
        ("parameters", "parameters"),
    ):
        if key in parent and key in child:
            unit = QUANTITIES[key]
            shown = [
                readable(unit, each[key], "<=") if each[key] else "0" for each in (parent, child)
            ]
            ratio = f"{child[key] / parent[key]:.2f}" if parent[key] else ""
            rows.append(Row(name=name, parent=shown[0], child=shown[1], ratio=ratio))
    for name, key, form in (
        ("perplexity", "perplexity", ".2f"),
        ("KL to the parent", "kl", ".3f"),
        ("same next token", "agreement", ".3f"),
    ):
        if key in parent and key in child:
            ratio = f"{child[key] / parent[key]:.2f}" if key == "perplexity" else ""
            shown = [f"{each[key]:{form}}" for each in (parent, child)]
            rows.append(Row(name=name, parent=shown[0], child=shown[1], ratio=ratio))
    return tuple(rows)
