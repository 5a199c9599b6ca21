"""Figures drawn with matplotlib, and as SVG that fits into any page.

Nothing here touches pyplot, whose figures are shared by everything in a process. matplotlib is
imported when the first figure is drawn, since listing layouts does not need it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#333333"
"""Text, axes and outlines; in SVG the colour of the text around the picture."""
TEXT = 10.0
"""Size of text, in the units of `drawn_figure`."""
TIPS = "tips"
"""Id of an artist whose parts get the `tips` of `figure_svg`."""

_STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": TEXT + 1,
    "figure.dpi": 100,
    "font.size": TEXT,
    "hatch.color": INK,
    "legend.fontsize": TEXT,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    # Without it, ids are drawn at random.
    "svg.hashsalt": "puzzle",
    "text.color": INK,
    # Names of blocks and devices may hold a dollar sign.
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": TEXT,
    "ytick.color": INK,
    "ytick.labelsize": TEXT,
}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_FONT = "system-ui, sans-serif"
_SHAPE = "display:block;width:100%;height:auto"
_MARK = "puzzle-picture"
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_TIDIER = (
    (re.compile(r"-?\d+\.\d{3,}"), lambda number: f"{float(number[0]):.2f}"),
    (re.compile(r"(?<=\d)\.0*(?=\s|$|;|\))"), ""),
    (re.compile(r"font-family: [^;]*; "), ""),
    (re.compile(INK), "currentColor"),
)


@contextmanager
def house_style() -> Iterator[None]:
    """Figures made inside look alike, whatever style the process has chosen."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def drawn_figure(width: float, height: float) -> Figure:
    """Returns an empty figure; call it within `house_style`.

    Args:
        width: In units of 1/72 inch, which are the units of its SVG.
        height: Likewise.
    """
    return _figure_class()(figsize=(width / 72, height / 72), layout="constrained")


@cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that shows itself in a notebook, which without pyplot it would not."""

        def _repr_png_(self) -> bytes:
            written = io.BytesIO()
            with house_style():
                self.savefig(written, format="png")
            return written.getvalue()

    return NotebookFigure


def layer_step(layers: int) -> int:
    """Returns the distance of labelled layers that leaves their labels room."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if layers <= 20 * step)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Returns how many columns of a legend fit below a figure."""
    widest = 32 + 0.62 * TEXT * max(map(len, labels))
    return max(1, min(len(labels), int(width / widest)))


def printable(text: str) -> str:
    """Returns a text with a mark in place of characters that no font and no XML has."""
    return _NOT_XML.sub("\ufffd", text)


def figure_svg(
    figure: Figure, *, title: str, tips: Sequence[str] = (), paper: str | None = None
) -> str:
    """Returns a figure as an SVG element for a page of either colour scheme.

    Equal figures give equal text. The background is left out and ink takes the colour of the text
    around; text stays text; the element is as wide as its place allows, up to half again its
    own width; and two different pictures on one page share no id.

    Args:
        figure: The figure.
        title: What a screen reader reads out.
        tips: Tooltips for the parts of the artist whose id is `TIPS`.
        paper: Colour of the background, for a file of its own that may be shown on any.
    """
    written = io.StringIO()
    with house_style():
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(printable(written.getvalue()))
    _add_tips(root, tips)
    _tidy(root)
    width = float(root.attrib["viewBox"].split()[2])
    root.attrib.update(
        {
            "role": "img",
            "fill": "currentColor",
            "font-family": _FONT,
            "stroke-linecap": "butt",
            "stroke-linejoin": "round",
            "style": f"{_SHAPE};max-width:{1.5 * width:g}px",
        }
    )
    if paper is not None:
        root.attrib["style"] += f";background:{paper};color:{INK}"
    name = ElementTree.Element(f"{_SVG}title")
    name.text = printable(title)
    root.insert(0, name)
    _name_ids(root)
    ElementTree.register_namespace("", _SVG[1:-1])
    text = ElementTree.tostring(root, encoding="unicode")
    # Ids are those of a whole page: pictures on it that differ must not share one.
    return text.replace(_MARK, "p" + hashlib.sha256(text.encode()).hexdigest()[:8])


def _add_tips(root: ElementTree.Element, tips: Sequence[str]) -> None:
    if not tips:
        return
    (group,) = root.iterfind(f".//{_SVG}g[@id='{TIPS}']")
    for part, words in zip(group.iter(f"{_SVG}path"), tips, strict=True):
        ElementTree.SubElement(part, f"{_SVG}title").text = words


def _tidy(root: ElementTree.Element) -> None:
    """Removes what belongs to a file of its own, and digits that nobody sees."""
    for parent in root.iter():
        for child in list(parent):
            if child.tag == f"{_SVG}style" or child.tag.endswith("}metadata"):
                # A style inside a page is one of the whole page.
                parent.remove(child)
            child.tail = None
        if not (parent.text or "").strip():
            parent.text = None
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    for element in root.iter():
        given: dict[str, str] = dict(element.attrib)
        element.attrib.clear()
        for name, value in given.items():
            for pattern, better in _TIDIER:
                value = pattern.sub(better, value)
            if not value.startswith("rotate(-0 "):
                element.set("href" if name == _LINK else name, " ".join(value.split()))


def _name_ids(root: ElementTree.Element) -> None:
    """Drops ids that nothing refers to, and names the others after the picture."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = {one or other for one, other in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)}
    names: dict[str, str] = {}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own is not None and own in used:
            names[own] = f"{_MARK}-{len(names)}"
            element.set("id", names[own])
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "href":
                element.set(name, "#" + names[value[1:]])
            elif "url(#" in value:
                element.set(
                    name, re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names[m[1]]})", value)
                )
