"""The options that the stages of a search share, and what they open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle import choice, pipeline
from puzzle.cli.flags import Given, Option, declared_options, grouped
from puzzle.cli.signatures import declared
from puzzle.cli.subcommand import UsageError
from puzzle.demo import DEMO_DATA, DEMO_EFFORT, demo_model, demo_text, fetch_demo_model
from puzzle.errors import DataError
from puzzle.hardware.precision import AUTO, Precision
from puzzle.hardware.threads import limit_threads
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.limits.scenario import Scenario, Workload
from puzzle.serving.file_names import CHILD_FILES
from puzzle.storage.paths import refuse_source, user_path
from puzzle.text.data_config import DataConfig
from puzzle.text.given_text import check_source
from search_space import PRESETS, SearchSpace

if TYPE_CHECKING:
    from puzzle.pipeline.opening import Opened
    from puzzle.pipeline.steps import Steps
    from puzzle.stages import Run
    from search_space import ModelShape

PARENT = (
    Option(
        name="parent",
        parameter="parent",
        help="hub id, directory or GGUF file",
        positional=True,
    ),
    Option(
        name="text",
        parameter="text",
        help="plain text with blank lines between documents, or a .jsonl, .json or .parquet file "
        "with a text or messages column",
    ),
    Option(
        name="demo",
        parameter="demo",
        type=bool,
        default=False,
        help="use the embedded model and text, with half as much text by default",
    ),
)
SPACE = Option(
    name="space",
    parameter="space",
    default="small",
    help="preset of alternatives of each layer",
    choices=tuple(PRESETS),
    group="what is searched",
)
OUT = Option(name="out", parameter="out", default="puzzle-run", help="the run directory")
DEVICE = Option(
    name="device",
    parameter="device",
    help="where the parent works: cpu, cuda or cuda:1; by default a GPU if torch has one",
)
DTYPE = Option(
    name="dtype",
    parameter="dtype",
    help="one number format, such as float32, to work in, serve and store",
    default=AUTO,
)
_NUMBERS = ("auto", "float32", "bfloat16", "float16")
SCENARIO = grouped(
    "what is served",
    (
        DTYPE,
        *declared_options(
            declared(Scenario),
            changes={
                "weight_dtype": {
                    "name": "served-dtype",
                    "help": "number format of the served weights; auto: what the hardware serves",
                    "choices": _NUMBERS,
                },
                "cache_dtype": {
                    "help": "number format of the KV cache; by default that of the weights"
                },
            },
        ),
    ),
)
PRECISION = grouped(
    "number formats",
    declared_options(
        declared(Precision),
        changes={
            "working": {"name": "working-dtype", "choices": _NUMBERS},
            "stored": {"name": "stored-dtype", "choices": _NUMBERS},
        },
    ),
)
WORKING = tuple(option for option in PRECISION if option.parameter == "working")
DATA = grouped("how much text is used", declared_options(declared(DataConfig)))
LIBRARY = grouped(
    "how variants are fitted", declared_options(declared(LibraryConfig), skip=("bld", "ridges"))
)
BLD = grouped(
    "how variants are distilled",
    (
        Option(
            name="bld",
            parameter="bld",
            type=bool,
            default=False,
            help="distil each variant by gradient steps after its closed-form fit",
        ),
        *declared_options(declared(BLDConfig), prefix="bld-"),
    ),
)
STAGE = (*PARENT, SPACE, OUT, DEVICE, *SCENARIO, *WORKING, *DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The parent and the text that options name.

    Args:
        parent: What `open_parent` takes.
        text: What `windows` takes; None if none was needed.
        data: How much of it.
        shorten: Whether shorter text is used as far as it goes: no size was given.
    """

    parent: Any
    text: Any
    data: DataConfig
    shorten: bool = False


