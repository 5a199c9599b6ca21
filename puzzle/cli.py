"""The console script; each subcommand is a library function."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

EXAMPLES = """examples:
  puzzle search --demo
  puzzle search ./Llama-3.2-1B --text corpus.txt --constraint "throughput >= 1.5x" --out run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 error, 2 usage, 3 infeasible, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.demo == bool(options.parent) or options.demo == bool(options.text):
        parser.error("give a parent and --text FILE, or --demo alone")
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    # Imported late, so that --help and wrong flags answer at once.
    from puzzle.errors import PuzzleError
    from solvers import InfeasibleError, SolverError

    try:
        return _search(options)
    except InfeasibleError as error:
        print(f"infeasible: {error}", file=sys.stderr)
        return 3
    except (PuzzleError, SolverError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="puzzle", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    search = commands.add_parser(
        "search",
        help="find, build and measure a faster child",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    search.add_argument("parent", nargs="?", help="hub id, directory or GGUF file")
    search.add_argument("--text", type=Path, help="text file; blank lines separate documents")
    search.add_argument("--demo", action="store_true", help="use the embedded model and text")
    search.add_argument(
        "--constraint", action="append", help='such as "throughput >= 1.25x"; repeatable'
    )
    search.add_argument("--space", default="small", help="preset: small, default, attention, ffn")
    search.add_argument(
        "--effort",
        default="default",
        choices=("fast", "default", "thorough"),
        help="how much is measured before a layout is chosen",
    )
    search.add_argument("--batch", type=int, default=8)
    search.add_argument("--prompt-tokens", type=int, default=128)
    search.add_argument("--generated-tokens", type=int, default=128)
    search.add_argument("--dtype", default="bfloat16")
    search.add_argument("--seed", type=int, default=0)
    search.add_argument("--out", type=Path, default=Path("puzzle-run"), help="run directory")
    search.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with what an earlier run left in --out (the default)",
    )
    search.add_argument("--json", action="store_true", help="print only JSON on stdout")
    search.add_argument("-v", "--verbose", action="store_true")
    return parser


def _search(options: argparse.Namespace) -> int:
    from puzzle.data import DataConfig
    from puzzle.demo import DEMO_DATA, demo_text, fetch_demo_model
    from puzzle.scenario import Scenario
    from puzzle.search import search

    if options.demo:
        parent, text, base = fetch_demo_model(), demo_text(), DEMO_DATA
    else:
        parent, text = options.parent, options.text.read_text(encoding="utf-8")
        base = DataConfig()
    result = search(
        parent,
        text,
        constraints=options.constraint or ["throughput >= 1.25x"],
        scenario=Scenario(
            batch=options.batch,
            prompt_tokens=options.prompt_tokens,
            generated_tokens=options.generated_tokens,
            weight_dtype=options.dtype,
        ),
        space=options.space,
        effort=options.effort,
        data=replace(base, seed=options.seed),
        out=options.out,
        seed=options.seed,
        resume=options.resume,
    )
    path = result.save(options.out / "child")
    if options.json:
        print(json.dumps(result.to_dict()))
        return 0
    print(result.table())
    print(result.layout)
    print(
        "load it with: import puzzle; from transformers import AutoModelForCausalLM; "
        f'model = AutoModelForCausalLM.from_pretrained("{path}")'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
