"""The call that repeats a search, and the commands that load and serve its child."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puzzle.hardware.precision import Precision
from puzzle.library.settings import LibraryConfig
from puzzle.limits.scenario import Scenario
from puzzle.report.evidence import Evidence
from puzzle.storage.json_values import one_line
from puzzle.text.data_config import DataConfig
from search_space import Layout, engines_for

SERVERS = {
    "llama.cpp": (', quantisation="q8_0"', "llama-server -m served/*.gguf"),
    "vllm": ("", "vllm serve served"),
    "mlx": ("", "mlx_lm.server --model served"),
}
"""What `puzzle.export` is given beside the engine, and what serves what it writes."""


def search_call(evidence: Evidence, scenario: Scenario, *, parent: str) -> str:
    """Returns the call of `puzzle.search` as Python text.

    What the evidence has no value for, only a description of, is a name explained in a comment.

    Args:
        evidence: What the layout was chosen from; its run has to be described.
        scenario: What the speeds are of.
        parent: What to call the parent.
    """
    run = evidence.run
    settings = run["settings"]
    space = settings["space"]
    shared = run.get("library")
    lines = [f"    {_text(parent)},"]
    if run["text"] or not shared:
        lines.append("    text,  # the parts it was cut into have the hashes below")
    lines += [
        f"    constraints={_text([str(c) for c in evidence.constraints])},",
        f"    scenario={_scenarios(evidence, scenario)},",
    ]
    if shared:
        lines.append(f"    library={_text(shared['place'])},")
    else:
        own = _text(space) if space else "space,  # a SearchSpace of one's own"
        lines += [f"    space={own}{',' if space else ''}"]
        lines.append(f"    effort={_text(settings['effort'])},")
    if settings.get("scores"):
        lines.append(f"    scores={_text(settings['scores'])},")
    if settings.get("distinct"):
        lines.append(f"    distinct={settings['distinct']!r},")
    if evidence.minimised != "kl":
        lines.append(f"    minimise={_text(evidence.minimised)},")
    if settings.get("profile"):
        lines.append(f"    profile={_text(settings['profile'])},")
    elif settings.get("hardware"):
        lines.append(f"    hardware={_text(settings['hardware'])},")
    else:
        lines.append(f"    hardware=costs,  # {one_line(settings.get('cost_model'))}")
    if settings.get("precision") and not shared:
        lines.append(f"    precision={_precision(settings['precision'])},")
    imports = ["import puzzle"]
    if settings.get("library"):
        imports.append("from puzzle.library import BLDConfig, LibraryConfig")
        lines.append(f"    library={LibraryConfig.from_dict(settings['library'])!r},")
    if run["text"] or not shared:
        lines.append(f"    data=puzzle.{_shown(DataConfig(**run['data']))},")
    lines += [
        f"    solver={_text(settings['solver'])},",
        f"    seed={settings['seed']!r},",
    ]
    return "\n".join([*imports, "", "result = puzzle.search(", *lines, ")"])


def serve_commands(layout: Layout, saved: Path | None) -> list[tuple[str, str]]:
    """Returns how to load a child and how to serve it, for the engines that can run its layout.

    Args:
        layout: The layout.
        saved: Where the child is saved, if it is known.
    """
    child, engines = _text(str(saved or "child")), engines_for(layout)
    first = "" if saved else 'result.save("child")\n'
    load = f'model = AutoModelForCausalLM.from_pretrained({child}, dtype="auto")'
    commands = [
        (
            "transformers",
            f"{first}import puzzle  # registers the architecture\n"
            f"from transformers import AutoModelForCausalLM\n\n{load}",
        )
    ]
    for engine, (options, command) in SERVERS.items():
        if engine in engines:
            export = f'puzzle.export({child}, "served", engine="{engine}"{options})'
            commands.append(
                (engine, f"import puzzle\n\n{export}\n\n# then, in a shell:\n# {command}")
            )
    return commands


def _scenarios(evidence: Evidence, scenario: Scenario) -> str:
    if evidence.workload is None:
        return f"puzzle.{_shown(scenario)}"
    weights = evidence.workload.weights
    pairs = (
        f"        {_text(name)}: (puzzle.{each!r}, {weights[name]:g}),\n".replace("'", '"')
        for name, each in evidence.workload.scenarios.items()
    )
    return "{\n" + "".join(pairs) + "    }"


def _precision(names: Mapping[str, str]) -> str:
    return f"puzzle.{_shown(Precision(**names))}"


def _shown(value: Any) -> str:
    """Returns the repr of a dataclass in lines short enough for a phone."""
    name, rest = repr(value).replace("'", '"').split("(", 1)
    fields = rest.removesuffix(")").split(", ")
    return name + "(\n" + "".join(f"        {field},\n" for field in fields) + "    )"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
