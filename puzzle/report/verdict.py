"""The verdict on a result, in words: how much faster, how much kept, how certain."""

from __future__ import annotations

from dataclasses import dataclass

from puzzle.limits.quantities import QUANTITIES, readable
from puzzle.report.outcomes import constraint_outcomes
from puzzle.report.record import SearchRecord
from puzzle.report.stability import Stability
from search_space import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure, measured of parent and child, with its unit."""

    name: str
    parent: str
    child: str
    ratio: str


def heading(record: SearchRecord) -> str:
    """Returns the title of a report."""
    run = record.evidence.run if record.evidence else {}
    return f"Child of {run['parent']['name']}" if run else "A child"


def verdict(record: SearchRecord) -> str:
    """Returns one sentence: how much faster, and how much of the parent is kept."""
    child, gain = record.measured.child, record.gain()
    if gain is None:
        own = Layout.parent(record.layout.shape).parameters()
        words = f"{100 * record.layout.parameters() / own:.0f} % of the parent's parameters"
    else:
        words = f"{gain[0]:.2f} times the parent's throughput"
        words += "" if gain[1] == "measured" else " as predicted"
        words = words if gain[0] >= 1 else f"Only {words}"
    if child.agreement is not None:
        share = f"{100 * child.agreement:.1f}"
        if child.agreement_error is not None:
            share += f" \u00b1 {100 * child.agreement_error:.1f}"
        words += f", keeping its choice of next token {share} % of the time"
    if child.kl is not None:
        error = f" \u00b1 {child.kl_error:.3f}" if child.kl_error is not None else ""
        words += f" (KL {child.kl:.3f}{error} nats per token)"
    missed = [each for each in constraint_outcomes(record) if each.met is False]
    if missed:
        named = "; ".join(f"{each.text} (measured {each.measured})" for each in missed)
        words += f". It misses {named}"
    return f"{words}."


def sure(record: SearchRecord, stable: Stability | None) -> list[str]:
    """Returns sentences on how certain the verdict is.

    Args:
        record: The record.
        stable: How stable the choice is, if known.
    """
    sentences = [_predicted(record)]
    evidence = record.evidence
    if evidence is not None and "validation" in evidence.run.get("text", {}):
        tokens = evidence.run["text"]["validation"]["tokens"]
        sentences[0] += (
            f" Quality was measured on {tokens:,} tokens of text that nothing was chosen with; "
            "\u00b1 is a standard error."
        )
    if record.shared:
        sentences[0] += f" {record.shared[0].upper()}{record.shared[1:]}."
    solution = record.solution
    status = "proved best" if solution.status.value == "optimal" else "not proved best"
    sentences.append(f"Given its scores, the program's optimum is {status}.")
    if stable is not None:
        sentences[1] += (
            f" Moved by their standard errors, they leave {stable.stable} of {len(stable.chosen)} "
            "layers as they are."
        )
    return sentences


def _predicted(record: SearchRecord) -> str:
    gain = record.predicted.ratio("throughput")
    measured = record.measured.ratio("throughput")
    if measured is None:
        return f"{record.untimed[0].upper()}{record.untimed[1:]}."
    if gain is None:
        return "The cost model predicts no time."
    words = f"throughput was predicted to be {gain:.2f} times the parent's"
    words = record.misprediction or words
    return f"{words[0].upper()}{words[1:]}."


def measured_rows(record: SearchRecord) -> tuple[Row, ...]:
    """Returns the measured figures of parent and child, and their ratios."""
    both = record.measured
    parent, child = both.parent.with_rates(), both.child.with_rates()
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
