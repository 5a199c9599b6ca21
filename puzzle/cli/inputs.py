"""The options that the stages of a search share, and what they open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle import choice, pipeline
from puzzle import text as puzzle_text
from puzzle.cli.flags import Given, Option, declared_options, grouped
from puzzle.cli.signatures import declared
from puzzle.cli.subcommand import UsageError
from puzzle.demo import DEMO_DATA, DEMO_EFFORT, demo_model, demo_text, fetch_demo_model
from puzzle.errors import ConstraintError, DataError
from puzzle.hardware.precision import AUTO, Precision
from puzzle.hardware.threads import limit_threads
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.limits.scenario import Scenario, Workload
from puzzle.serving.file_names import CHILD_FILES
from puzzle.storage.json_files import read_json
from puzzle.storage.paths import refuse_source, user_path
from puzzle.text.data_config import DataConfig
from puzzle.text.given_text import check_source
from search_space import PRESETS, SearchSpace

if TYPE_CHECKING:
    from puzzle.pipeline.opening import Opened
    from puzzle.pipeline.steps import Steps
    from puzzle.stages import Run
    from puzzle.text.text_mix import TextMix
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
        "with a text or messages column; several as NAME=FILE, of which on and off are rendered in "
        "that mode of thinking",
        many=True,
    ),
    Option(
        name="share",
        parameter="shares",
        help="NAME=NUMBER, how much each of several texts counts, such as on=0.3; by default alike",
        many=True,
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
WORKLOAD = Option(
    name="workload",
    parameter="workload",
    help="several scenarios, in place of one: a file of puzzle workload",
    group="what is served",
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
        text: A file, several in a mixture, or the demo's documents; None if none was needed.
        data: How much of it.
        shorten: Whether shorter text is used as far as it goes: no size was given.
    """

    parent: Any
    text: Any
    data: DataConfig
    shorten: bool = False


def sources(
    given: Given, *, text: bool = True, fetch: bool = True, shared: bool = False
) -> Sources:
    """Returns the parent and the text that options name.

    Args:
        given: The options.
        text: Whether a text is needed.
        fetch: Whether the demo model may be fetched.
        shared: Whether a shared library names its parent, so that none has to be given.

    Raises:
        UsageError: Neither or both of the demo and a parent were given.
        DataError: There is no such text file, or it is of an unknown kind.
    """
    demo, parent, files = given.get("demo", False), given.get("parent"), _text_names(given)
    if shared:
        text = demo or bool(files)
    if (demo == bool(parent) and not (shared and not demo)) or (text and demo == bool(files)):
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
        text=_given_text(files, given.get("share", [])) if text else None,
        data=data,
        shorten=len(files) == 1 and not given.arguments(DATA).keys() - {"seed"},
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
        texts = [file for each in _text_names(given) for file in (each, each.partition("=")[2])]
        read = [hardware, *(given.get(each) for each in ("parent", "config")), *filter(None, texts)]
        refuse_source(given.get(name), read, inside=CHILD_FILES, error=UsageError)


def _text_names(given: Given) -> list[str]:
    files = given.get("text") or []
    return [files] if isinstance(files, str) else list(files)


def _given_text(files: list[str], shares: list[str]) -> Path | TextMix:
    """Returns the one text, or several in their shares."""
    if len(files) == 1:
        if shares:
            raise UsageError("--share is for several texts; give --text NAME=FILE for each")
        return _text_file(files[0])
    named = named_values("text", files, "NAME=FILE for each of several, such as on=answers.jsonl")
    return puzzle_text.TextMix(
        texts={name: _text_file(file) for name, file in named.items()},
        shares=shares_of(shares) if shares else dict.fromkeys(named, 1.0),
    )


def shares_of(written: Sequence[str]) -> dict[str, float]:
    """Returns the numbers of options `--share NAME=NUMBER`, by name.

    Raises:
        UsageError: One is something else.
    """
    how = "NAME=NUMBER, such as on=0.3"
    shares = {}
    for name, value in named_values("share", written, how).items():
        try:
            shares[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--share {name}={value}: write {how}") from error
    return shares


def named_values(option: str, written: Sequence[str], how: str) -> dict[str, str]:
    """Returns the values of an option that is written as NAME=VALUE, by name.

    Args:
        option: Its name.
        written: What was given.
        how: How it is written, for the message.

    Raises:
        UsageError: One is written differently, or a name is given twice.
    """
    values: dict[str, str] = {}
    for text in written:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (sign and name and value) or name in values:
            twice = f"{name} is given twice; " if name in values else ""
            raise UsageError(f"--{option} {text!r}: {twice}write {how}")
        values[name] = value
    return values


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


def workload(given: Given) -> Workload:
    """Returns the scenarios that options describe, or those of a file.

    Raises:
        UsageError: Both were given.
        ConstraintError: The file is none of a workload.
    """
    file = given.get("workload")
    if file is None:
        return Workload.of(scenario(given))
    values = given.arguments(SCENARIO)
    dtype = values.pop("dtype", values.pop("weight_dtype", AUTO))
    if values:
        raise UsageError(f"--workload {file} says what is served; leave out the options of one")
    path = user_path(file)
    found = read_json(path, "a workload", error=ConstraintError)
    return Workload.from_dict(found).served_in(dtype)


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
        workload=workload(given),
        hardware=given.get("hardware", "cpu"),
        effort=choice.effort_named(effort, given.get("scores")),
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
        workload=workload(given),
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
