"""Phrases that the page and the model card share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puzzle.limits.scenario import Scenario
from puzzle.scoring.scores import Scores


def scenario_words(scenario: Scenario) -> str:
    """Returns a scenario as a sentence without its full stop."""
    cache = f", cache in {scenario.cache_dtype}" if scenario.cache_dtype else ""
    return (
        f"Batch of {scenario.batch}, {scenario.prompt_tokens} prompt tokens, "
        f"{scenario.generated_tokens} generated tokens, weights in {scenario.served_dtype}{cache}"
    )


def methods_words(scores: Scores) -> str:
    """Returns how many scores each method gave, and what it means that some are exact."""
    methods = scores.methods()
    words = ", ".join(f"{count:,} {name}" for name, count in sorted(methods.items()))
    if "exact" in methods and len(methods) > 1:
        words += "; what is best within other budgets rests on estimates, too"
    return words


def version_words(versions: Mapping[str, str]) -> str:
    """Returns the versions of packages on one line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def profile_words(origin: Mapping[str, Any]) -> str:
    """Returns what a profile is of, and how that differs from this machine.

    Args:
        origin: What `puzzle.costs.profile_origin` returned.
    """
    if not (differences := origin["differences"]):
        return "the costs are a profile of this machine, taken earlier"
    versions = origin.get("versions")
    taken = f" (taken with {version_words(versions)})" if versions else ""
    return (
        f"the costs are a profile of {origin['name']}{taken}, not of this machine: "
        f"{'; '.join(differences)}"
    )


def device_words(device: Mapping[str, Any]) -> str:
    """Returns what a device record holds on one line."""
    return ", ".join(f"{name} {value}" for name, value in device.items() if value is not None)
