"""What is checked of a family's description, on a random model of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, NoReturn

import torch
from scipy.stats import spearmanr
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from puzzle.errors import ParentError, PuzzleError
from puzzle.library.build import Library, build_library
from puzzle.models.assembling import assemble, random_model
from puzzle.models.child_config import config_from_layout, layout_from_config
from puzzle.models.families import FAMILIES
from puzzle.models.family import Family
from puzzle.models.parent import Parent, open_parent
from puzzle.models.pretrained import load_model
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.storage.temporary_places import temporary_place
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import Windows
from search_space import Block, Layout, SearchSpace
from search_space.blocks import MIXERS

# A model small enough for a test; attention windows should be shorter than the text.
SIZES = {
    "num_hidden_layers": 6,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LENGTH, PROMPT, REPLY, PADDED = 48, 17, 12, 4
MOST_APART, LEAST_RANK = 1e-5, 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFigures:
    """What was measured of a family.

    Args:
        streamed: Largest difference of logits between the parent run layer by layer and the stock
            model, as a share of the largest logit.
        child: The same between a child of the parent's own layout and the stock model.
        cached: The same between a mixed child with a cache and without.
        reloaded: The same between a mixed child and itself saved and loaded.
        parameters: Parameters of the model, counted as they are built.
        rank: Spearman's correlation of Fisher scores and exact ones.
        before: Mean local error of the variants that are fitted, before the fit.
        fitted: After it.
    """

    streamed: float
    child: float
    cached: float
    reloaded: float
    parameters: int
    rank: float
    before: float
    fitted: float


def check_family(family: Family, config: Any = None) -> FamilyFigures:
    """Raises ParentError unless a family's description agrees with its stock classes.

    On a random model, whose norms are not 1 and whose biases are not 0, these are checked: the
    parent run layer by layer is the model; a child of its own layout is the model; parameters of
    parent and child are counted as they are built; a child of mixed blocks generates the same with
    a dynamic, a static and no cache, padded on the left; it is the same when saved and loaded; no
    fit of a variant is worse than its start; and Fisher scores rank blocks as exact ones do.

    Args:
        family: The description, registered by `register_family`.
        config: The config of a small model; by default one of six layers. A window of its
            attention should be shorter than 48 tokens, and the vocabulary at least 8 tokens.

    Returns:
        What was measured.

    Raises:
        ParentError: The family is not registered, or which of these does not hold.

    Example:
        >>> from puzzle.models import FAMILIES
        >>> check_family(FAMILIES["qwen3"]).streamed
        0.0
    """
    name = family.model_types[0]
    if FAMILIES.get(name) is not family:
        raise ParentError(f"family {name!r} is not registered; call register_family(family) first")
    if config is None:
        config = AutoConfig.for_model(name, **SIZES)
    with temporary_place() as place, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _FamilyCheck(name, config, place).figures()


class _FamilyCheck:
    """The checks of one family on one random model."""

    def __init__(self, name: str, config: Any, place: Path) -> None:
        self.name, self.place = name, place
        self.model = _randomised(AutoModelForCausalLM.from_config(config).eval(), 0.2)
        self.workspace = Workspace(place / "run")
        self.parent: Parent = open_parent(self.model, workspace=self.workspace, dtype="float32")
        self.tokens = torch.randint(3, self.parent.shape.vocab, (2, LENGTH))

    @torch.no_grad()
    def figures(self) -> FamilyFigures:
        """Returns what was measured; raises ParentError for what does not hold."""
        shape = self.parent.shape
        want = self.model(self.tokens).logits
        x_BLD = self.parent.embed(self.tokens)
        for index in range(shape.layers):
            x_BLD = self.parent.run(self.parent.layer(index), x_BLD)
        own, tensors = Layout.parent(shape), self.parent.state_dict()
        try:
            child = assemble(self.parent.config, own, tensors, dtype=torch.float32)
        except PuzzleError as error:
            self._fail(f"the parent's tensors are not those of its child: {error}")
        if layout_from_config(child.config) != own:
            self._fail("the child of the parent's own layout has another layout in its config")
        self._counted(own, self.model, "the parent")
        cached, reloaded = self._mixed()
        rank, before, fitted = self._library()
        return FamilyFigures(
            streamed=self._apart(self.parent.head()(x_BLD), want, "run layer by layer, the parent"),
            child=self._apart(child(self.tokens).logits, want, "the child of its own layout"),
            cached=cached,
            reloaded=reloaded,
            parameters=own.parameters(),
            rank=rank,
            before=before,
            fitted=fitted,
        )

    def _fail(self, what: str) -> NoReturn:
        raise ParentError(f"family {self.name!r}: {what}; compare its description with its classes")

    def _apart(self, one: torch.Tensor, other: torch.Tensor, what: str) -> float:
        apart = float((one - other).abs().max() / other.abs().max())
        if not apart <= MOST_APART:
            self._fail(f"{what} differs from what it should be by {apart:.2g} of the largest logit")
        return apart

    def _counted(self, layout: Layout, model: nn.Module, what: str) -> None:
        built = sum(parameter.numel() for parameter in model.parameters())
        if layout.parameters() != built:
            self._fail(f"{what} has {built:,} parameters, and {layout.parameters():,} are counted")

    def _mixed(self) -> tuple[float, float]:
        """Checks a child of mixed blocks; returns how far its caches and its copy are off."""
        config = self.parent.config
        layout = Layout(self.parent.shape, tuple(_mixed_blocks(self.parent.shape.parent_blocks)))
        # In float64, so that what is off is no rounding.
        child: Any = random_model(config_from_layout(config, layout), "float64")
        _randomised(child, 0.3)
        self._counted(layout, child, "a child")
        child.save_pretrained(self.place / "child")
        again: Any = load_model(self.place / "child")
        if FAMILIES[self.name].experts:  # the default one has no float64
            for each in (child, again):
                each.set_experts_implementation("eager")
        want = child(self.tokens).logits
        reloaded = self._apart(again(self.tokens).logits, want, "a child that was saved")
        cache = child(self.tokens[:, :PROMPT], use_cache=True).past_key_values
        steps = self.tokens[:, PROMPT:].split(1, 1)
        parts = [child(step, past_key_values=cache).logits for step in steps]
        cached = self._apart(torch.cat(parts, 1), want[:, PROMPT:], "a child with a cache")
        prompt, mask = self.tokens[:, :PROMPT], torch.ones(2, PROMPT, dtype=torch.long)
        mask[0, :PADDED] = 0
        given = {"attention_mask": mask, "max_new_tokens": REPLY, "do_sample": False}
        given |= {"eos_token_id": None, "pad_token_id": 0}
        reply = child.generate(prompt, use_cache=False, **given)
        for kind in ("dynamic", "static"):
            if not torch.equal(child.generate(prompt, cache_implementation=kind, **given), reply):
                self._fail(f"a child generates something else with a {kind} cache")
        return cached, reloaded

    def _library(self) -> tuple[float, float, float]:
        """Checks fits and scores; returns their correlation and the mean local errors."""
        vocab = self.parent.shape.vocab
        sizes = {"fit": 64, "score": 4, "validation": 4}
        cut = Windows(**{p: torch.randint(3, vocab, (n, LENGTH // 2)) for p, n in sizes.items()})
        space = SearchSpace.from_options(self.parent.shape, ffn_shares=(0.5,))
        library = build_library(self.parent, space, cut, workspace=self.workspace)
        fits = [error for errors in _errors(library) for error in errors if error[0] > 0]
        worse = [error for error in fits if error[1] > error[0] * (1 + 1e-6)]
        if worse:
            self._fail(f"{len(worse)} of {len(fits)} fits are worse than their start")
        exact = replace_one(library, space, cut, workspace=self.workspace)
        probes = FisherConfig(probes=8)
        estimated = fisher(library, space, cut, workspace=self.workspace, config=probes)
        pairs = [(score.kl, estimated.kl(layer, label)) for layer, label, score in exact.items()]
        rank = float(spearmanr(*zip(*pairs, strict=True)).statistic)
        if not rank >= LEAST_RANK:
            self._fail(f"Fisher scores rank blocks otherwise than exact ones (Spearman {rank:.2f})")
        before, fitted = (mean(column) for column in zip(*fits, strict=True))
        return rank, before, fitted


def _randomised(model: nn.Module, std: float) -> nn.Module:
    """Gives every weight a random value, and norms and biases values beside their neutral ones."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
        else:
            parameter.data += torch.randn_like(parameter) * std
    return model


