"""The published Nemotron and DeciLM layouts, with their sources.

The JSON files beside this one hold facts only: sizes, one (attention, FFN) pair of labels per
layer, the published totals, and where each was read.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from search_space.blocks import FFN, Attention, Block
from search_space.fusion import FusedRun, Fusion, even_widths
from search_space.layout import Layout
from search_space.pipeline import identity_layers, remove_identity_layers
from search_space.shape import ModelShape

__all__ = ["PublishedLayout", "published_layout", "published_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLayout:
    """A published layout and what is known about it.

    Args:
        name: The name in this library.
        repository: The model on the Hugging Face hub.
        base_model: The parent, None for a model that was trained from scratch.
        layout: The layout as its config has it. Its shape holds the parent's KV heads and FFN
            width (the largest ones, where there is no parent) and the layout's own layers.
        status: "exact", "exact (secondary copy)" or "partial".
        inferred: Sentences that say what is inferred, not published.
        sources: Where the figures were read.
        published_parameters: The published total.
        published_kv_elements: Elements that one token adds to the KV cache, by its sources.
        ffn_mult: The multiplier that the config names for each FFN width.
        fused_runs: (first, last) of the runs of layers that were fused, counted before fusion.
    """

    name: str
    repository: str
    base_model: str | None
    layout: Layout
    status: str
    inferred: tuple[str, ...]
    sources: tuple[str, ...]
    published_parameters: int
    published_kv_elements: int
    ffn_mult: dict[int, float]
    fused_runs: tuple[tuple[int, int], ...] = ()

    @property
    def identity_layers(self) -> tuple[int, ...]:
        """The layers that have neither attention nor FFN."""
        return identity_layers(self.layout)

    def fusion(self) -> Fusion:
        """Returns the FFN fusion that the layout went through; without runs if there was none.

        The widths inside a run are inferred: only their sum is published, and it is split as
        evenly as multiples of 256 allow. Attention, FFNs outside the runs, the number of layers
        and every total are as published.
        """
        if not self.fused_runs:
            return Fusion(())
        active = remove_identity_layers(self.layout)
        runs, removed = [], 0
        for first, last in self.fused_runs:
            members = last - first + 1
            width = active.blocks[first - removed].ffn.width or 0
            runs.append(FusedRun(first, even_widths(width, members)))
            removed += members - 1
        return Fusion(tuple(runs))

    def search_result(self) -> Layout:
        """Returns the layout before fusion and padding, one block per layer of the parent.

        Where layers were fused, their single widths are inferred; see `fusion`.
        """
        if not self.fused_runs:
            return self.layout
        return self.fusion().undo(remove_identity_layers(self.layout))


def published_names() -> tuple[str, ...]:
    """Returns the names of the published layouts."""
    return tuple(sorted(_by_key().values()))


def published_layout(name: str) -> PublishedLayout:
    """Returns a published layout with its sources and what of it is inferred.

    Args:
        name: One of `published_names()`, or the model's name on the Hugging Face hub; case,
            punctuation, organisation and a trailing "instruct" do not matter.

    Raises:
        ValueError: There is no published layout of that name.

    Example:
        >>> published_layout("nvidia/Llama-3_3-Nemotron-Super-49B-v1").layout.parameters()
        49867145216
    """
    key, known = _key(name), _by_key()
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f" (did you mean {known[close[0]]!r}?)" if close else ""
        raise ValueError(f"published layout {name!r}{hint}; allowed: {list(published_names())}")
    return _read(known[key])


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().rpartition("/")[2]).removesuffix("instruct")


@cache
def _by_key() -> dict[str, str]:
    stems = [
        file.name.removesuffix(".json")
        for file in files(__name__).iterdir()
        if file.name.endswith(".json")
    ]
    return {_key(stem): stem for stem in stems}


def _read(name: str) -> PublishedLayout:
    values: dict[str, Any] = json.loads(
        files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    )
    blocks = (Block(Attention.from_label(a), FFN.from_label(f)) for a, f in values["layers"])
    return PublishedLayout(
        name=values["name"],
        repository=values["repository"],
        base_model=values["base_model"],
        layout=Layout(ModelShape.from_dict(values["shape"]), tuple(blocks)),
        status=values["status"],
        inferred=tuple(values["inferred"]),
        sources=tuple(values["sources"]),
        published_parameters=values["parameters"],
        published_kv_elements=values["kv_elements_per_token"],
        ffn_mult={int(width): mult for width, mult in values["ffn_mult"].items()},
        fused_runs=tuple((first, last) for first, last in values["fused_runs"]),
    )
