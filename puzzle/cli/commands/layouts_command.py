"""puzzle layouts: `Layout.published`, and the layout of a saved child."""

from __future__ import annotations

from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import table
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.errors import DataError
from puzzle.serving.file_names import CHILD_FILES
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import publish_text
from search_space import Layout, layout_svg, published_layout, published_names

OWN = (
    Option(
        name="name",
        parameter="name",
        positional=True,
        help="a published layout, or the directory of a saved child; without it, all are listed",
    ),
    Option(name="svg", parameter="svg", help="draw the layout into this file"),
)


def _run(given: Given) -> Answer:
    name, drawing = given.get("name"), given.get("svg")
    if name is None:
        if drawing is not None:
            raise UsageError("--svg draws one layout; name it")
        return _list()
    layout = _layout(name)
    if drawing is not None:
        refuse_source(drawing, [name], inside=CHILD_FILES)
        publish_text(user_path(drawing), layout_svg(layout, paper="white"))
    kv = layout.kv_bytes_per_token()
    text = f"{layout!r}\n{kv:,} bytes of KV cache per token at 2 bytes per element"
    return Answer(values=layout.to_dict(), text=text)


def _layout(name: str) -> Layout:
    config = user_path(name) / "config.json"
    if config.is_file():
        with interpreting(config, "a model's config"):
            return Layout.from_config(read_object(config, "a model's config"))
    if config.parent.exists():
        raise DataError(
            f"{name} has no config.json; give the directory of a saved child, or a published layout"
        )
    return Layout.published(name)


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
    return Answer(values=values, text=table(rows))


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
