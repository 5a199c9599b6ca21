"""Fisher scores against exact ones on SmolLM2: rank correlation, ratio and CPU-seconds.

Run it with `python benchmarks/fisher.py --out puzzle-run`; library and exact scores that the demo
left there are used. It prints one JSON object. CPU-seconds count all threads; scores found in the
run directory cost nothing, so take a fresh one to compare costs.
"""

import argparse
import itertools
import json
import time

import numpy as np
from scipy.stats import spearmanr

from puzzle.costs import device_record
from puzzle.data import windows
from puzzle.demo import DEMO_DATA, demo_text, fetch_demo_model
from puzzle.library import build_library
from puzzle.parents import open_parent
from puzzle.scoring import FisherConfig, Scores, fisher, replace_one
from puzzle.workspace import Workspace
from search_space import Block, ModelShape, SearchSpace

CONFIGS = [
    FisherConfig(probes=1, rounds=1),
    FisherConfig(probes=2, rounds=1),
    FisherConfig(probes=4, rounds=1),
    FisherConfig(probes=2, rounds=4, stable=1.0),
]
EDGES = (0.0, 0.02, 0.1, 0.2, 0.5, np.inf)


def main() -> None:
    """Scores both ways and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="puzzle-run")
    parser.add_argument("--space", default="small", help="preset of the search space")
    options = parser.parse_args()
    workspace = Workspace(options.out)
    parent = open_parent(fetch_demo_model(), workspace=workspace)
    space = SearchSpace.preset(parent.shape, options.space)
    cut = windows(demo_text(), parent.tokenizer, DEMO_DATA)
    library = build_library(parent, space, cut, workspace=workspace)
    started = time.process_time()
    exact = replace_one(library, space, cut, workspace=workspace)
    report = {
        "device": device_record(),
        "score_tokens": cut.score.numel(),
        "exact_cpu_seconds": round(time.process_time() - started, 1),
        "fisher": [],
    }
    for config in CONFIGS:
        started = time.process_time()
        found = fisher(library, space, cut, workspace=workspace, config=config)
        seconds = round(time.process_time() - started, 1)
        entry = {"probes": config.probes, "rounds": config.rounds, "cpu_seconds": seconds}
        report["fisher"].append(entry | compare(exact, found, parent.shape))
    print(json.dumps(report, indent=1))


def compare(exact: Scores, found: Scores, shape: ModelShape) -> dict[str, object]:
    """Returns rank correlations over all blocks and within each kind, and the median ratios."""
    own = shape.parent_block
    keys = [(layer, label) for layer, label, _ in exact.items() if label != own.label]
    kinds = {
        "all": keys,
        "attention": [k for k in keys if Block.from_label(k[1]).ffn == own.ffn],
        "ffn": [k for k in keys if Block.from_label(k[1]).attention == own.attention],
    }
    truth, estimate = (np.array([s.kl(*key) for key in keys]) for s in (exact, found))
    ratios = {}
    for low, high in itertools.pairwise(EDGES):
        inside = (truth >= low) & (truth < high)
        if inside.any():
            ratios[f"{low:g} to {high:g}"] = round(
                float(np.median(estimate[inside] / truth[inside])), 3
            )
    correlations = {
        name: round(
            float(spearmanr([exact.kl(*k) for k in some], [found.kl(*k) for k in some]).statistic),
            4,
        )
        for name, some in kinds.items()
        if len(some) > 2
    }
    return {"blocks": len(keys), "spearman": correlations, "estimate_over_exact": ratios}


if __name__ == "__main__":
    main()
