"""The model card: README.md of a saved child, in the Hub's conventions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

from puzzle.report.asked import asked
from puzzle.report.reproduce import search_call
from puzzle.report.templates import template
from puzzle.report.words import device_words, methods_words, scenario_words, version_words
from search_space import Layout, engines_for

if TYPE_CHECKING:
    from puzzle.pipeline.result import SearchResult

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(result: SearchResult) -> str:
    """Returns the text of a child's README.md; what the result does not hold is not in it.

    Args:
        result: The result; its evidence, if there is some, gives constraints, data and command.
    """
    evidence = result.evidence
    run: Any = evidence.run if evidence else {}
    name = run["parent"]["name"] if run else None
    values: dict[str, Any] = {
        "result": result,
        "name": name or "a language model",
        "engines": engines_for(result.layout),
        "runs": [(layers, *label.split("+")) for layers, label in result.layout.runs()],
        "own": Layout.parent(result.layout.shape).blocks[0].label,
        "asked": asked(result),
        "scenario": scenario_words(result.scenario),
        "rows": result.rows(),
        "evidence": evidence if run else None,
    }
    if evidence is not None and run:
        values["methods"] = methods_words(evidence.scores)
        values["call"] = search_call(evidence, result.scenario, parent=run["parent"]["name"])
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
