"""puzzle beside other ways to prune: the same model, text, budget and judge.

    git clone https://github.com/FabrizioSandri/2SSP peers-2ssp
    git -C peers-2ssp checkout 88ab660
    python -m venv peers-env
    peers-env/bin/pip install torch==2.13.0 transformers==4.47.1 ml_collections "numpy<3"
    export OMP_NUM_THREADS=1
    python benchmarks/peers/compare.py --repository peers-2ssp --python peers-env/bin/python \\
        --out peers-run
    python benchmarks/peers/distil.py --out peers-run
    python benchmarks/peers/speeds.py --out peers-run
    python benchmarks/peers/tables.py --out peers-run --page docs/results/peers.md

SmolLM2-135M-Instruct in float32; calibration on 8,192 tokens of docstrings, judged on 4,096 others.
Kept: 85 and 70 % of the parameters of the layers, as stored; other shares with --shares. ShortGPT,
window removal and BlockPruner remove whole layers (or as many attentions as FFNs): as many as keep
at least the share, which is to their benefit. The repository (GPL-3) holds ShortGPT, window
removal, BlockPruner, 2SSP and SliceGPT; it is run as it is, in a process of its own, and only told
to evaluate on a CPU.

What is left of a model after removal is a child to puzzle: its KL is measured here again, and must
agree. Each row is kept in OUT/rows.json and not made again. Then the other scripts of this folder
distil some of the children, measure decode speeds and write the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from common.demo_parent import open_demo_parent
from common.machine import print_machine
from common.programs import choice_problem
from common.texts import docstrings
from safetensors.torch import load_file, save_file

from puzzle.library.build import build_library, heal
from puzzle.models.assembling import assemble
from puzzle.models.parent import Parent
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.scoring.scores import combine
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, Windows, windows
from search_space import Block, Layout, SearchSpace, counting
from solvers import Limit, solve

PEERS = ("shortgpt", "window", "blockpruner", "2ssp", "slicegpt")
# Ours, and the multiple of the calibration text that each is healed on; the default of a search
# is 2.
OURS = {
    "uniform width, 8,192 tokens": 1,
    "puzzle, 8,192 tokens": 1,
    "uniform width": 2,
    "puzzle": 2,
}
CALIBRATION = 8192
SAMPLE = 2048  # tokens of a calibration sample in the repository
CHECKED = 2  # windows on which a peer's KL is computed a second time


@dataclass(frozen=True)
class Study:
    """Model, text and files of a run."""

    out: Path
    workspace: Workspace
    parent: Parent
    cut: Windows

    @property
    def layer_parameters(self) -> int:
        """Parameters of all layers of the parent."""
        shape = self.parent.shape
        return sum(counting.block_parameters(shape, block) for block in shape.parent_blocks)

    def write_inputs(self) -> None:
        """Writes the model and the texts as the repository's environment reads them."""
        model = self.out / "model"
        if not (model / "config.json").exists():
            model.mkdir(exist_ok=True)
            save_file(self.parent.state_dict(), model / "model.safetensors", {"format": "pt"})
            values = self.parent.config.to_dict()
            # transformers 4 has the base of the rotary positions at the top.
            values["rope_theta"] = values["rope_parameters"]["rope_theta"]
            values["torch_dtype"] = "float32"
            (model / "config.json").write_text(json.dumps(values), encoding="utf-8")
        texts = {
            "calibration": self.cut.fit.reshape(-1, SAMPLE),
            "validation": self.cut.validation,
        }
        save_file(texts, self.out / "texts.safetensors")


def peer(study: Study, args: argparse.Namespace, method: str, share: float) -> dict[str, Any]:
    """Returns the row of a method of the repository."""
    out = (study.out / f"{method}-{share:g}").resolve()
    out.mkdir(exist_ok=True)
    request = {
        "repository": str(args.repository.resolve()),
        "model": str((study.out / "model").resolve()),
        "texts": str((study.out / "texts.safetensors").resolve()),
        "method": method,
        "share": share,
        "seed": args.seed,
        "out": str(out),
    }
    (out / "request.json").write_text(json.dumps(request), encoding="utf-8")
    script = Path(__file__).with_name("run_peer.py")
    subprocess.run([args.python, str(script), str(out / "request.json")], check=True)
    answer: dict[str, Any] = json.loads((out / "answer.json").read_text(encoding="utf-8"))
    row = {name: answer[name] for name in ("kl", "agreement", "cpu_seconds", "parameters")}
    row["loss"] = sum(answer["loss"]) / len(answer["loss"])
    if answer["left"] is not None:
        layout = layout_of(study.parent, answer["left"])
        row["layout"] = [block.label for block in layout.blocks]
        tensors = load_file(out / "weights.safetensors")
        again = judged(study, layout, tensors, windows=CHECKED)["kl"]
        # The same model in two versions of transformers, and two ways to take it apart.
        assert math.isclose(sum(again), sum(row["kl"][:CHECKED]), rel_tol=1e-3)
    return row


def layout_of(parent: Parent, left: list[list[Any]]) -> Layout:
    """Returns the layout of what a method left of each layer."""
    own = f"gqa{parent.shape.kv_heads}"
    labels = [
        f"{own if attention else 'none'}+{f'gated{width}' if width else 'none'}"
        for attention, width in left
    ]
    return Layout(parent.shape, tuple(map(Block.from_label, labels)))


@torch.no_grad()
def judged(
    study: Study, layout: Layout, tensors: Mapping[str, torch.Tensor], windows: int | None = None
) -> dict[str, Any]:
    """Returns KL by window of validation text, and mean loss and agreement, of a child."""
    config, own = study.parent.config, Layout.parent(study.parent.shape)
    parent = assemble(config, own, study.parent.state_dict(), dtype=torch.float32)
    child = assemble(config, layout, dict(tensors), dtype=torch.float32)
    return figures(parent, child, study.cut.validation[:windows])


