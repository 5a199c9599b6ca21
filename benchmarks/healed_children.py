"""What settings of the library and of distillation are worth in children: KL against CPU-seconds.

The same layouts are healed with each of some settings (that needs no library of a whole space) and
measured on validation text, which chooses nothing. A seed is a stretch of fit text of its own; the
validation text is the same for all. KL is the mean over seeds of each stretch of validation text,
and a difference from the first settings is paired: by seed and stretch. Layouts come from Fisher
scores in a coarse space, unless settings name another "chooser" or "space" of
`benchmarks/common/layout_choosers.py`; OUT/layouts*.json keep them.

    OMP_NUM_THREADS=1 python benchmarks/healed_children.py --settings "{}" '{"channels": "largest"}'
    python benchmarks/healed_children.py --settings "{}" '{"fit_tokens": 32768}' \\
        '{"fit_tokens": 32768, "distil": {"tokens": 65536, "optimizer": "adamw"}}'
    python benchmarks/healed_children.py --budgets 0.7 --settings "{}" \\
        '{"distil": {"tokens": 12288, "text": 131072}}' \\
        '{"distil": {"tokens": 24576, "text": 131072}}'
    python benchmarks/healed_children.py --seeds 0 --settings '{"fit_tokens": 65536}' \\
        '{"fit_tokens": 65536, "chooser": "default", "space": "fine"}'
    python benchmarks/healed_children.py --local --settings "{}" '{"channels": "largest"}'

Settings are those of `LibraryConfig`, beside the number of fit tokens and the settings of a
distillation, on the same text or on as many tokens as its "text" says; several numbers of tokens,
each with a schedule of its own, make a curve of KL against CPU-seconds. Beside those of
`DistillConfig` there is "average", the decay of a running mean of the weights.
With `--local` it reports local errors and replace-one KL of some layers' FFNs instead. Every child
is a line of OUT/healed_children.jsonl, and is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from common.demo_parent import open_demo_parent
from common.distil_levers import Averaged
from common.layout_choosers import LIBRARY_TOKENS, LayoutChooser, space_named
from common.machine import print_machine
from common.texts import docstrings

import puzzle
from puzzle.choice.layout_kl import LayoutKL
from puzzle.library.build import build_library, heal
from puzzle.library.settings import LibraryConfig
from puzzle.models.assembling import assemble
from puzzle.models.parent import Parent
from puzzle.scoring.exact_scores import replace_some
from puzzle.scoring.scores import combine, stretch_means
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, Windows, windows
from search_space import Block, Layout, SearchSpace

# The widths of the FFNs of `--local`.
WIDTHS = (1536, 1152, 768, 384)
# How layouts are chosen where settings do not say so.
USUAL = ("fisher", "coarse")


@dataclass(frozen=True)
class Study:
    """Parent, text and files of a run."""

    out: Path
    parent: Parent
    workspace: Workspace
    data: DataConfig
    choosers: dict[str, LayoutChooser] = field(default_factory=dict)

    def cut(self, seed: int, fit_tokens: int | None = None) -> Windows:
        """Returns the text of a seed: its part of the fit text, and what is common to all."""
        path, tokens = self.out / "texts.json", fit_tokens or self.data.fit_tokens
        if not path.exists():
            path.write_text(json.dumps(docstrings()), encoding="utf-8")
        texts = json.loads(path.read_text(encoding="utf-8"))
        data = replace(self.data, fit_tokens=(seed + 1) * tokens)
        whole = windows(texts, self.parent.tokenizer, data)
        own = whole.fit[-(tokens // data.window) :]
        return Windows(fit=own, score=whole.score, validation=whole.validation)

    def layout(self, share: float, settings: Settings) -> Layout:
        """Returns the layout of a share of the layers' parameters, chosen as the settings say."""
        how, space = settings.chooser, settings.space
        name = "layouts.json" if (how, space) == USUAL else f"layouts-{how}-{space}.json"
        path = self.out / name
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if str(share) not in known:
            known[str(share)] = self._chooser(space).labels(how, share)
            path.write_text(json.dumps(known), encoding="utf-8")
        return Layout(self.parent.shape, tuple(map(Block.from_label, known[str(share)])))

    def _chooser(self, space: str) -> LayoutChooser:
        if space in self.choosers:
            return self.choosers[space]
        cut = self.cut(0, LIBRARY_TOKENS[space])
        run = Run(workspace=self.workspace, parent=self.parent, windows=cut)
        return self.choosers.setdefault(
            space, LayoutChooser(run, space_named(self.parent.shape, space))
        )


