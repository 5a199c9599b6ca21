"""puzzle child: the child of a layout that was chosen elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from puzzle import pipeline
from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import BLD, LIBRARY, OUT, STAGE, open_stages, table
from puzzle.cli.layout_files import read_layout
from puzzle.cli.subcommand import Answer, Subcommand, required
from puzzle.serving.file_names import CHILD_FILES
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import require_replaceable

if TYPE_CHECKING:
    from puzzle.pipeline.layout_child import LayoutChild

LAYOUT = Option(
    name="layout",
    parameter="layout",
    positional=True,
    help="a layout: a JSON file, such as puzzle solve --save writes, the name of a published "
    "one, or the directory of a saved child",
)
SAVE = Option(
    name="save",
    parameter="save",
    default="child-LAYOUT in the run directory",
    help="the directory to write the child to",
)


def _run(given: Given) -> Answer:
    name = required(given, "layout")
    # Not "child", which is the child of a search.
    own = user_path(given.get("out", OUT.default)) / f"child-{user_path(name).stem}"
    target = user_path(given.get("save", own))
    refuse_source(target, [name, given.get("parent")])
    require_replaceable(target, CHILD_FILES)
    opened = open_stages(given)
    layout = read_layout(name, opened.run.parent.shape)
    child = pipeline.child_of(opened.opened, opened.steps, layout)
    return saved_child(child, target)


def saved_child(child: LayoutChild, target: Path) -> Answer:
    """Saves a child and returns its figures."""
    path, layout = child.save(target), child.layout
    quality = {} if child.quality is None else child.quality.to_dict()["child"]
    rows: list[tuple[str, ...]] = [("figure", "child"), ("parameters", f"{layout.parameters():,}")]
    rows += [(name, f"{value:.4f}") for name, value in quality.items()]
    values = {"path": str(path), "layout": layout.to_dict(), "quality": quality}
    return Answer(values=values, text=f"{table(rows)}\n{layout}\nchild: {path}", rows=rows)


CHILD = Subcommand(
    name="child",
    help="build, measure and save the child of a layout or of a program's solution",
    options=(LAYOUT, *STAGE, SAVE, *LIBRARY, *BLD),
    examples=(
        "puzzle child solution.json --demo",
        "puzzle child layout.json ./Llama-3.2-1B --text corpus.txt --out run --save run/mine",
    ),
    run=_run,
)