def _mixed_blocks(parents: tuple[Block, ...]) -> Iterator[Block]:
    """Yields a block of another kind for each layer, the first one without attention."""
    for index, own in enumerate(parents):
        kv_heads, width = own.attention.kv_heads or 1, own.ffn.width or 1
        labels = (
            f"none+gated{max(1, width // 2)}",
            f"gqa1+gated{width}",
            f"gqa{kv_heads}+linear",
            "none+none",
            "linear+linear",
            f"gqa{kv_heads}+gated{max(1, width // 4)}",
        )
        yield as_far_as(own, Block.from_label(labels[index % len(labels)]))


def as_far_as(own: Block, block: Block) -> Block:
    """Returns a block with the mixer or the experts of a layer, without the halves it lacks."""
    attention, ffn = block.attention, block.ffn
    if own.ffn.kind == "moe" and ffn.kind == "gated":
        kept = (own.ffn.experts or 1) * (ffn.width or 0) // (own.ffn.width or 1)
        ffn = replace(own.ffn, experts=max(own.ffn.top_k or 1, kept))
    if own.attention.kind in MIXERS and attention.kind == "gqa":
        attention = own.attention
    return Block(
        own.attention if own.attention.kind == "none" else attention,
        own.ffn if own.ffn.kind == "none" else ffn,
    )


def _errors(library: Library) -> Iterator[list[tuple[float, float]]]:
    for layer in range(library.parent.shape.layers):
        yield [
            (error.before, error.fitted)
            for key, error in library.errors(layer).items()
            if not key.endswith("none")
        ]