@dataclass(frozen=True)
class Settings:
    """What one row of the table is made with."""

    library: LibraryConfig
    fit_tokens: int | None
    distil: dict[str, Any] | None
    chooser: str
    space: str

    @classmethod
    def read(cls, text: str) -> Settings:
        """Returns the settings that JSON names."""
        values = json.loads(text)
        tokens, distil = values.pop("fit_tokens", None), values.pop("distil", None)
        how, space = (values.pop(*of) for of in zip(("chooser", "space"), USUAL, strict=True))
        return cls(LibraryConfig(**values), tokens, distil, how, space)


def healed(study: Study, layout: Layout, seed: int, text: str) -> dict[str, Any]:
    """Returns the KL of stretches of validation text of one child, and its CPU-seconds."""
    settings = Settings.read(text)
    cut = study.cut(seed, settings.fit_tokens)
    started = time.process_time()
    library = heal(study.parent, layout, cut, workspace=study.workspace, config=settings.library)
    seconds = time.process_time() - started
    judge = LayoutKL(library, cut.validation)
    if not settings.distil:
        kl = judge.reference.kl(judge.residual(layout, len(cut.validation)))
    else:
        child = assemble(
            study.parent.config,
            layout,
            library.child_tensors(layout),
            dtype=study.parent.dtype,
        )
        started = time.process_time()
        values = dict(settings.distil)
        own = study.cut(seed, values.pop("text")) if "text" in values else cut
        child = distilled(study, child, own.fit, values)
        seconds += time.process_time() - started
        kl = torch.cat([own_kl(judge, child, at, row) for at, row in enumerate(cut.validation)])
    return {"kl": stretch_means(kl), "cpu_seconds": round(seconds, 1)}


def distilled(study: Study, child: Any, fit: torch.Tensor, values: dict[str, Any]) -> Any:
    """Returns a child after some distillation on windows."""
    callbacks: list[Any] = [Averaged(values.pop("average"))] if "average" in values else []
    sizes = {"length": fit.shape[1], "batch": 8, "micro_batch": 4, "mixed_precision": "bf16"}
    config = puzzle.DistillConfig(**{**sizes, **values})
    if config.length > fit.shape[1]:
        # Neighbours belong together; shorter windows are cut by the distillation.
        fit = fit.reshape(-1, config.length)
    with tempfile.TemporaryDirectory(dir=study.out) as out:
        return puzzle.distill(
            child, study.parent, fit, config=config, out=out, callbacks=callbacks
        ).child()


@torch.no_grad()
def own_kl(judge: LayoutKL, child: Any, row: int, tokens_L: torch.Tensor) -> torch.Tensor:
    """Returns KL(parent || child) per token of a window; the child's norm and head are its own."""
    p_LV = judge.reference.distribution(row)
    log_q_LV = torch.log_softmax(child(tokens_L[None]).logits[0].float(), -1)
    return (torch.special.xlogy(p_LV, p_LV) - p_LV * log_q_LV).sum(-1)[None]