@torch.no_grad()
def figures(parent: Any, child: Any, tokens_BL: torch.Tensor) -> dict[str, Any]:
    """Returns KL(parent || child) by window, and mean loss and agreement."""
    kl: list[float] = []
    sums = torch.zeros(2, dtype=torch.float64)
    for rows in tokens_BL.split(1):
        p, q = (each(rows).logits.float().log_softmax(-1) for each in (parent, child))
        kl.append(float((p.exp() * (p - q)).sum(-1).mean()))
        loss = -q[:, :-1].gather(-1, rows[:, 1:, None]).mean()
        sums += torch.stack([loss, (p.argmax(-1) == q.argmax(-1)).float().mean()]).double()
    loss, agreement = (sums / len(tokens_BL)).tolist()
    return {"kl": kl, "loss": loss, "agreement": agreement}


def ours(study: Study, name: str, share: float) -> dict[str, Any]:
    """Returns the row of a child of puzzle's."""
    seconds: dict[str, float] = {}

    def timed(stage: str, run: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = run()
        seconds[stage] = round(time.process_time() - started, 1)
        return result

    choose = chosen if name.startswith("puzzle") else uniform
    layout = choose(study, share, timed)
    tensors = timed("healing", lambda: healed(study, name, layout))
    kept = sum(counting.block_parameters(study.parent.shape, block) for block in layout.blocks)
    return {
        **judged(study, layout, tensors),
        "cpu_seconds": sum(seconds.values()),
        "stages": seconds,
        "parameters": {
            "layers": kept,
            "share": kept / study.layer_parameters,
            "model": sum(tensor.numel() for tensor in tensors.values()),
        },
        "layout": [block.label for block in layout.blocks],
    }


def healed(study: Study, name: str, layout: Layout) -> dict[str, torch.Tensor]:
    """Returns the tensors of a child of puzzle's; made once."""
    cut = study.cut.for_healing if OURS[name] > 1 else study.cut
    library = heal(study.parent, layout, cut, workspace=study.workspace)
    return library.child_tensors(layout)


def chosen(study: Study, share: float, timed: Callable[[str, Callable[[], Any]], Any]) -> Layout:
    """Returns the layout of least Fisher scores of the default space."""
    parent, shape = study.parent, study.parent.shape
    space = SearchSpace.preset(shape, "default")
    library = timed(
        "library", lambda: build_library(parent, space, study.cut, workspace=study.workspace)
    )
    config = FisherConfig(probes=4, rounds=1)
    scores = timed(
        "scores",
        lambda: fisher(library, space, study.cut, workspace=study.workspace, config=config),
    )
    rows = [space.blocks(layer) for layer in range(shape.layers)]
    problem = choice_problem(
        rows,
        lambda layer, block: scores.kl(layer, block.label),
        {"parameters": lambda _, block: counting.block_parameters(shape, block)},
        [Limit("parameters", at_most=share * study.layer_parameters)],
    )
    labels = timed("solving", lambda: solve(problem)).labels
    return Layout(shape, tuple(map(Block.from_label, labels)))


def uniform(study: Study, share: float, timed: Callable[[str, Callable[[], Any]], Any]) -> Layout:
    """Returns the layout whose FFNs all have the width that the share leaves."""
    del timed
    shape = study.parent.shape
    for width in range(shape.ffn_width, 0, -8):
        block = Block.from_label(f"gqa{shape.kv_heads}+gated{width}")
        if shape.layers * counting.block_parameters(shape, block) <= share * study.layer_parameters:
            return Layout(shape, (block,) * shape.layers)
    raise ValueError(f"share={share}: attentions alone take more")


def with_shared_stages(rows: Mapping[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of puzzle's that counts the library and the scores that others made for it."""
    stages = dict(row["stages"])
    for other in rows.values():
        for name in ("library", "scores"):
            if name in stages:
                stages[name] = max(stages[name], other.get("stages", {}).get(name, 0.0))
    return {**row, "stages": stages, "cpu_seconds": sum(stages.values())}


def open_study(out: Path, seed: int) -> Study:
    """Returns the study of a folder, with its texts."""
    out.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(out)
    parent = open_demo_parent(workspace, dtype="float32")
    print_machine(dtype=parent.dtype, seed=seed)
    data = DataConfig(
        fit_tokens=CALIBRATION,
        score_tokens=1024,
        validation_tokens=4096,
        healing_tokens=max(OURS.values()) * CALIBRATION,
        seed=seed,
    )
    texts = out / "texts.json"
    if not texts.exists():
        texts.write_text(json.dumps(docstrings()), encoding="utf-8")
    documents = json.loads(texts.read_text(encoding="utf-8"))
    return Study(out, workspace, parent, windows(documents, parent.tokenizer, data))


def main() -> None:
    """Makes the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--python", required=True, help="of the repository's environment")
    parser.add_argument("--out", type=Path, default=Path("peers-run"))
    parser.add_argument("--methods", nargs="+", default=[*PEERS, *OURS])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.85, 0.7])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    study = open_study(args.out, args.seed)
    study.write_inputs()
    path = args.out / "rows.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for share in args.shares:
        for method in args.methods:
            row = rows.get(key := f"{method} {share:g}")
            if row is None:
                row = (
                    ours(study, method, share)
                    if method in OURS
                    else peer(study, args, method, share)
                )
            rows[key] = with_shared_stages(rows, row) if "stages" in row else row
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
            print(key, round(combine(row["kl"])[0], 4), flush=True)


if __name__ == "__main__":
    main()
