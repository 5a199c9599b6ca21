"""puzzle layouts: `Layout.published`, the layout of a saved child, and how two differ."""

from __future__ import annotations

from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import table
from puzzle.cli.layout_files import read_layout
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.serving.file_names import CHILD_FILES
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publish_text
from search_space import diff_svg, layout_svg, published_layout, published_names

OWN = (
    Option(
        name="name",
        parameter="name",
        positional=True,
        help="a published layout, the directory of a saved child, or a JSON file of a layout; "
        "without it, all are listed",
    ),
    Option(name="diff", parameter="diff", help="another layout of the same parent, to compare"),
    Option(name="svg", parameter="svg", help="draw the layout, or both, into this file"),
)


def _run(given: Given) -> Answer:
    name, drawing = given.get("name"), given.get("svg")
    if name is None:
        if drawing is not None or given.get("diff") is not None:
            raise UsageError("--svg and --diff are of one layout; name it")
        return _list()
    if given.get("diff") is not None:
        return _difference(name, given.get("diff"), drawing)
    layout = read_layout(name)
    if drawing is not None:
        refuse_source(drawing, [name], inside=CHILD_FILES)
        publish_text(user_path(drawing), layout_svg(layout, paper="white"))
    kv = layout.kv_bytes_per_token()
    text = f"{layout!r}\n{kv:,} bytes of KV cache per token at 2 bytes per element"
    return Answer(values=layout.to_dict(), text=text)


def _difference(name: str, other: str, drawing: str | None) -> Answer:
    own = read_layout(name)
    pair = (own, read_layout(other, own.shape))
    changes = pair[0].diff(pair[1])
    rows: list[tuple[str, ...]] = [("layer", name, other)]
    rows += [(str(i), a.label, b.label) for i, (a, b) in changes.items()]
    if drawing is not None:
        for each in (name, other):
            refuse_source(drawing, [each], inside=CHILD_FILES)
        publish_text(user_path(drawing), diff_svg(*pair, names=(name, other), paper="white"))
    sizes = " and ".join(f"{each.parameters():,}" for each in pair)
    note = f"{len(changes)} of {own.shape.layers} layers differ; {sizes} parameters"
    values = {
        "layers": {str(i): [a.label, b.label] for i, (a, b) in changes.items()},
        "parameters": [each.parameters() for each in pair],
    }
    return Answer(values=values, text=f"{table(rows)}\n{note}" if changes else note, rows=rows)


def _list() -> Answer:
    rows: list[tuple[str, ...]] = [("name", "layers", "parameters", "parent", "status")]
    values = []
    for name in published_names():
        entry = published_layout(name)
        layers, size = entry.layout.shape.layers, entry.layout.parameters()
        rows.append((name, str(layers), f"{size:,}", entry.base_model or "none", entry.status))
        values.append(
            {
                "name": name,
                "repository": entry.repository,
                "base_model": entry.base_model,
                "layers": layers,
                "parameters": size,
                "status": entry.status,
                "sources": list(entry.sources),
            }
        )
    return Answer(values=values, text=table(rows), rows=rows)


LAYOUTS = Subcommand(
    name="layouts",
    help="show the published layouts, or that of a saved child",
    options=OWN,
    examples=(
        "puzzle layouts",
        "puzzle layouts llama-3.3-nemotron-super-49b-v1 --svg super.svg",
    ),
    run=_run,
)