def sources(given: Given, *, text: bool = True, fetch: bool = True) -> Sources:
    """Returns the parent and the text that options name.

    Args:
        given: The options.
        text: Whether a text is needed.
        fetch: Whether the demo model may be fetched.

    Raises:
        UsageError: Neither or both of the demo and a parent were given.
        DataError: There is no such text file, or it is of an unknown kind.
    """
    demo, parent, file = given.get("demo", False), given.get("parent"), given.get("text")
    if demo == bool(parent) or (text and demo == bool(file)):
        raise UsageError(f"give a parent{' and --text FILE' if text else ''}, or --demo alone")
    data = replace(DEMO_DATA if demo else DataConfig(), **given.arguments(DATA))
    data = pipeline.healed_on(data, effort_of(given))
    if demo:
        if fetch:
            # Beside other work, two threads that wait for each other are slower than one.
            limit_threads(to_free=True)
        model = fetch_demo_model() if fetch else demo_model()
        return Sources(parent=model, text=demo_text() if text else None, data=data)
    return Sources(
        parent=parent,
        text=_text_file(file) if text else None,
        data=data,
        shorten=not given.arguments(DATA).keys() - {"seed"},
    )


def refuse_source_files(given: Given, name: str) -> None:
    """Refuses an option that names a file to write, if it is one of those that are read.

    Args:
        given: The options.
        name: The option.

    Raises:
        UsageError: It is.
    """
    if given.get(name) is not None:
        hardware = given.get("hardware", "").removeprefix("table:")
        read = [hardware, *(given.get(each) for each in ("parent", "text", "config"))]
        refuse_source(given.get(name), read, inside=CHILD_FILES, error=UsageError)


def _text_file(file: str) -> Path:
    try:
        check_source(path := user_path(file))
    except DataError as error:
        raise DataError(f"--text: {error}") from error
    return path


def scenario(given: Given) -> Scenario:
    """Returns the scenario that options describe."""
    values = given.arguments(SCENARIO)
    return Scenario(**{"weight_dtype": values.pop("dtype", AUTO), **values})


def precision(given: Given) -> Precision:
    """Returns the number formats that options give: one for all, or each."""
    common = Precision.of(given.get("dtype", AUTO))
    return replace(common, **given.arguments(PRECISION))


def library_config(given: Given) -> LibraryConfig:
    """Returns how options say that variants are made."""
    steps = given.arguments(BLD)
    wanted = steps.pop("bld", False)
    if steps and not wanted:
        raise UsageError("options of --bld were given without it; add --bld")
    return LibraryConfig(**given.arguments(LIBRARY), bld=BLDConfig(**steps) if wanted else None)


def effort_of(given: Given) -> str:
    """Returns the name of the effort that options give, or the demo's, or the default."""
    return str(given.get("effort", DEMO_EFFORT if given.get("demo") else "default"))


def steps_of(given: Given, shape: ModelShape, *, method: str | None = None) -> Steps:
    """Returns the search that options describe, of which a subcommand runs some stages.

    Args:
        given: The options.
        shape: The parent's sizes.
        method: How blocks are scored; by default as the effort says.
    """
    effort = effort_of(given)
    return pipeline.Steps(
        space=SearchSpace.preset(shape, given.get("space", SPACE.default)),
        workload=Workload.of(scenario(given)),
        hardware=given.get("hardware", "cpu"),
        effort=choice.effort_named(effort),
        config=library_config(given),
        method=method,
    )


def open_stages(given: Given, *, text: bool = True, method: str | None = None) -> OpenStages:
    """Opens what options name as `search` does, so that stages reuse its artifacts.

    Args:
        given: The options.
        text: Whether the stages read text.
        method: As for `steps_of`.
    """
    source = sources(given, text=text)
    inputs = pipeline.Inputs(
        parent=source.parent,
        text=source.text,
        workload=Workload.of(scenario(given)),
        hardware=given.get("hardware", "cpu"),
        device=given.get("device"),
        precision=precision(given),
        data=source.data,
        shorten=source.shorten,
    )
    place = pipeline.open_workspace(given.get("out", OUT.default))
    opened = pipeline.open_run(inputs, place, seed=source.data.seed or 0)
    steps = steps_of(given, opened.run.parent.shape, method=method)
    return OpenStages(run=opened.run, steps=replace(steps, workload=opened.workload), opened=opened)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenStages:
    """A run, and the search of which a subcommand runs some stages.

    Args:
        run: The run.
        steps: The search.
        opened: The run with its number formats.
    """

    run: Run
    steps: Steps
    opened: Opened


def table(rows: list[tuple[str, ...]]) -> str:
    """Returns rows as columns of text: words, judged by the last row, left, and numbers right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    words = [not cell[:1].isdigit() for cell in rows[-1]]
    words[0] = True
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, words, strict=True)
        ).rstrip()
        for row in rows
    )
