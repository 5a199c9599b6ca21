"""Fisher scores against exact ones on SmolLM2: rank correlation, calibration and CPU-seconds.

Run it with `nice python benchmarks/fisher.py --out choosers-run`; library and exact scores that
choosers.py left there are used. It prints one JSON object. CPU-seconds count all threads. Scores
that are already in the run directory cost nothing, so every Fisher run has a seed of its own.
"""

import argparse
import itertools
import json
import time

import numpy as np
import torch
from choosers import DATA, Study
from scipy.stats import spearmanr

from puzzle.library.layout_pass import LayoutPass
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.scoring.hybrid_scores import HybridConfig, calibrated
from puzzle.scoring.reference import Reference
from puzzle.scoring.scores import Scores
from search_space import Block

SEED = 1
CONFIGS = [FisherConfig(probes=n, rounds=1, seed=SEED) for n in (1, 2, 4)]
EDGES = (0.0, 0.02, 0.1, 0.2, 0.5, np.inf)
FORWARDS = 3


def main() -> None:
    """Scores both ways and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="choosers-run")
    study = Study(parser.parse_args().out)
    started = time.process_time()
    exact = study.scores("exact")
    kinds = by_kind(exact)
    forward = forward_seconds(study)
    scratch = forward * len(kinds["all"])
    report = {
        "machine": study.machine,
        "data": str(DATA),
        "blocks": {kind: len(keys) for kind, keys in kinds.items()},
        "exact_cpu_seconds": round(time.process_time() - started, 1),
        "forward_and_kl_cpu_seconds": round(forward, 2),
        "exact_from_scratch_cpu_seconds": round(scratch),
        "fisher": [],
    }
    for config in CONFIGS:
        place = (study.library, study.space, study.cut)
        started = time.process_time()
        estimated = fisher(*place, workspace=study.workspace, config=config)
        seconds = time.process_time() - started
        entry = {"probes": config.probes, "cpu_seconds": round(seconds, 1)}
        entry["forward_equivalents"] = round(seconds / forward, 1)
        entry["share_of_scratch"] = round(seconds / scratch, 4)
        entry["spearman"] = correlations(exact, estimated, kinds)
        entry["estimate_over_exact"] = ratios(exact, estimated, kinds["all"])
        entry["calibrated"] = calibration_errors(exact, estimated, kinds["all"])
        report["fisher"].append(entry)
    print(json.dumps(report, indent=1))


@torch.no_grad()
def forward_seconds(study: Study) -> float:
    """Returns the CPU-seconds of one whole forward pass over the score text, with its KL."""
    tokens, count = study.cut.score, len(study.cut.score)
    passes = LayoutPass(study.library, tokens)
    reference = Reference(study.parent.head(), passes.residuals([None], count)[0])
    started = time.process_time()
    for _ in range(FORWARDS):
        reference.kl(passes.residuals([None], count)[0])
    return (time.process_time() - started) / FORWARDS


def by_kind(scores: Scores) -> dict[str, list[tuple[int, str]]]:
    """Returns the blocks that change something: all, and by which halves they change."""
    keys: dict[str, list[tuple[int, str]]] = {"all": [], "attention": [], "ffn": [], "both": []}
    own = Block.from_label(next(iter(scores[0])))
    for layer, label, _ in scores.items():
        block = Block.from_label(label)
        if block == own:
            continue
        kind = "ffn" if block.attention == own.attention else "both"
        kind = "attention" if block.ffn == own.ffn else kind
        keys["all"].append((layer, label))
        keys[kind].append((layer, label))
    return keys


def correlations(exact: Scores, estimated: Scores, kinds: dict) -> dict[str, float]:
    """Returns Spearman's correlation over all blocks and within each kind."""
    return {
        kind: round(
            float(
                spearmanr([exact.kl(*k) for k in keys], [estimated.kl(*k) for k in keys]).statistic
            ),
            4,
        )
        for kind, keys in kinds.items()
    }


def ratios(exact: Scores, estimated: Scores, keys: list) -> dict[str, float]:
    """Returns the median of estimate / exact by the size of the exact score."""
    truth, estimate = (np.array([s.kl(*key) for key in keys]) for s in (exact, estimated))
    medians = {}
    for low, high in itertools.pairwise(EDGES):
        inside = (truth >= low) & (truth < high)
        if inside.any():
            medians[f"{low:g} to {high:g}"] = round(
                float(np.median(estimate[inside] / truth[inside])), 3
            )
    return medians


def calibration_errors(exact: Scores, estimated: Scores, keys: list) -> list[dict[str, float]]:
    """Returns the median error of calibrated scores, the exact ones left out, by anchors."""
    rows = []
    for anchors in (12, 24, 48):
        config = HybridConfig(anchors=anchors, trust=None)
        scores = calibrated(estimated, lambda some: {k: exact[k[0]][k[1]] for k in some}, config)
        rest = [k for k in keys if scores[k[0]][k[1]].method == "calibrated"]
        errors = [abs(scores.kl(*key) / exact.kl(*key) - 1) for key in rest]
        rows.append({"anchors": anchors, "median_error": round(float(np.median(errors)), 3)})
    return rows


if __name__ == "__main__":
    main()
