"""puzzle search: `puzzle.search`, and the child saved beside the run."""

from __future__ import annotations

from contextlib import nullcontext

import puzzle
from puzzle import executors
from puzzle.cli.config_file import write_config
from puzzle.cli.flags import Given, Option, declared_options, grouped
from puzzle.cli.inputs import (
    BLD,
    DATA,
    LIBRARY,
    OUT,
    PARENT,
    PRECISION,
    SCENARIO,
    WORKLOAD,
    library_config,
    precision,
    sources,
    workload,
)
from puzzle.cli.planned import planned
from puzzle.cli.signatures import declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.demo import DEMO_EFFORT
from puzzle.serving.file_names import CHILD_FILES, OTHER_THAN_SEARCHED
from puzzle.storage.paths import refuse_source
from puzzle.storage.publishing import require_replaceable
from puzzle.storage.run_directory import current_run_directory
from search_space import PRESETS

CONSTRAINTS = ["throughput >= 1.25x"]
CONSTRAINT = Option(
    name="constraint",
    parameter="constraints",
    help='such as "memory <= 6 GiB"; repeatable (default: "throughput >= 1.25x")',
    many=True,
)
# The seed is that of DataConfig, and serves both.
FROM_INPUTS = ("parent", "text", "constraints", "library", "tokenizer", "seed", "precision")
CHANGES: dict[str, dict[str, object]] = {
    "space": {"help": "the alternatives of each layer", "choices": tuple(PRESETS)},
    "effort": {
        "help": "how much is measured before a layout is chosen: nothing, some layouts near the "
        "optimum of the scores, or more of them",
        "choices": ("fast", "default", "thorough"),
    },
    "scores": {
        "help": "how blocks are scored: from gradients; these calibrated, and exactly where large; "
        "exactly where the best layouts hold them; all exactly (default: as the effort says)",
        "choices": ("fisher", "hybrid", "near", "exact"),
    },
    "hardware": {
        "help": "what costs describe: cpu (default) or cuda, measured here; roofline:DEVICE such "
        "as roofline:h100-sxm; an engine to calibrate in, such as llama.cpp, or command:LINE; a "
        "profile (.json); table:FILE; MODULE:CLASS of your own"
    },
    "profile": {
        "help": "costs that were measured before, instead of --hardware: a file of puzzle profile, "
        "the name of one that the shared library has, a file of the Hub such as "
        "me/profiles/h100.json, or a library that has only one; with --hardware cpu or cuda it has "
        "to be of that device of this machine"
    },
    "minimise": {
        "help": "a resource to minimise in place of the KL, under a limit on the KL",
        "aliases": ("minimize",),
    },
    "maximize": {
        "help": "a throughput to maximise in place of minimising",
        "aliases": ("maximise",),
    },
    "objective": {"help": "either of them, such as throughput or memory"},
    "solver": {"help": "what solves the program", "choices": ("highs", "cbc")},
    "resume": {
        "help": "go on from what an earlier run left in the run directory; with --no-resume it has "
        "to hold no results"
    },
}
EXECUTOR = Option(
    name="executor",
    parameter="executor",
    help="where jobs of single layers run: devices, a process for each GPU; processes:N; ray; "
    "ray://HOST:PORT; ray: or slurm: and settings, such as slurm:partition=h100,gpus=1,"
    "timeout_min=120; by default in this process",
)
DECLARED = declared_options(
    declared_in_source("puzzle", "search"),
    skip=(*FROM_INPUTS, "minimize", "callbacks", "progress"),
    changes=CHANGES,
)
# Options whose help another function leaves to that of `search`.
ONE_SEARCH = tuple(
    option for option in DECLARED if option.parameter in ("device", "distinct", "report_to")
)
SHARED = Option(
    name="library",
    parameter="library",
    help="search a shared library: a directory that puzzle share wrote, or its hub id; parent and "
    "text may then be left out, and what is searched and how variants are fitted is decided",
)
OWN = grouped("what is searched", (CONSTRAINT, *DECLARED, SHARED, EXECUTOR))
# What a shared library decides.
DECIDED = (*LIBRARY, *BLD, *PRECISION)


def _run(given: Given) -> Answer:
    name = given.get("library")
    if name is not None and (own := given.arguments(DECIDED)):
        raise UsageError(f"--library decides {', '.join(own)}; leave out the options")
    source = sources(given, shared=name is not None)
    arguments = {"constraints": CONSTRAINTS, **given.arguments(OWN), "seed": source.data.seed or 0}
    if given.get("demo") and name is None:
        arguments.setdefault("effort", DEMO_EFFORT)
    target = current_run_directory(given.get("out", OUT.default)) / "child"
    refuse_source(target, [source.parent, name])
    require_replaceable(target, CHILD_FILES, kept=OTHER_THAN_SEARCHED)
    word = arguments.pop("executor", None)
    arguments.pop("library", None)
    # A profile is of a scenario, which is that of the search unless one is given.
    served = (*SCENARIO, WORKLOAD)
    with nullcontext() if word is None else executors.executor_named(word) as executor:
        result = puzzle.search(
            source.parent,
            source.text,
            scenario=workload(given) if given.arguments(served) else None,
            precision=precision(given),
            library=library_config(given) if name is None else name,
            data=None if source.shorten else source.data,
            executor=executor,
            **arguments,
        )
    # Not always --out: a run directory of another format is left alone.
    path = result.save(target)
    write_config(target.parent / "search.toml", given.values)
    text = (
        f"{result.table()}\n{result.layout}\n"
        "load it with: import puzzle; from transformers import AutoModelForCausalLM; "
        f'model = AutoModelForCausalLM.from_pretrained("{path}")'
    )
    return Answer(values=result.to_dict(), text=text, rows=[result.head, *result.table_rows()])


SEARCH = Subcommand(
    name="search",
    help="find, build and measure a faster child",
    options=(*PARENT, *OWN, *SCENARIO, WORKLOAD, *PRECISION, *DATA, *LIBRARY, *BLD),
    examples=(
        "puzzle search --demo",
        'puzzle search ./Llama-3.2-1B --text corpus.txt --constraint "throughput >= 1.5x"',
    ),
    run=_run,
    plan=planned,
)
