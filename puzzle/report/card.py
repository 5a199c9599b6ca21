"""The model card: README.md of a saved child, in the Hub's conventions."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import ModelCardData

from puzzle.report.outcomes import constraint_outcomes
from puzzle.report.record import SearchRecord
from puzzle.report.reproduce import search_call
from puzzle.report.templates import template
from puzzle.report.words import device_words, methods_words, scenario_words, version_words
from search_space import Layout, engines_for

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(record: SearchRecord) -> str:
    """Returns the text of a child's README.md; what the record does not hold is not in it.

    Args:
        record: The record; its evidence, if there is some, gives constraints, data and command.
    """
    evidence = record.evidence
    run: Any = evidence.run if evidence else {}
    name = run["parent"]["name"] if run else None
    values: dict[str, Any] = {
        "record": record,
        "name": name or "a language model",
        "engines": engines_for(record.layout),
        "runs": [(layers, *label.split("+")) for layers, label in record.layout.runs()],
        "own": Layout.parent(record.layout.shape).blocks[0].label,
        "constraints": constraint_outcomes(record),
        "scenario": scenario_words(record.scenario),
        "rows": record.rows(),
        "evidence": evidence if run else None,
    }
    if evidence is not None and run:
        values["methods"] = methods_words(evidence.scores)
        values["call"] = search_call(evidence, record.scenario, parent=run["parent"]["name"])
        values["versions"] = version_words(run["versions"])
        values["device"] = device_words(run["device"])
    text = template("card.md", html=False).render(values)
    return f"---\n{_data(name).to_yaml()}\n---\n\n{text}"


def _data(parent: str | None) -> ModelCardData:
    return ModelCardData(
        # The Hub takes nothing but its own names here.
        base_model=parent if parent and _HUB_ID.fullmatch(parent) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["puzzle", "neural-architecture-search", "heterogeneous-layers"],
    )
