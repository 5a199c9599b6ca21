"""Hybrid scores: Fisher scores calibrated on some exact ones, and exact where they are large."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from scipy.optimize import isotonic_regression

from puzzle.errors import DataError
from puzzle.estimates import Estimate, Sizes
from puzzle.library.build import Library
from puzzle.scoring.exact_scores import Key, exact_of_some, exact_seconds, replaced_blocks
from puzzle.scoring.fisher_scores import FisherConfig, FisherScores
from puzzle.scoring.scores import Score, Scores
from puzzle.stages import Run, Stage
from puzzle.storage.plain_values import count_of, make_plain
from puzzle.storage.workspace import ArtifactRef, Workspace
from puzzle.text.windows import Windows
from search_space import Block, SearchSpace

# Share of the blocks whose calibrated scores are large enough to be replaced, for estimates.
EXACT_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig:
    """Which blocks are scored exactly.

    Args:
        anchors: Blocks scored exactly to calibrate the others, a third of them for each kind of
            change (attention, FFN, both), spread evenly over the ranks of its Fisher scores.
        trust: Nats per token above which a calibrated score is not trusted but replaced by the
            exact one; None to trust all.
        fisher: How many probes.
    """

    anchors: int = 24
    trust: float | None = 0.2
    fisher: FisherConfig = field(default_factory=FisherConfig)

    def __post_init__(self) -> None:
        make_plain(self)
        count_of("anchors", self.anchors, least=6)
        if self.trust is not None and not (math.isfinite(self.trust) and self.trust > 0):
            raise DataError(f"trust={self.trust!r}; allowed: nats above 0, or None for no limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridScores(Stage[Scores]):
    """Fisher scores, calibrated on some exact ones and replaced by exact ones where large.

    Args:
        space: Which blocks to score.
        layers: The library's layers.
        config: Which blocks are scored exactly.
    """

    space: SearchSpace
    layers: tuple[ArtifactRef, ...] = ()
    config: HybridConfig = field(default_factory=HybridConfig)

    @property
    def estimated(self) -> FisherScores:
        """The scores that are calibrated."""
        return FisherScores(space=self.space, layers=self.layers, config=self.config.fisher)

    def result(self, run: Run) -> Scores:
        """Returns the scores; each says whether it is exact or calibrated."""
        estimates = run.get(self.estimated)
        return calibrated(estimates, partial(exact_of_some, run, self.layers), self.config)

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what Fisher scores and the exact ones take, large ones a tenth of the blocks."""
        fisher_part, count = self.estimated.estimate(sizes), replaced_blocks(self.space)
        large = 0 if self.config.trust is None else math.ceil(EXACT_SHARE * count)
        exact = min(count, self.config.anchors + large)
        return replace(
            fisher_part,
            work=f"{fisher_part.work}; {exact} of {count} blocks exactly",
            seconds=fisher_part.seconds + exact * exact_seconds(sizes),
            reads=fisher_part.reads + (1.5 if self.config.trust is None else 4.5) * sizes.weights,
        )


def hybrid(
    library: Library,
    space: SearchSpace,
    windows: Windows,
    *,
    workspace: Workspace,
    config: HybridConfig | None = None,
) -> Scores:
    """Returns a score for every block; each says whether it is exact or calibrated.

    Args:
        library: The variants.
        space: Which blocks to score.
        windows: The text; only its score part is used.
        workspace: Where scores are stored.
        config: Which blocks are scored exactly.
    """
    run = Run(workspace=workspace, parent=library.parent, windows=windows)
    config = config or HybridConfig()
    return run.get(HybridScores(space=space, layers=library.refs, config=config))


def calibrated(
    estimates: Scores, exact_of: Callable[[list[Key]], Mapping[Key, Score]], config: HybridConfig
) -> Scores:
    """Returns estimates calibrated on exact scores, and replaced by them where they are large.

    Args:
        estimates: A score for every block.
        exact_of: Returns the exact scores of some (layer, label); called at most twice.
        config: Which blocks are scored exactly.
    """
    keys = [key for kind in kinds(estimates) for key in anchor_keys(kind, config.anchors // 3)]
    exact = exact_of(keys)
    scores = estimates
    for kind in kinds(estimates):
        here = {key: score for key, score in exact.items() if key[1] in kind[key[0]]}
        changed = calibrate(kind, here)
        scores = scores.replaced({(layer, label): s for layer, label, s in changed.items()})
    if config.trust is None:
        return scores
    doubted = [
        (layer, label)
        for layer, label, score in scores.items()
        if score.method == "calibrated" and score.kl > config.trust
    ]
    return scores.replaced(exact_of(doubted))


def kinds(scores: Scores) -> list[Scores]:
    """Returns the scores of blocks with another attention, with another FFN, and with both.

    The ratio of exact scores to Fisher's differs between them, so that one map for all favours
    one kind over another. The first block of a layer is the parent's.
    """
    own = [Block.from_label(next(iter(row))) for row in scores]
    by_kind = []
    for attention, ffn in ((False, True), (True, False), (False, False)):
        rows = (
            {
                label: score
                for label, score in row.items()
                if (Block.from_label(label).attention == block.attention) == attention
                and (Block.from_label(label).ffn == block.ffn) == ffn
            }
            for row, block in zip(scores, own, strict=True)
        )
        by_kind.append(Scores(tuple(rows)))
    return [kind for kind in by_kind if any(kind)]


def anchor_keys(estimates: Scores, count: int) -> list[Key]:
    """Returns (layer, label) of blocks whose estimates are spread evenly over the ranks."""
    ranked = sorted(
        ((layer, label) for layer, label, score in estimates.items() if score.kl > 0),
        key=lambda key: (estimates.kl(*key), key),
    )
    # The middle of each of `count` equal stretches of ranks.
    at = {int((2 * i + 1) * len(ranked) / (2 * count)) for i in range(count)}
    return [ranked[i] for i in sorted(at) if i < len(ranked)]


def calibrate(estimates: Scores, exact: Mapping[Key, Score]) -> Scores:
    """Returns estimates corrected by the monotone map that fits the exact scores best.

    The map is fitted to logarithms by isotonic regression and is straight between the anchors;
    beyond them, the ratio at the outermost anchor is used. Anchors keep their exact score. A
    calibrated score's standard error includes the scatter of the anchors around the map.

    Args:
        estimates: A score for every block.
        exact: Exact scores of some blocks, by (layer, label).
    """
    pairs = sorted(
        (math.log(estimates.kl(*key)), math.log(score.kl))
        for key, score in exact.items()
        if estimates.kl(*key) > 0 and score.kl > 0
    )
    if not pairs:
        return estimates
    at, truth = (np.array(column) for column in zip(*pairs, strict=True))
    fitted = isotonic_regression(truth).x
    scatter = float(np.sqrt(np.mean((truth - fitted) ** 2)))
    changes: dict[Key, Score] = {}
    for layer, label, score in estimates.items():
        if score.kl > 0:
            factor = math.exp(float(np.interp(math.log(score.kl), at, fitted - at)))
            kl = score.kl * factor
            error = math.hypot(score.error * factor, kl * scatter)
            changes[layer, label] = Score(kl=kl, error=error, method="calibrated")
    return estimates.replaced({**changes, **exact})
