"""Task scores: how far any figure that a user measures on a model falls when one block changes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import DamagedArtifactError, DataError
from puzzle.library.build import Library
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.progress.bars import counted
from puzzle.scoring.scores import Score, Scores
from puzzle.storage.json_files import interpreting
from puzzle.storage.json_values import as_number
from puzzle.storage.workspace import Artifact, Workspace
from search_space import Block, Layout, SearchSpace

KIND, SCORES = "task", "scores.json"
# Part of every artifact's name: raised when the same key gives another result.
FORMAT = 2


def task_scores(
    library: Library,
    space: SearchSpace,
    task: Callable[[Any], float],
    *,
    name: str,
    workspace: Workspace,
) -> Scores:
    """Returns, per layer and block, how far a task's number falls with that one block in place.

    One model stays loaded and has one layer swapped at a time; the task runs on each, once per
    block and once on the parent. A score below 0 says that the block does better than the parent.

    Args:
        library: The variants.
        space: Which blocks to score.
        task: Takes a transformers causal language model in inference mode, on the parent's device,
            and returns a number, more being better (negate a loss). It must return the same number
            for the same model.
        name: Names the task in the run directory: finished layers of that name are not scored
            again, so give a different one when the task changes.
        workspace: Where finished layers are stored.

    Raises:
        DataError: The name is empty, or the task returned no finite number.

    Example:
        >>> scores = task_scores(library, space, accuracy, name="quiz-1",
        ...                      workspace=workspace)  # doctest: +SKIP
    """
    if not name:
        raise DataError("name is empty; give one that is different for each task")
    layers = range(space.shape.layers)
    artifacts = [
        workspace.artifact(
            KIND,
            {
                "format": FORMAT,
                "task": name,
                "library": library.layers[layer].key,
                "blocks": [block.label for block in space.blocks(layer)],
            },
        )
        for layer in layers
    ]
    missing = [layer for layer in layers if not artifacts[layer].sound()]
    if missing:
        bench = _Bench(library, task)
        for layer in counted(missing, "task", "layer"):

            def build(directory: Path, layer: int = layer) -> None:
                falls = {block.label: bench.fall(layer, block) for block in space.blocks(layer)}
                (directory / SCORES).write_text(json.dumps(falls, indent=1), encoding="utf-8")

            workspace.get_or_build(KIND, artifacts[layer].spec, build)
    return Scores(tuple(map(_read, artifacts)))


def _read(artifact: Artifact) -> dict[str, Score]:
    with interpreting(artifact.path / SCORES, "scores of a task", DamagedArtifactError):
        rows = artifact.load_json(SCORES).items()
        return {k: Score(kl=as_number(v, k), method="task") for k, v in rows}


class _Bench:
    """The parent as a model whose layers can be swapped."""

    def __init__(self, library: Library, task: Callable[[Any], float]) -> None:
        self.library, self.task = library, task
        self.own = Layout.parent(library.parent.shape)
        self.model: PuzzleForCausalLM = assemble(
            library.parent.config,
            self.own,
            library.child_tensors(self.own),
            dtype=library.parent.dtype,
        ).to(library.parent.device)
        self.whole = self._run("the parent")

    def fall(self, layer: int, block: Block) -> float:
        """Returns how far the number falls with another block in a layer's place."""
        if block == self.own.blocks[layer]:
            return 0.0
        layers = self.model.model.layers
        kept = layers[layer]
        try:
            layers[layer] = self.library.variants(layer).layer_module(block)
            self._describe(self.own.replace(layer, block))
            return self.whole - self._run(f"layer {layer} as {block.label}")
        finally:
            layers[layer] = kept
            self._describe(self.own)

    def _describe(self, layout: Layout) -> None:
        # A cache is laid out by the config, whose list the layers share.
        self.model.config.blocks[:] = [block.label for block in layout.blocks]

    def _run(self, what: str) -> float:
        with torch.inference_mode():
            value = float(self.task(self.model))
        if not math.isfinite(value):
            raise DataError(f"the task returned {value} for {what}; return a finite number")
        return value
