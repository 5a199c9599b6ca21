"""puzzle pick: a layout, and a child, from a shared library."""

from __future__ import annotations

from puzzle import sharing
from puzzle.cli.commands.child_command import saved_child
from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import DATA, OUT, SCENARIO, scenario, sources
from puzzle.cli.subcommand import Answer, Subcommand, required
from puzzle.serving.file_names import CHILD_FILES
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import require_replaceable

OWN = (
    Option(
        name="library",
        parameter="library",
        positional=True,
        help="a directory that puzzle share wrote, or its hub id",
    ),
    Option(name="revision", parameter="revision", help="of the library on the Hub"),
    Option(
        name="hardware",
        parameter="hardware",
        help="the name of one of the library's profiles, the path of another, roofline:DEVICE, "
        "table:FILE or MODULE:CLASS of your own; by default its only profile",
    ),
    Option(
        name="constraint",
        parameter="constraint",
        many=True,
        help='such as "throughput >= 1.5x"; repeatable',
    ),
    Option(
        name="parent",
        parameter="parent",
        help="where the parent is, to make the child; by default by the name the library gives it",
    ),
    Option(
        name="text",
        parameter="text",
        help="text to fit the child's blocks to each other with, and to measure it on",
    ),
    Option(
        name="demo", parameter="demo", type=bool, default=False, help="the demo's parent and text"
    ),
    Option(
        name="save",
        parameter="save",
        help="make the child and write it to this directory; without it only the layout is chosen",
    ),
)


def _run(given: Given) -> Answer:
    name, target = required(given, "library"), given.get("save")
    if target is not None:
        refuse_source(user_path(target), [name, given.get("parent")])
        require_replaceable(user_path(target), CHILD_FILES)
    shared = sharing.SharedLibrary.open(name, revision=given.get("revision"))
    described = scenario(given) if given.arguments(SCENARIO) else None
    picked = shared.choose(
        given.get("constraint", []), hardware=given.get("hardware"), scenario=described
    )
    if target is None:
        return Answer(values=picked.to_dict(), text=str(picked))
    demo, text = given.get("demo", False), given.get("text") is not None
    named = {} if demo else {"parent": given.get("parent", shared.index.parent.name)}
    source = sources(Given({**given.values, **named}), text=demo or text)
    child = shared.child(
        picked.layout,
        parent=source.parent,
        text=source.text,
        data=None if source.shorten else source.data,
        out=given.get("out", OUT.default),
    )
    saved = saved_child(child, user_path(target))
    values = {**picked.to_dict(), **saved.values}
    return Answer(values=values, text=f"{picked}\n{saved.text}", rows=saved.rows)


PICK = Subcommand(
    name="pick",
    help="choose a layout from a shared library, and make its child",
    options=(*OWN, OUT, *SCENARIO, *DATA),
    examples=(
        'puzzle pick me/parent-library --hardware h100 --constraint "throughput >= 1.5x"',
        "puzzle pick library --parent ./Llama-3.2-1B --text corpus.txt --save child",
    ),
    run=_run,
)
