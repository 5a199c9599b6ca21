"""puzzle and NVIDIA's Puzzletron on SmolLM2: the same space and budget, loss on held-out text.

FFN 1536, 768, 384 or none and attention kept or none in each of 30 layers; at most 57 KV heads in
all and 111,505,536 parameters. Puzzletron 0.47.0's best child there loses 1.25 nats of LM loss
(2.49 to 3.74 on chats of docstrings) and costs 804 CPU-seconds, without gradient steps.

    OMP_NUM_THREADS=1 python benchmarks/peer.py --out peer-run
    OMP_NUM_THREADS=1 python benchmarks/peer.py --out peer-run --text chats

Text: docstrings of installed packages, as they are or, as Puzzletron's was, as chats. Losses are
those on held-out docstrings, plain and as chats, and on the King James Bible, which nothing was
fitted to. The layout that the search chose is healed on each of --healing-tokens; the last of these
children is then distilled block by block (--bld-tokens) and as a whole, with the default settings
of `puzzle.distill` but frozen embeddings (--distil-tokens, text that healing has not read).

Each stage is timed in CPU-seconds of this process. Stages that are on disk already are not run
again; their seconds are read from OUT, and make a row's sum with those that lead to it. Other
settings of the search need another folder.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from common.demo_parent import open_demo_parent
from common.held_out import lm_loss
from common.machine import print_machine
from common.programs import choice_problem
from common.texts import docstrings

import puzzle
from puzzle.choice.layout_choice import EFFORTS, LayoutChoice
from puzzle.choice.sharpening import near_scores
from puzzle.demo import demo_text
from puzzle.library.build import Library, build_library, heal
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.models.assembling import assemble
from puzzle.models.parent import Parent
from puzzle.pipeline.steps import NEAR, SCORES
from puzzle.scoring.scores import Scores
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, Windows, documents, windows
from search_space import Layout, SearchSpace, counting
from solvers import ChoiceProblem, Limit, solve

PARAMETERS, KV_HEADS = 111_505_536, 57
WINDOW = 256
T = TypeVar("T")


class Stages:
    """Runs stages and keeps their CPU-seconds, and in a file those of earlier calls."""

    def __init__(self, file: Path) -> None:
        self.file = file
        known = file.read_text(encoding="utf-8") if file.exists() else "{}"
        self.seconds: dict[str, float] = json.loads(known)

    def __call__(self, name: str, run: Callable[[], T]) -> T:
        """Returns what a stage returns, and notes what it cost when it was not on disk."""
        start = time.process_time()
        result = run()
        spent = round(time.process_time() - start, 1)
        self.seconds[name] = max(spent, self.seconds.get(name, 0.0))
        self.file.write_text(json.dumps(self.seconds, indent=1), encoding="utf-8")
        print(f"{name}: {self.seconds[name]} CPU-s", flush=True)
        return result


def peer_problem(space: SearchSpace, scores: Scores) -> ChoiceProblem:
    """Returns Puzzletron's program with our scores."""
    shape = space.shape
    rows = [space.blocks(layer) for layer in range(shape.layers)]
    return choice_problem(
        rows,
        lambda layer, block: scores.kl(layer, block.label),
        {
            "parameters": lambda _, block: counting.block_parameters(shape, block),
            "kv_heads": lambda _, block: block.attention.kv_heads or 0,
        },
        [Limit("parameters", at_most=PARAMETERS), Limit("kv_heads", at_most=KV_HEADS)],
        offsets={"parameters": float(counting.fixed_parameters(shape))},
    )