def local(study: Study, layers: list[int], seeds: list[int], text: str) -> dict[str, Any]:
    """Returns geometric means over layers and seeds of local errors and replace-one KL."""
    parent, labels = study.parent, [f"gqa3+gated{width}" for width in WIDTHS[1:]]
    keep = [layer for layer in range(parent.shape.layers) if layer not in layers]
    ffns = [f"gated{width}" for width in WIDTHS[1:]]
    space = SearchSpace.uniform(parent.shape, ffns=ffns, keep=keep)
    settings = Settings.read(text)
    errors: dict[str, list[float]] = {label: [] for label in labels}
    kls: dict[str, list[float]] = {label: [] for label in labels}
    for seed in seeds:
        cut = study.cut(seed, settings.fit_tokens)
        library = build_library(
            parent, space, cut, workspace=study.workspace, config=settings.library
        )
        blocks = [Block.from_label(label) for label in labels]
        place = study.workspace
        scores = replace_some(library, dict.fromkeys(layers, blocks), cut, workspace=place)
        for layer in layers:
            for label in labels:
                error = library.errors(layer)[f"ffn/{label.replace('+', '/')}"].value
                errors[label].append(math.log(error))
                kls[label].append(math.log(scores[layer][label].kl))

    def means(logs: dict[str, list[float]]) -> dict[str, float]:
        return {name: round(math.exp(statistics.fmean(all_)), 5) for name, all_ in logs.items()}

    return {"settings": text, "error": means(errors), "kl": means(kls)}


Rows = dict[tuple[str, float, int], dict[str, Any]]


def over_seeds(rows: list[list[float]]) -> tuple[float, float]:
    """Returns the mean of stretches of text and its standard error, seeds averaged first."""
    return combine([statistics.fmean(stretch) for stretch in zip(*rows, strict=True)])


def table(rows: Rows, settings: list[str]) -> str:
    """Returns a markdown table: KL, and the paired difference from the first settings."""
    lines = ["| settings | share | seeds | KL | difference | CPU-s |", "|---|---|---|---|---|---|"]
    for text in settings:
        shares = {share for name, share, _ in rows if name == text}
        for share in sorted(shares, reverse=True):
            mine = {seed: r for (name, of, seed), r in rows.items() if (name, of) == (text, share)}
            seconds = statistics.fmean(row["cpu_seconds"] for row in mine.values())
            mean = "{:.4f} ± {:.4f}".format(*over_seeds([row["kl"] for row in mine.values()]))
            base = {seed: rows.get((settings[0], share, seed)) for seed in mine}
            pairs = [
                [own - other for own, other in zip(mine[seed]["kl"], row["kl"], strict=True)]
                for seed, row in base.items()
                if row
            ]
            change = "{:+.4f} ± {:.4f}".format(*over_seeds(pairs)) if pairs else ""
            cells = [f"`{text}`", f"{share:g}", str(len(mine)), mean, change, f"{seconds:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("healed-run"))
    parser.add_argument("--settings", nargs="+", default=["{}", '{"channels": "largest"}'])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.85, 0.7, 0.55, 0.4])
    parser.add_argument("--fit-tokens", type=int, default=8192)
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 14, 24])
    parser.add_argument("--local", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("common").setLevel(logging.INFO)
    args.out.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(args.out)
    parent = open_demo_parent(workspace)
    print_machine(dtype=parent.dtype, seed=args.seeds[0])
    data = DataConfig(fit_tokens=args.fit_tokens, score_tokens=1024, validation_tokens=4096)
    study = Study(args.out, parent, workspace, data)
    if args.local:
        for text in args.settings:
            print(json.dumps(local(study, args.layers, args.seeds, text)), flush=True)
        return
    path = args.out / "healed_children.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: Rows = {(r["settings"], r["share"], r["seed"]): r for r in map(json.loads, lines)}
    for seed in args.seeds:
        for share, text in itertools.product(args.budgets, args.settings):
            if (text, share, seed) not in rows:
                layout = study.layout(share, Settings.read(text))
                row = {"settings": text, "share": share, "seed": seed}
                row |= healed(study, layout, seed, text)
                # What was healed for another row is in the workspace, and is counted here, too.
                healing = json.loads(text)
                if healing.pop("distil", None):
                    before = rows.get((json.dumps(healing), share, seed), {"cpu_seconds": 0.0})
                    row["cpu_seconds"] = round(row["cpu_seconds"] + before["cpu_seconds"], 1)
                rows[text, share, seed] = row
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(text, share, seed, round(statistics.fmean(row["kl"]), 4), flush=True)
    print(table(rows, args.settings))


if __name__ == "__main__":
    main()
