"""Draws the pictures of speed against quality: that of the README, and that of the choosers.

    python benchmarks/readme_picture.py

Every figure is read from a table of the docs, so that pictures and tables agree. frontier.svg shows
ways to prune by KL and measured speed in decoding, from docs/results/peers.md
(`benchmarks/peers/`), and loss at Puzzletron's budget, from docs/results/library.md
(`benchmarks/peer.py`); choosers.svg KL at equal decode time, from docs/results/choosing.md
(`benchmarks/choosers.py`). They are written to docs/pictures.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
STYLE = {"svg.hashsalt": "puzzle", "font.size": 9, "svg.fonttype": "path"}
OURS, PEER, BASE = "#0b6e4f", "#c0392b", "#7a7a7a"
# Row of the table, label, colour (Okabe and Ito's, which everybody can tell apart), line, marker,
# and where the label stands: points from the last point. None: where the line leaves the picture.
METHODS = (
    ("window removal", "window removal", "#0072b2", (0, (1, 1.2)), "v", None),
    ("ShortGPT", "ShortGPT", "#d55e00", (0, (5, 2)), "s", None),
    ("SliceGPT", "SliceGPT", "#b5679a", (0, (4, 1.5, 1, 1.5)), "D", (8, -3)),
    ("2SSP", "2SSP", "#b07800", "-", "^", (8, -3)),
    (
        "uniform width, 8,192 tokens",
        "uniform width, healed",
        "#6b6b6b",
        (0, (2, 1.5)),
        "x",
        (8, 2),
    ),
    ("puzzle, 8,192 tokens", "puzzle", OURS, "-", "o", (4, -13)),
)
WORST = 1.2  # highest KL in the picture
# Row of the table, label, colour, line, and where the label stands: column and points from there.
CURVES = (
    ("whole layers, block influence", "whole layers (ShortGPT)", BASE, "--", 1, (10, 12)),
    ("additive cosine", "cosine score\n(Puzzletron's default)", PEER, "-", 3, (8, -8)),
    ("the same on three times the text", "puzzle", OURS, "-", 3, (8, -2)),
)
# Labels of the table's rows below Puzzletron's, in order, and where they stand.
STEPS = (
    ("closed form", (0, 9)),
    ("healed", (8, 1)),
    ("on more text", (4, 6)),
    ("distilled", (8, -3)),
)
Rows = list[list[str]]
Points = dict[str, list[tuple[float, float]]]


def read_table(page: Path, first: str) -> Rows:
    """Returns the cells of the table whose header line starts with `first`, header included."""
    lines = page.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(first)]
    if len(starts) != 1:
        raise SystemExit(f"{page} has {len(starts)} tables that start with {first!r}; allowed: 1")
    rows = []
    for line in lines[starts[0] :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


def read_row(rows: Rows, name: str) -> list[float | None]:
    """Returns the first figure of each cell of one row; None for a blank one."""
    cells = next(row[1:] for row in rows if row[0] == name)
    return [float(cell.split(" / ")[0]) if cell else None for cell in cells]


def label(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], **more: str
) -> None:
    """Writes a label at some points' distance from what it names."""
    axes.annotate(text, at, offset, textcoords="offset points", fontsize=8.5, **more)


def method_points(rows: Rows, name: str) -> list[tuple[float, float]]:
    """Returns the speed-up in decoding and the KL of each row of a method."""
    kl, speed = rows[0].index("KL"), rows[0].index("decoding")
    points = [(row[speed], row[kl].split()[0]) for row in rows[1:] if row[0] == name]
    return [(float(at.split("x")[0]), float(value)) for at, value in points]


def leaving(line: list[tuple[float, float]]) -> float:
    """Returns the speed-up at which a line goes beyond the highest KL."""
    for (before, low), (after, high) in pairwise(line):
        if high > WORST:
            return before + (after - before) * (WORST - low) / (high - low)
    raise SystemExit(f"no KL of {line} is above {WORST}; give its label a place")


