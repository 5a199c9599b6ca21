"""puzzle and NVIDIA's Puzzletron on SmolLM2: the same space and budget, loss on held-out text.

FFN 1536, 768, 384 or none and attention kept or none in each of 30 layers; at most 57 KV heads in
all and 111,505,536 parameters. Puzzletron 0.47.0's best child there loses 1.25 nats of LM loss
(2.49 to 3.74 on chats of docstrings) and costs 804 CPU-seconds, without gradient steps.

    OMP_NUM_THREADS=1 python benchmarks/peer.py --out peer-run

Text: docstrings of installed packages. Losses are those on held-out docstrings, plain and as chats,
and on the King James Bible, which nothing was fitted to. Each stage is timed in CPU-seconds of this
process; stages that are on disk already are not run again and cost nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from common.demo_parent import open_demo_parent
from common.held_out import lm_loss
from common.machine import print_machine
from common.programs import choice_problem
from common.texts import docstrings

from puzzle.choice.layout_choice import EFFORTS, LayoutChoice
from puzzle.demo import demo_text
from puzzle.library.build import Library, build_library, heal
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.models.assembling import assemble
from puzzle.models.parent import Parent
from puzzle.pipeline.steps import SCORES
from puzzle.scoring.scores import Scores
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, documents, windows
from search_space import Layout, SearchSpace, counting
from solvers import ChoiceProblem, Limit, solve

PARAMETERS, KV_HEADS = 111_505_536, 57
T = TypeVar("T")


class Stages:
    """Runs stages and keeps their CPU-seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, run: Callable[[], T]) -> T:
        """Returns what a stage returns, and notes what it cost."""
        start = time.process_time()
        result = run()
        self.seconds[name] = round(time.process_time() - start, 1)
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


def held_out_texts(parent: Parent, plain: torch.Tensor, tokens: int) -> dict[str, torch.Tensor]:
    """Returns windows of each text on which losses are computed."""
    tokenizer = parent.tokenizer

    def cut(texts: list[str]) -> torch.Tensor:
        ids: list[int] = []
        for text in texts:
            ids += [
                *tokenizer(text, add_special_tokens=False)["input_ids"],
                tokenizer.eos_token_id,
            ]
            if len(ids) >= tokens:
                break
        return torch.tensor(ids[: tokens // 256 * 256]).view(-1, 256)

    def chat(text: str) -> str:
        turns = [("user", text.split("\n")[0]), ("assistant", text)]
        messages = [{"role": role, "content": content} for role, content in turns]
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    bible = documents(demo_text())
    random.Random(0).shuffle(bible)
    decoded = tokenizer.batch_decode(plain.flatten().view(-1, 256))
    return {"docstrings": plain, "as chats": cut([chat(t) for t in decoded]), "Bible": cut(bible)}


def losses(library: Library, layout: Layout, texts: dict[str, torch.Tensor]) -> dict[str, float]:
    """Returns a child's loss on each text."""
    parent = library.parent
    child = assemble(parent.config, layout, library.child_tensors(layout), dtype=parent.dtype)
    return {name: lm_loss(child, tokens) for name, tokens in texts.items()}


def main() -> None:
    """Runs the case and prints what each child loses."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", default="peer-run")
    options.add_argument("--fit-tokens", type=int, default=6144, help="of the fast search")
    options.add_argument("--score-tokens", type=int, default=1024)
    options.add_argument("--validation-tokens", type=int, default=8192)
    options.add_argument("--more-tokens", type=int, default=32768, help="of healing and BLD")
    options.add_argument("--bld-tokens", type=int, default=65536)
    options.add_argument("--effort", default="fast", choices=sorted(EFFORTS))
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()

    workspace, stages = Workspace(args.out), Stages()
    parent = open_demo_parent(workspace)
    machine = print_machine(dtype=parent.dtype, seed=args.seed)
    space = SearchSpace.uniform(
        parent.shape, attentions=["none"], ffns=["gated768", "gated384", "none"]
    )
    texts = docstrings(seed=args.seed)
    data = DataConfig(
        fit_tokens=args.fit_tokens,
        score_tokens=args.score_tokens,
        validation_tokens=args.validation_tokens,
        seed=args.seed,
    )
    cut = windows(texts, parent.tokenizer, data)
    more = windows(texts, parent.tokenizer, replace(data, fit_tokens=args.more_tokens))
    held_out = held_out_texts(parent, cut.validation, args.validation_tokens)

    library = stages("library", lambda: build_library(parent, space, cut, workspace=workspace))
    effort = EFFORTS[args.effort]
    score = SCORES[effort.scores]
    scores = stages(
        "scores",
        lambda: Run(workspace=workspace, parent=parent, windows=cut).get(
            score(space=space, layers=library.refs)
        ),
    )
    problem = peer_problem(space, scores)
    choice = stages(
        "choice",
        lambda: Run(workspace=workspace, parent=parent, windows=cut).get(
            LayoutChoice(
                problem=problem,
                optimum=solve(problem),
                layers=library.refs,
                space=space,
                effort=effort,
            )
        ),
    )
    layout = choice.layout
    bld = LibraryConfig(bld=BLDConfig(tokens=args.bld_tokens, seed=args.seed))
    children = {"additive": library}
    children["healed"] = stages("healing", lambda: heal(parent, layout, cut, workspace=workspace))
    print(f"search: {sum(stages.seconds.values()):.1f} CPU-s")
    children["healed, more text"] = stages(
        "healing, more text", lambda: heal(parent, layout, more, workspace=workspace)
    )
    children["distilled"] = stages(
        "distillation", lambda: heal(parent, layout, more, workspace=workspace, config=bld)
    )
    own = Layout.parent(parent.shape)
    base = losses(library, own, held_out)
    table = {
        "parent": base,
        **{name: losses(lib, layout, held_out) for name, lib in children.items()},
    }
    for name, row in table.items():
        print(name, {text: f"{loss:.3f} (+{loss - base[text]:.3f})" for text, loss in row.items()})
    figures = {
        "machine": machine,
        "arguments": vars(args),
        "cpu_seconds": stages.seconds,
        "losses": table,
        "parameters": layout.parameters(),
        "kv_heads": sum(block.attention.kv_heads or 0 for block in layout.blocks),
        "layout": [block.label for block in layout.blocks],
    }
    Path(args.out, "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
