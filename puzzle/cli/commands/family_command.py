"""puzzle family: `puzzle.family`, each child saved under its name, and the page of all."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import puzzle
from puzzle import executors
from puzzle.cli.commands.search_command import CHANGES, EXECUTOR, FROM_INPUTS, ONE_SEARCH
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
from puzzle.cli.signatures import declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.demo import DEMO_EFFORT
from puzzle.serving.file_names import CHILD_FILES, OTHER_THAN_SEARCHED
from puzzle.storage.paths import refuse_source
from puzzle.storage.publishing import require_replaceable
from puzzle.storage.run_directory import current_run_directory

SIZE = Option(
    name="size",
    parameter="sizes",
    help="NAME=CONSTRAINTS, such as 'nano=throughput >= 2x, memory <= 2 GiB'; two or more, the "
    "smallest first",
    many=True,
)
PLACES = Option(
    name="size-hardware",
    parameter="size_hardware",
    help="NAME=HARDWARE of a size that is served elsewhere than --hardware says; repeatable",
    many=True,
)
DECLARED = declared_options(
    declared_in_source("puzzle", "family"),
    skip=(*FROM_INPUTS, "sizes", "progress"),
    changes={
        **CHANGES,
        **{each.parameter: {"help": each.help} for each in ONE_SEARCH},
        "nested": {
            "help": "no sublayer of a child takes more bytes, of weights or of KV cache, than that "
            "of the next larger child"
        },
    },
)
OWN = grouped("what is searched", (SIZE, PLACES, *DECLARED, EXECUTOR))


def _pairs(given: Given, option: Option) -> dict[str, str]:
    """Returns the values of an option whose values are NAME=VALUE, those of one name joined."""
    pairs: dict[str, str] = {}
    for text in given.get(option.name, []):
        name, sign, value = text.partition("=")
        name = name.strip()
        if not sign or not name or name.endswith(("<", ">")) or not value.strip():
            raise UsageError(f"--{option.name} {text!r}: {option.help}")
        pairs[name] = f"{pairs[name]}, {value}" if name in pairs else value.strip()
    return pairs


def _sizes(given: Given) -> dict[str, Any]:
    constraints, places = _pairs(given, SIZE), _pairs(given, PLACES)
    if len(constraints) < 2:
        raise UsageError(
            f"--size was given {len(constraints)} times; give two or more as NAME=CONSTRAINTS"
        )
    if unknown := places.keys() - constraints:
        raise UsageError(f"--size-hardware {sorted(unknown)[0]}: there is no --size of that name")
    return {
        name: puzzle.Size(constraints=text, hardware=places.get(name))
        for name, text in constraints.items()
    }


def _run(given: Given) -> Answer:
    sizes, source = _sizes(given), sources(given)
    arguments = {**given.arguments(OWN), "seed": source.data.seed or 0}
    arguments.pop("size_hardware", None)
    if given.get("demo"):
        arguments.setdefault("effort", DEMO_EFFORT)
    place = current_run_directory(given.get("out", OUT.default)) / "children"
    for name in sizes:
        refuse_source(place / name, [source.parent])
        require_replaceable(place / name, CHILD_FILES, kept=OTHER_THAN_SEARCHED)
    word = arguments.pop("executor", None)
    with nullcontext() if word is None else executors.executor_named(word) as executor:
        result = puzzle.family(
            source.parent,
            source.text,
            scenario=workload(given),
            precision=precision(given),
            library=library_config(given),
            data=None if source.shorten else source.data,
            executor=executor,
            **{**arguments, "sizes": sizes},
        )
    paths = result.save(place)
    page = result.report()
    write_config(place.parent / "family.toml", given.values)
    compared = result.compared()
    return Answer(
        values={
            **result.to_dict(),
            "saved": {name: str(path) for name, path in paths.items()},
            "report": str(page),
        },
        text="\n".join([result.table(), *map(str, paths.values()), str(page)]),
        rows=[compared.head, *compared.rows()],
    )


FAMILY = Subcommand(
    name="family",
    help="find, build and measure children of several sizes from one library",
    options=(*PARENT, *OWN, *SCENARIO, WORKLOAD, *PRECISION, *DATA, *LIBRARY, *BLD),
    examples=(
        "puzzle family --demo --size 'nano=throughput >= 1.4x' --size 'super=throughput >= 1.2x'",
        "puzzle family ./Llama-3.2-1B --text corpus.txt --size 'nano=memory <= 0.5x' "
        "--size 'super=throughput >= 1.25x' --nested",
    ),
    run=_run,
)