def draw_methods(axes: Axes) -> Points:
    """Draws KL against measured speed in decoding; returns the points of each method."""
    rows = read_table(RESULTS / "peers.md", "| method | kept")
    drawn: Points = {name: method_points(rows, name) for name, *_ in METHODS}
    left: list[tuple[float, str, str]] = []
    for name, text, colour, style, marker, offset in METHODS:
        points = drawn[name]
        line, width = [(1.0, 0.0), *points], 2.4 if colour == OURS else 1.5
        axes.plot(*zip(*line, strict=True), linestyle=style, color=colour, lw=width, zorder=2)
        axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=5, zorder=3)
        if offset is None:
            left.append((leaving(line), text, colour))
        else:
            weight = "bold" if colour == OURS else "normal"
            label(axes, text, points[-1], offset, color=colour, weight=weight)
    for (speed, text, colour), side in zip(sorted(left), ("right", "left"), strict=True):
        away = -5 if side == "right" else 5
        label(axes, text, (speed, WORST), (away, -10), color=colour, ha=side)
    axes.plot(1.0, 0.0, "o", color="black", markersize=5, zorder=4)
    label(axes, "parent", (1.0, 0.0), (8, -11), color="black")
    fastest = max(speed for points in drawn.values() for speed, kl in points if kl < WORST)
    axes.set_xlim(0.98, fastest + 0.11)
    axes.set_ylim(-0.09, WORST)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlabel("measured speed in decoding")
    axes.set_title("KL to the parent (nats per token)", loc="left", fontsize=9.5)
    return drawn


def draw_choosers(axes: Axes) -> Points:
    """Draws KL against the speed of the layers in decoding; returns the points of each curve."""
    rows = read_table(RESULTS / "choosing.md", "| chooser | decode")
    speeds = [1 / float(head.split()[-1]) for head in rows[0][1:]]
    drawn: Points = {}
    for name, text, colour, style, column, offset in CURVES:
        kls = read_row(rows, name)
        points = [(s, kl) for s, kl in zip(speeds, kls, strict=True) if kl is not None]
        drawn[name] = points
        line = [(1.0, 0.0), *points]
        axes.plot(*zip(*line, strict=True), style, color=colour, lw=1.8)
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4.5)
        side = "right" if offset[0] < 0 else "left"
        label(axes, text, (speeds[column], kls[column] or 0.0), offset, color=colour, ha=side)
    axes.plot(1.0, 0.0, "o", color="black", markersize=5)
    label(axes, "parent", (1.0, 0.0), (8, -11), color="black")
    worst = min(kl for kl in read_row(rows, "uniform width") if kl is not None)
    axes.text(1.53, 2.32, f"uniform width: {worst:.0f} and more", fontsize=8.5, color=BASE)
    axes.set_xlim(0.9, 3.3)
    axes.set_ylim(-0.2, 2.5)
    axes.set_xticks([1.0, 1.5, 2.0, 2.5, 3.0], ["1x", "1.5x", "2x", "2.5x", "3x"])
    axes.set_xlabel("speed of the layers in decoding")
    axes.set_title("Speed against KL to the parent (nats per token)", loc="left", fontsize=9.5)
    return drawn


def draw_peer(axes: Axes) -> Points:
    """Draws the loss that a child adds at Puzzletron's budget against time; returns the points."""
    rows = read_table(RESULTS / "library.md", "| child | CPU-s")[1:]
    points = {row[0]: (float(row[1]), float(row[3])) for row in rows if row[1]}
    peer = next(name for name in points if name.startswith("Puzzletron"))
    ours = [point for name, point in points.items() if name != peer]
    axes.plot(*points[peer], "o", color=PEER, markersize=6)
    label(axes, "Puzzletron's best child", points[peer], (6, 9), color=PEER, ha="right")
    axes.plot(*zip(*ours, strict=True), "-o", color=OURS, markersize=4.5, lw=1.8)
    for point, (text, offset) in zip(ours, STEPS, strict=True):
        label(axes, text, point, offset, color=OURS)
    label(axes, "puzzle", ours[0], (0, 24), color=OURS, weight="bold")
    axes.set_xlim(0, 880)
    axes.set_ylim(0, 1.5)
    axes.set_xlabel("CPU-seconds, in all")
    axes.set_title("Loss added at Puzzletron's budget (nats)", loc="left", fontsize=9.5)
    return {"peer": [points[peer]], "ours": ours}


def save(figure: Figure, points: dict[str, Points], path: Path) -> None:
    """Writes a figure with its points as description; the format follows from the name."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6")
        axes.set_axisbelow(True)
    described: dict[str, str | None] = {"Description": json.dumps(points)}
    if path.suffix == ".svg":
        described["Date"] = None
    figure.savefig(path, metadata=described, dpi=120)


def main() -> None:
    """Draws the pictures of the docs, or files in another folder or format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--format", choices=["svg", "png", "pdf"], default="svg")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        points = {"methods": draw_methods(left), "peer": draw_peer(right)}
        save(figure, points, args.out / f"frontier.{args.format}")
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        points = {"choosers": draw_choosers(figure.subplots())}
        save(figure, points, args.out / f"choosers.{args.format}")


if __name__ == "__main__":
    main()
