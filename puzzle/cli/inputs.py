"""The options that the stages of a search share, and what they open."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle import models
from puzzle.cli.flags import Given, Option, declared_options
from puzzle.cli.signatures import declared
from puzzle.cli.subcommand import UsageError
from puzzle.demo import DEMO_DATA, demo_model, demo_text, fetch_demo_model
from puzzle.errors import DataError
from puzzle.hardware.precision import AUTO, Precision
from puzzle.hardware.threads import limit_threads
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.limits.scenario import Scenario
from puzzle.storage.workspace import Workspace
from puzzle.text.data_config import DataConfig
from search_space import PRESETS, SearchSpace

if TYPE_CHECKING:
    from puzzle.models.parent import Parent
    from puzzle.text.windows import Windows

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
        help="text file; blank lines separate documents",
    ),
    Option(
        name="demo",
        parameter="demo",
        type=bool,
        default=False,
        help="use the embedded model and text, of which half as much is read by default",
    ),
)
SPACE = Option(
    name="space",
    parameter="space",
    default="small",
    help=f"preset of alternatives: {', '.join(PRESETS)}",
)
OUT = Option(name="out", parameter="out", default="puzzle-run", help="the run directory")
DTYPE = Option(
    name="dtype",
    parameter="dtype",
    help="one number format, such as float32, for all that is worked in, served and stored",
    default=AUTO,
)
SCENARIO = (DTYPE, *declared_options(declared(Scenario), names={"weight_dtype": "served-dtype"}))
PRECISION = declared_options(
    declared(Precision), names={"working": "working-dtype", "stored": "stored-dtype"}
)
WORKING = tuple(option for option in PRECISION if option.parameter == "working")
DATA = declared_options(declared(DataConfig))
LIBRARY = declared_options(declared(LibraryConfig), skip=("bld", "ridges"))
BLD = (
    Option(
        name="bld",
        parameter="bld",
        type=bool,
        default=False,
        help="distil each variant by gradient steps after its closed-form fit",
    ),
    *declared_options(declared(BLDConfig), prefix="bld-"),
)
STAGE = (*PARENT, SPACE, OUT, *SCENARIO, *WORKING, *DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The parent and the text that options name.

    Args:
        parent: What `open_parent` takes.
        text: What `windows` takes; None if it was not wanted.
        data: How much of it.
    """

    parent: Any
    text: Any
    data: DataConfig


def sources(given: Given, *, text: bool = True, fetch: bool = True) -> Sources:
    """Returns the parent and the text that options name.

    Args:
        given: The options.
        text: Whether a text is needed.
        fetch: Whether the demo model may be fetched.

    Raises:
        UsageError: Neither or both of the demo and a parent were given.
        DataError: The text file cannot be read.
    """
    demo, parent, file = given.get("demo", False), given.get("parent"), given.get("text")
    if demo == bool(parent) or (text and demo == bool(file)):
        raise UsageError(f"give a parent{' and --text FILE' if text else ''}, or --demo alone")
    data = replace(DEMO_DATA if demo else DataConfig(), **given.arguments(DATA))
    if demo:
        if fetch:
            # Beside other work, two threads that wait for each other are slower than one.
            limit_threads(to_free=True)
        model = fetch_demo_model() if fetch else demo_model()
        return Sources(parent=model, text=demo_text() if text else None, data=data)
    return Sources(parent=parent, text=_read(file) if text else None, data=data)


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"there is no text file {file}; give --text the path of plain text (UTF-8), a few "
            "hundred kilobytes, with blank lines between documents"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text: {error}; convert it") from error


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """What every stage of a search starts from.

    Args:
        workspace: The run directory.
        parent: The parent, opened.
        space: The alternatives of each layer.
        scenario: The scenario.
        windows: The text, cut; None if it was not wanted.
    """

    workspace: Workspace
    parent: Parent
    space: SearchSpace
    scenario: Scenario
    windows: Windows | None

    @property
    def text(self) -> Windows:
        """The text, where it was asked for."""
        assert self.windows is not None
        return self.windows


def open_stage(given: Given, *, text: bool = True) -> Stage:
    """Opens what options name, as `search` does, so that stages meet its artifacts.

    Args:
        given: The options.
        text: Whether the stage needs text.
    """
    found, how = sources(given, text=text), scenario(given)
    limit_threads()
    cut = importlib.import_module("puzzle.text.windows").windows
    workspace = Workspace(given.get("out", OUT.default))
    working = precision(given).working
    parent = models.open_parent(found.parent, workspace=workspace, dtype=working)
    return Stage(
        workspace=workspace,
        parent=parent,
        space=SearchSpace.preset(parent.shape, given.get("space", SPACE.default)),
        scenario=how,
        windows=cut(found.text, parent.tokenizer, found.data) if text else None,
    )


def table(rows: list[tuple[str, ...]]) -> str:
    """Returns rows as columns of text: words, as told by the last row, left, and numbers right."""
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
