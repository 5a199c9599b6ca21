"""Fisher scores: every block of every layer from a handful of backward passes.

For small changes KL(parent || child) is half the change's square in the Fisher metric of the
parent's next-token distribution p. With eps ~ N(0, I) the vector u = sqrt(p) eps - p (sqrt(p).eps)
has covariance diag(p) - p p', so one backward pass with u as the logits' cotangent gives, at every
layer boundary i, a sample g_i whose covariance is that metric. A block that changes the residual
stream by delta scores mean((sum of g_i . delta)^2) / 2, the sum being over a few neighbouring
positions. Summed over the whole window the score would be unbiased but very noisy; position by
position it would miss the joint effect of changes at two positions, which matters because of
attention. The joint effect of distant positions is left out, so the score is unbiased only at the
last layer. docs/results/scores.md has the figures.

The larger the change, the more the score underestimates it: `puzzle.scoring.hybrid` corrects that.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from puzzle.errors import DataError
from puzzle.estimates import Estimate, Sizes
from puzzle.library.build import Library
from puzzle.scoring.fisher_layers import FisherLayer, gradient_boundary, write_gradients
from puzzle.scoring.gradient_sweep import TOGETHER, GradientSweep, Samples
from puzzle.scoring.scores import Score, Scores, combine
from puzzle.stages import ArtifactStage, Run, Stage
from puzzle.storage.plain_values import count_of, make_plain
from puzzle.storage.workspace import Artifact, ArtifactRef, Workspace
from puzzle.text.windows import Windows
from search_space import SearchSpace

SAMPLES = "samples.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherConfig:
    """How many probes are drawn.

    Args:
        probes: Backward passes per round.
        rounds: Maximum number of rounds; each adds `probes` probes.
        stable: Rounds end when the rankings by two halves of the probes agree so well that the
            mean of both is expected to correlate this much with a mean over infinitely many.
        seed: Seed of the probes.
    """

    probes: int = 4
    rounds: int = 2
    stable: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("probes", "rounds"):
            count_of(name, getattr(self, name))
        count_of("seed", self.seed, least=0)
        if not 0.0 < self.stable <= 1.0:
            raise DataError(f"stable={self.stable!r}; allowed: above 0, up to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherScores(Stage[Scores]):
    """A Fisher score for every block of a space, with its standard error.

    Args:
        space: Which blocks to score.
        layers: The library's layers.
        config: How many probes.
    """

    space: SearchSpace
    layers: tuple[ArtifactRef, ...] = ()
    config: FisherConfig = field(default_factory=FisherConfig)

    def result(self, run: Run) -> Scores:
        """Returns the scores, after as many rounds of probes as they need."""
        samples: Samples = []
        for number in range(self.config.rounds):
            new = run.get(
                FisherRound(space=self.space, layers=self.layers, config=self.config, number=number)
            )
            samples = _joined(samples, new) if samples else new
            if reliability(samples) >= self.config.stable:
                break
        rows = ({label: _score(means) for label, means in row.items()} for row in samples)
        return Scores(tuple(rows))

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what all rounds take.

        Each layer is run twice; a pass back, which needs no gradients of weights, is one forward.
        With an executor, the passes leave what surrounds each layer in the run directory.
        """
        tokens, shape, config = sizes.tokens("score"), sizes.shape, self.config
        every = (block for layer in range(shape.layers) for block in self.space.blocks(layer))
        once = sizes.forward(tokens, every)
        passes = (2 + config.probes) * sizes.whole(tokens)
        stream = sizes.stream("score")
        left = shape.layers * (2 + config.probes) * stream if sizes.workers else 0.0
        return Estimate(
            name="scores",
            work=f"{config.rounds} rounds of {config.probes} probes, {tokens:,} tokens",
            seconds=config.rounds * (once + passes),
            memory=sizes.pass_memory,
            disk=0.0,
            alone=config.rounds * passes,
            jobs=shape.layers,
            reads=config.rounds * (2 * sizes.weights + sizes.library),
            hashed=sizes.library + config.rounds * left,
            scratch=(shape.layers + 1 + 2 * config.probes) * stream + left,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherRound(ArtifactStage[Samples]):
    """One round of probes: observations of every block, per layer and label.

    Args:
        space: Which blocks to score.
        layers: The library's layers.
        config: How many probes.
        number: The round's number.
    """

    kind: ClassVar[str] = "fisher"
    format: ClassVar[int] = 2
    space: SearchSpace
    layers: tuple[ArtifactRef, ...]
    config: FisherConfig
    number: int

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the observations depend on."""
        layers = range(self.space.shape.layers)
        return {
            "library": [layer.key for layer in self.layers],
            "blocks": [[block.label for block in self.space.blocks(layer)] for layer in layers],
            "score": run.text.hash("score"),
            "probes": self.config.probes,
            "together": TOGETHER,
            "seed": self.config.seed,
            "round": self.number,
        }

    def result(self, run: Run) -> Samples:
        """Returns the observations, built first if they are missing."""
        samples = self.load(run, run.build(self))
        # Also those of a run that was killed between the round and their deletion.
        for layer in range(self.space.shape.layers):
            self._boundary(run, layer).discard()
        return samples

    def build(self, run: Run, directory: Path) -> None:
        """Sweeps forward and backward over the parent, one layer at a time.

        With an executor, the sweep leaves streams and gradients, and each layer is a job.
        """
        if run.executor is None:
            with run.workspace.scratch() as scratch:
                samples = self._swept(run, scratch).backward(self.space)
        else:
            samples = self._from_jobs(run)
        (directory / SAMPLES).write_text(json.dumps(samples), encoding="utf-8")

    def _swept(self, run: Run, scratch: Path) -> GradientSweep:
        """Returns a sweep that has been forward, with the probes at its last boundary."""
        library = Library(parent=run.parent, layers=tuple(map(run.workspace.find, self.layers)))
        sweep = GradientSweep(library, run.text.score, scratch, self.config.probes)
        sweep.forward()
        sweep.probe(self.config.seed * 1_000_003 + self.number)
        return sweep

    def _boundary(self, run: Run, layer: int) -> Artifact:
        return gradient_boundary(run, run.artifact(self).key, layer)

    def _from_jobs(self, run: Run) -> Samples:
        """Returns the observations that the executor's workers make, layer by layer."""
        own = run.parent.shape.parent_blocks
        stages = {
            layer: FisherLayer(
                layer=layer,
                variants=variants,
                blocks=self.space.blocks(layer),
                gradients=self._boundary(run, layer).ref,
            )
            for layer, variants in enumerate(self.layers)
            if any(block != own[layer] for block in self.space.blocks(layer))
        }
        missing = [layer for layer in stages if not run.artifact(stages[layer]).sound()]
        if not all(self._boundary(run, layer).sound() for layer in missing):
            self._leave_boundaries(run, missing)
        run.build_all(tuple(stages.values()), unit="layer")
        return [
            run.get(stages[layer]) if layer in stages else {block.label: [0.0]}
            for layer, block in enumerate(own)
        ]

    def _leave_boundaries(self, run: Run, layers: Collection[int]) -> None:
        """Sweeps over the parent and stores what surrounds some layers."""
        with run.workspace.scratch() as scratch:
            for layer, gradients in self._swept(run, scratch).layers():
                if layer in layers:
                    run.parent.require_unchanged()
                    write_gradients(self._boundary(run, layer), gradients)

    def load(self, run: Run, artifact: Artifact) -> Samples:
        """Returns the observations."""
        samples: Samples = artifact.load_json(SAMPLES)
        return samples


def fisher(
    library: Library,
    space: SearchSpace,
    windows: Windows,
    *,
    workspace: Workspace,
    config: FisherConfig | None = None,
) -> Scores:
    """Returns a Fisher score for every block of a space, with its standard error.

    The parent is streamed: a forward sweep stores the residual stream at all layer boundaries in
    memory-mapped files, a backward sweep recomputes one layer at a time. A finished round is kept.

    Args:
        library: The variants.
        space: Which blocks to score.
        windows: The text; only its score part is used.
        workspace: Where rounds are stored.
        config: How many probes.
    """
    run = Run(workspace=workspace, parent=library.parent, windows=windows)
    config = config or FisherConfig()
    return run.get(FisherScores(space=space, layers=library.refs, config=config))


def _score(means: list[float]) -> Score:
    kl, error = combine(means)
    return Score(kl=kl, error=error, method="fisher")


def _joined(one: Samples, two: Samples) -> Samples:
    pairs = zip(one, two, strict=True)
    return [{label: a[label] + b[label] for label in a} for a, b in pairs]


def reliability(samples: Samples) -> float:
    """Returns the expected rank correlation of scores with those of infinitely many probes.

    The Spearman correlation r of the scores by the odd and by the even probes is that of two
    halves; the Spearman-Brown formula gives sqrt(2 r / (1 + r)) for their mean with
    the truth. Observations alternate between the halves.
    """
    # Its import takes most of a CPU-second, which processes that compute no scores do without.
    from scipy.stats import spearmanr

    halves = [
        [sum(means[half::2]) for row in samples for means in row.values() if any(means)]
        for half in (0, 1)
    ]
    if len(halves[0]) < 3:
        return 1.0
    r = float(spearmanr(*halves).statistic)
    return (max(0.0, 2 * r / (1 + r))) ** 0.5