def cut(parent: Parent, texts: list[str], tokens: int) -> torch.Tensor:
    """Returns windows of texts, each followed by the end-of-text token."""
    tokenizer, ids = parent.tokenizer, list[int]()
    for text in texts:
        ids += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= tokens:
            break
    return torch.tensor(ids[: tokens // WINDOW * WINDOW]).view(-1, WINDOW)


def as_chats(parent: Parent, plain: torch.Tensor) -> torch.Tensor:
    """Returns as many windows of chats: a first line from the user, and the text as the answer."""

    def chat(text: str) -> str:
        turns = [("user", text.split("\n")[0]), ("assistant", text)]
        messages = [{"role": role, "content": content} for role, content in turns]
        return str(parent.tokenizer.apply_chat_template(messages, tokenize=False))

    return cut(parent, [chat(text) for text in parent.tokenizer.batch_decode(plain)], plain.numel())


def held_out_texts(parent: Parent, plain: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns windows of each text on which losses are computed."""
    bible = documents(demo_text())
    random.Random(0).shuffle(bible)
    chats = as_chats(parent, plain)
    return {"docstrings": plain, "as chats": chats, "Bible": cut(parent, bible, plain.numel())}


@dataclass(frozen=True)
class Case:
    """Parent, text and files of a run."""

    args: argparse.Namespace
    parent: Parent
    workspace: Workspace
    texts: list[str]

    def plain(self, fit_tokens: int) -> Windows:
        """Returns docstrings with so many tokens to fit to; shorter ones begin longer ones."""
        data = DataConfig(
            fit_tokens=fit_tokens,
            score_tokens=self.args.score_tokens,
            validation_tokens=self.args.validation_tokens,
            seed=self.args.seed,
        )
        return windows(self.texts, self.parent.tokenizer, data)

    def windows(self, fit_tokens: int) -> Windows:
        """Returns the text of all stages, as it is or as chats."""
        plain = self.plain(fit_tokens)
        if self.args.text == "docstrings":
            return plain
        parts = (as_chats(self.parent, each) for each in (plain.fit, plain.score, plain.validation))
        return Windows(**dict(zip(("fit", "score", "validation"), parts, strict=True)))

    def model(self, library: Library, layout: Layout) -> Any:
        """Returns a child as a model."""
        tensors, parent = library.child_tensors(layout), self.parent
        return assemble(parent.config, layout, tensors, dtype=parent.dtype)

    def distil(self, child: Any, healed_on: int) -> Any:
        """Returns a child distilled on text that comes after what it was healed on."""
        tokens = self.args.distil_tokens
        text = self.windows(healed_on + tokens).fit[-(tokens // WINDOW) :]
        config = puzzle.DistillConfig(
            tokens=tokens,
            length=WINDOW,
            batch=8,
            micro_batch=4,
            train_embeddings=False,
            mixed_precision="bf16",
            seed=self.args.seed,
        )
        out = self.args.out / f"distilled-{healed_on}-{tokens}"
        return puzzle.distill(child, self.parent, text, config=config, out=out).child()


def searched(case: Case, stages: Stages) -> tuple[Library, Layout]:
    """Returns the library and the layout of the search."""
    parent, workspace, effort = case.parent, case.workspace, EFFORTS[case.args.effort]
    space = SearchSpace.uniform(
        parent.shape, attentions=["none"], ffns=["gated768", "gated384", "none"]
    )
    text = case.windows(case.args.fit_tokens)
    run = Run(workspace=workspace, parent=parent, windows=text)
    config = LibraryConfig(channels=case.args.channels)
    library = stages(
        "library", lambda: build_library(parent, space, text, workspace=workspace, config=config)
    )
    score = SCORES[effort.scores](space=space, layers=library.refs)

    def scored() -> Scores:
        scores: Scores = run.get(score)
        if effort.scores != NEAR:
            return scores
        of = partial(peer_problem, space)
        return near_scores(run, library.refs, scores, of, count=effort.pool)

    problem = peer_problem(space, stages("scores", scored))
    choice = LayoutChoice(
        problem=problem, optimum=solve(problem), layers=library.refs, space=space, effort=effort
    )
    return library, stages("choice", lambda: run.get(choice)).layout


def children(case: Case, stages: Stages) -> Iterator[tuple[str, Layout, Any, list[str]]]:
    """Makes the children: name, layout, model, and the stages that lead to it."""
    args, parent, workspace = case.args, case.parent, case.workspace
    library, layout = searched(case, stages)
    search = ["library", "scores", "choice"]
    own = Layout.parent(parent.shape)
    yield "parent", own, case.model(library, own), []
    yield "additive", layout, case.model(library, layout), search
    for tokens in args.healing_tokens:
        text, stage = case.windows(tokens), f"healing, {tokens} tokens"
        library = stages(stage, partial(heal, parent, layout, text, workspace=workspace))
        yield f"healed on {tokens}", layout, case.model(library, layout), [*search, stage]
    last = [*search, stage]
    if args.bld_tokens:
        config = LibraryConfig(bld=BLDConfig(tokens=args.bld_tokens, seed=args.seed))
        stage = f"blockwise, {args.bld_tokens} tokens"
        blockwise = stages(
            stage, lambda: heal(parent, layout, text, workspace=workspace, config=config)
        )
        # Healing is a part of it: it fits each block before it is trained.
        yield f"and {stage}", layout, case.model(blockwise, layout), [*search, stage]
    if args.distil_tokens:
        child, stage = case.model(library, layout), f"distillation, {args.distil_tokens} tokens"
        child = stages(stage, lambda: case.distil(child, tokens))
        yield f"and {stage}", layout, child, [*last, stage]


def options() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("peer-run"))
    add("--text", default="docstrings", choices=["docstrings", "chats"], help="of all stages")
    add("--fit-tokens", type=int, default=6144, help="of the library")
    add("--channels", default="eliminated", help="of the library; healing always eliminates")
    add("--score-tokens", type=int, default=1024)
    add("--validation-tokens", type=int, default=8192)
    add("--healing-tokens", type=int, nargs="+", default=[6144, 16384, 65536])
    add("--bld-tokens", type=int, default=0, help="0 leaves blockwise distillation out")
    add("--distil-tokens", type=int, default=98304, help="0 leaves distillation out")
    add("--effort", default="fast", choices=sorted(EFFORTS))
    add("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Runs the case and prints what each child loses."""
    args = options()
    workspace = Workspace(args.out)
    parent = open_demo_parent(workspace)
    machine = print_machine(dtype=parent.dtype, seed=args.seed)
    case = Case(args, parent, workspace, docstrings(seed=args.seed))
    # What is held out is the same, whatever was fitted to.
    held_out = held_out_texts(parent, case.plain(args.fit_tokens).validation)
    stages = Stages(args.out / f"seconds-{args.text}.json")
    figures: dict[str, Any] = {"machine": machine, "arguments": {**vars(args), "out": None}}
    rows: dict[str, Any] = {}
    for name, layout, model, before in children(case, stages):
        row = {text: lm_loss(model, tokens) for text, tokens in held_out.items()}
        seconds = round(sum(stages.seconds[stage] for stage in before), 1)
        rows[name] = {"cpu_seconds": seconds, "losses": row}
        base = rows["parent"]["losses"]
        added = {text: f"{loss:.3f} (+{loss - base[text]:.3f})" for text, loss in row.items()}
        print(name, seconds, added, flush=True)
        figures |= {
            "cpu_seconds": stages.seconds,
            "rows": rows,
            "parameters": layout.parameters(),
            "kv_heads": sum(block.attention.kv_heads or 0 for block in layout.blocks),
            "layout": [block.label for block in layout.blocks],
        }
        path = args.out / f"figures-{args.text}.json"
        path.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
