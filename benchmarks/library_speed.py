"""Where the CPU-seconds of a block library and of healing go, and what the children are worth.

Some layers of the demo's library (preset "small", 8,192 tokens of its text) are built, then a
layout that never changes is healed, and its KL is measured on validation text. CPU-seconds are
those of this process, of all its threads, by part; they hold on a busy machine, too. OUT keeps
the parent; the results are one JSON file, with which another one is compared: KL
paired by stretches of validation text, and held-out errors of the library by variant.

    OMP_NUM_THREADS=1 python benchmarks/library_speed.py --out speed-run --results before.json
    OMP_NUM_THREADS=1 python benchmarks/library_speed.py --out speed-run --results after.json \\
        --against before.json
    OMP_NUM_THREADS=2 python benchmarks/library_speed.py --out speed-run --seeds 0
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common.demo_parent import open_demo_parent
from common.machine import print_machine

import puzzle.library.ffn_fit
import puzzle.library.fitting
import puzzle.library.layers
from puzzle.choice.layout_kl import LayoutKL
from puzzle.demo import demo_text
from puzzle.library.attention_fit import AttentionFit
from puzzle.library.boundary import ParentBoundary
from puzzle.library.build import heal
from puzzle.library.layers import ChildBoundary, LibrarySpec
from puzzle.library.least_squares import Moments
from puzzle.library.local_error import LocalError
from puzzle.models.family import Family
from puzzle.models.parent import Parent
from puzzle.scoring.scores import combine, stretch_means
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, Windows, windows
from search_space import Block, Layout, SearchSpace

# Three quarters of the layers' parameters, with every kind of block of the preset.
PATTERN = (
    *("gqa3+gated1536", "gqa1+gated1152", "none+gated1536"),
    *("gqa3+gated1152", "gqa1+gated768"),
)
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("the parent's layer", puzzle.library.layers, "layer_streams"),
    ("heads to merge", AttentionFit, "_lost_power"),
    ("features of attentions", Family, "attention_features"),
    ("features of FFNs", Family, "ffn_features"),
    ("sums", Moments, "add"),
    ("elimination", puzzle.library.ffn_fit, "elimination_order"),
    ("ridge fits", puzzle.library.fitting, "least_squares_fit"),
    ("the child's layer", ChildBoundary, "build"),
)


class Spent:
    """CPU-seconds by part; those of a part within another one count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = False

    def counted(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the same function, counted."""

        def count(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return work(*args, **kwargs)
            self._inside, started = True, time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[part] += time.process_time() - started

        return count

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Counts the parts, and all that is none of them as the rest."""
        started = time.process_time()
        with ExitStack() as stack:
            for part, owner, name in PARTS:
                work = getattr(owner, name)
                stack.enter_context(patch.object(owner, name, self._bound(part, work)))
            yield
        whole = time.process_time() - started
        self.seconds["the rest"] = whole - sum(self.seconds.values())
        self.seconds["all"] = whole

    def _bound(self, part: str, work: Callable[..., Any]) -> Any:
        count = self.counted(part, work)
        # A function, so that it is bound to instances as a method.
        return lambda *args, **kwargs: count(*args, **kwargs)


def cut(parent: Parent, seed: int, tokens: int) -> Windows:
    """Returns the text of a seed: a stretch of fit text, and validation text common to all."""
    data = DataConfig(fit_tokens=(seed + 1) * tokens, score_tokens=1024, validation_tokens=4096)
    whole = windows(demo_text(), parent.tokenizer, data)
    own = whole.fit[-(tokens // data.window) :]
    return Windows(fit=own, score=whole.score, validation=whole.validation)


def library_of(run: Run, space: SearchSpace, layers: list[int]) -> dict[str, Any]:
    """Returns the CPU-seconds of some layers of a library by part, and their held-out errors."""
    spec, errors = LibrarySpec(space=space), {}
    seconds: dict[str, float] = defaultdict(float)
    for layer in layers:
        run.get(ParentBoundary(part="fit", layer=layer))
        spent = Spent()
        with spent.watching():
            artifact = run.build(spec.layer(layer))
        for part, value in spent.seconds.items():
            seconds[part] += value
        found = LocalError.read(artifact.load_json("errors.json"))
        errors |= {f"{layer}/{name}": error.to_dict() for name, error in found.items()}
    return {"seconds": seconds, "errors": errors}


def healed(parent: Parent, layout: Layout, text: Windows, workspace: Workspace) -> dict[str, Any]:
    """Returns the CPU-seconds of healing by part, and the KL of stretches of validation text."""
    spent = Spent()
    with spent.watching():
        library = heal(parent, layout, text, workspace=workspace)
    judge = LayoutKL(library, text.validation)
    kl = judge.reference.kl(judge.residual(layout, len(text.validation)))
    return {"seconds": spent.seconds, "kl": stretch_means(kl)}


def table(results: dict[str, Any]) -> str:
    """Returns CPU-seconds by part and seed, and KL."""
    lines = []
    for seed, found in results.items():
        for stage in ("library", "healing"):
            seconds = dict(found[stage]["seconds"])
            whole = seconds.pop("all")
            parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
            lines.append(f"seed {seed}, {stage}: {whole:.1f} CPU-s ({parts})")
        mean, error = combine(found["healing"]["kl"])
        lines.append(f"seed {seed}: KL of the healed child {mean:.4f} ± {error:.4f}")
    return "\n".join(lines)


def compared(results: dict[str, Any], others: dict[str, Any]) -> str:
    """Returns how KL and held-out errors differ from those of other results."""
    lines = []
    for seed in sorted(set(results) & set(others)):
        own, other = results[seed], others[seed]
        pairs = zip(own["healing"]["kl"], other["healing"]["kl"], strict=True)
        mean, error = combine([mine - theirs for mine, theirs in pairs])
        lines.append(f"seed {seed}: KL differs by {mean:+.5f} ± {error:.5f} nats")
        ratios, ridges = {}, 0
        for name, theirs in other["library"]["errors"].items():
            mine = own["library"]["errors"][name]
            ridges += mine["ridge"] != theirs["ridge"]
            if theirs["fitted"] > 0:
                ratios[name] = math.log(mine["fitted"] / theirs["fitted"])
        mean = math.exp(statistics.fmean(ratios.values()))
        most = max(ratios, key=lambda name: abs(ratios[name]))
        lines.append(
            f"seed {seed}: held-out errors times {mean:.6f} (geometric mean of {len(ratios)}; "
            f"most for {most}: {math.exp(ratios[most]):.6f}); other ridges: {ridges}"
        )
    return "\n".join(lines)


def main() -> None:
    """Builds, heals, measures, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("speed-run"))
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 3, 8, 14])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--fit-tokens", type=int, default=8192)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--against", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    parent = open_demo_parent(args.out)
    print_machine(dtype=parent.dtype, seed=args.seeds[0])
    space = SearchSpace.preset(parent.shape, "small")
    depth = parent.shape.layers
    layout = Layout.parent(parent.shape)
    for layer in range(2, depth - 1):
        layout = layout.replace(layer, Block.from_label(PATTERN[layer % len(PATTERN)]))
    results: dict[str, Any] = {}
    for seed in args.seeds:
        text = cut(parent, seed, args.fit_tokens)
        with tempfile.TemporaryDirectory(dir=args.out) as place:
            workspace = Workspace(place)
            run = Run(workspace=workspace, parent=parent, windows=text)
            results[str(seed)] = {
                "library": library_of(run, space, args.layers),
                "healing": healed(parent, layout, text, workspace),
            }
        print(table({str(seed): results[str(seed)]}), flush=True)
    if args.results:
        args.results.write_text(json.dumps(results), encoding="utf-8")
    if args.against:
        print(compared(results, json.loads(args.against.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
