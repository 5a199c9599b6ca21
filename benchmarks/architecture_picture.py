"""Draws the picture of docs/architecture.md: the stages of a search, and what each key is made of.

    python benchmarks/architecture_picture.py

It computes nothing; the words are those of the page. It writes docs/pictures/stages.svg.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
STYLE = {"svg.hashsalt": "puzzle", "font.size": 9.5, "svg.fonttype": "path"}
INPUT, STORED, FREE = "#eceff1", "#d8ebe3", "#fdf2d8"
EDGE, DARK, SOFT = "#455a64", "#1c2529", "#55646b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A stage or an input.

    Args:
        at: Left and lower edge.
        size: Width and height.
        title: Its name.
        key: What its key is made of, in lines.
        colour: That of its kind.
    """

    at: tuple[float, float]
    size: tuple[float, float]
    title: str
    key: tuple[str, ...]
    colour: str

    def side(self, x: float, y: float) -> tuple[float, float]:
        """Returns a point of the box by its shares of width and height."""
        return self.at[0] + x * self.size[0], self.at[1] + y * self.size[1]


BOXES = {
    "parent": Box(at=(0, 7.2), size=(1.5, 0.8), title="parent", key=(), colour=INPUT),
    "text": Box(at=(0, 5.3), size=(1.5, 0.8), title="text", key=(), colour=INPUT),
    "device": Box(at=(0, 2.2), size=(1.5, 1.0), title="device,\nscenario", key=(), colour=INPUT),
    "limits": Box(at=(0, 0.2), size=(1.5, 0.8), title="constraints", key=(), colour=INPUT),
    "fit": Box(
        at=(2.3, 6.8),
        size=(2.9, 1.6),
        title="fit of one layer",
        key=(
            "parent, layer, blocks,",
            "fit text, library settings;",
            "with BLD: the fit's key",
            "and the BLD settings",
        ),
        colour=STORED,
    ),
    "scores": Box(
        at=(2.3, 4.4),
        size=(2.9, 1.6),
        title="scores",
        key=("keys of the fits, blocks,", "score text, method,", "probes, seed"),
        colour=STORED,
    ),
    "costs": Box(
        at=(2.3, 1.95),
        size=(2.9, 1.6),
        title="costs",
        key=(
            "device, versions, scenario,",
            "sizes, sublayers;",
            "correction: the same",
            "and whole layouts",
        ),
        colour=STORED,
    ),
    "program": Box(
        at=(6.0, 2.1),
        size=(2.9, 1.3),
        title="program",
        key=("one block per layer,", "within the limits"),
        colour=FREE,
    ),
    "choice": Box(
        at=(6.0, 4.6),
        size=(2.9, 1.6),
        title="choice",
        key=("program, keys of the fits,", "score and held-out text,", "effort, solver, seed"),
        colour=STORED,
    ),
    "healing": Box(
        at=(9.7, 4.6),
        size=(2.6, 1.6),
        title="healing of one layer",
        key=("as a fit, and the block", "chosen and the healed", "layer below"),
        colour=STORED,
    ),
    "speed": Box(
        at=(9.7, 2.1),
        size=(2.6, 1.3),
        title="speed",
        key=("device, versions, scenario,", "config of the layout"),
        colour=STORED,
    ),
    "quality": Box(
        at=(9.7, 6.9),
        size=(2.6, 1.3),
        title="quality",
        key=("parent, layout, keys of its", "fits, validation text"),
        colour=STORED,
    ),
    "child": Box(at=(6.7, 7.15), size=(1.5, 0.8), title="child", key=(), colour=INPUT),
}
# From, to, and where each end stands, as shares of width and height.
ARROWS = (
    ("parent", "fit", (1, 0.5), (0, 0.5)),
    ("text", "fit", (1, 0.7), (0, 0.2)),
    ("text", "scores", (1, 0.3), (0, 0.6)),
    ("fit", "scores", (0.5, 0), (0.5, 1)),
    ("device", "costs", (1, 0.5), (0, 0.469)),
    ("scores", "program", (1, 0.3), (0, 0.85)),
    ("costs", "program", (1, 0.5), (0, 0.5)),
    ("program", "choice", (0.5, 1), (0.5, 0)),
    ("fit", "choice", (1, 0.4), (0.2, 1)),
    ("choice", "healing", (1, 0.5), (0, 0.5)),
    ("choice", "speed", (1, 0.2), (0.1, 1)),
    ("healing", "quality", (0.5, 1), (0.5, 0)),
    ("quality", "child", (0, 0.5), (1, 0.5)),
)


def draw_box(axes: Axes, box: Box) -> None:
    """Draws one box with its words."""
    (x, y), (width, height) = box.at, box.size
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, style, facecolor=box.colour, edgecolor=EDGE, lw=1)
    )
    centre = x + width / 2
    if not box.key:
        axes.text(centre, y + height / 2, box.title, ha="center", va="center", color=DARK)
        return
    axes.text(
        centre, y + height - 0.14, box.title, ha="center", va="top", color=DARK, weight="bold"
    )
    words = "\n".join(box.key)
    axes.text(centre, y + height - 0.5, words, ha="center", va="top", color=SOFT, fontsize=8.5)


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **more: str):
    """Draws an arrow between two points."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            color=EDGE,
            shrinkA=1,
            shrinkB=1,
            **more,
        )
    )


def draw(path: Path) -> None:
    """Writes the picture; the format follows from the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 5.7), layout="constrained")
        draw_stages(figure.subplots())
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def draw_stages(axes: Axes) -> None:
    """Draws boxes, arrows and the legend."""
    for box in BOXES.values():
        draw_box(axes, box)
    for start, end, leaves, arrives in ARROWS:
        draw_arrow(axes, BOXES[start].side(*leaves), BOXES[end].side(*arrives))
    corner = "angle,angleA=0,angleB=90,rad=4"
    limits = BOXES["limits"].side(1, 0.5), BOXES["program"].side(0.5, 0)
    draw_arrow(axes, *limits, connectionstyle=corner)
    tighten = BOXES["speed"].side(0, 0.5), BOXES["program"].side(1, 0.5)
    draw_arrow(axes, *tighten, linestyle="--")
    axes.text(9.3, 1.72, "missed limits\nare tightened", ha="center", va="center", fontsize=8)
    legend = (
        (STORED, "stored under its key"),
        (FREE, "computed in every run"),
        (INPUT, "given, or the result"),
    )
    for place, (colour, words) in enumerate(legend):
        x, y = 9.7, 1.1 - 0.42 * place
        axes.add_patch(FancyBboxPatch((x, y), 0.3, 0.22, "round,pad=0", fc=colour, ec=EDGE, lw=0.8))
        axes.text(x + 0.45, y + 0.11, words, va="center", fontsize=8.5)
    axes.set_xlim(-0.1, 12.4)
    axes.set_ylim(0, 8.6)
    axes.set_axis_off()


def main() -> None:
    """Draws the picture of the architecture page, or another file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "docs" / "pictures" / "stages.svg"
    parser.add_argument("--out", type=Path, default=default)
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
