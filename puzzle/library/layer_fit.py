"""One layer's variants: initialised from the parent and fitted in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from puzzle.library.kv_merging import (
    HeadMerge,
    candidate_merges,
    head_options,
    merge_kv_heads,
    promising_merges,
)
from puzzle.library.least_squares import HeldOut, Moments, fit
from puzzle.library.local_error import LocalError
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Rows, Streams
from puzzle.models.llama import attention_context
from puzzle.models.parent import Parent
from search_space import FFN, Attention, Block

# Fitted windows that choose between merges of KV heads.
SCREENED = 8
Tensors = dict[str, torch.Tensor]
Fitted = tuple[torch.Tensor, LocalError]


def attention_key(attention: Attention) -> str:
    """Returns the name of an attention variant."""
    return f"attention/{attention.label}"


def ffn_key(attention: Attention, ffn: FFN) -> str:
    """Returns the name of the FFN that goes with an attention."""
    return f"ffn/{attention.label}/{ffn.label}"


class LayerFit:
    """Builds every variant of one layer.

    Args:
        parent: The parent.
        layer: The parent's layer, loaded.
        streams: What enters the layer, and what it should return.
        config: How variants are made.
    """

    def __init__(
        self, parent: Parent, layer: nn.Module, streams: Streams, config: LibraryConfig
    ) -> None:
        self.parent, self.streams, self.config = parent, streams, config
        self.layer: Any = layer
        self.own = parent.shape.parent_block
        self.rope = parent.rope(streams.x.shape[1])
        self.tensors: Tensors = {}
        self.errors: dict[str, LocalError] = {}

    def build(self, blocks: Iterable[Block]) -> None:
        """Makes the variants that some blocks need, into `tensors` and `errors`."""
        wanted = tuple(dict.fromkeys(blocks))
        for attention in dict.fromkeys(block.attention for block in wanted):
            self._attention(attention)
        for attention, ffns in self.groups(wanted).items():
            self._ffns(attention, ffns)

    def groups(self, blocks: Iterable[Block]) -> dict[Attention, tuple[FFN, ...]]:
        """Returns the FFNs to make by the attention they are fitted behind."""
        ffns_behind: dict[Attention, dict[FFN, None]] = {}
        for block in blocks:
            # Where a child's stream enters, every FFN has something to make up for.
            coupled = self.streams.child or self.config.coupled(block.attention)
            behind = block.attention if coupled else self.own.attention
            ffns_behind.setdefault(behind, {})[block.ffn] = None
        return {attention: tuple(ffns) for attention, ffns in ffns_behind.items()}

    def _attention(self, attention: Attention) -> None:
        key = attention_key(attention)
        if attention.kind == "none":
            self.errors[key] = LocalError(before=1.0, fitted=1.0)
        elif attention == self.own.attention and not self.streams.child:
            self.errors[key] = LocalError(before=0.0, fitted=0.0)
        elif attention.kind == "linear":
            start = _linear_start(self.layer.self_attn, self.parent.shape.head_dim)
            train, held_out = self._collect(
                len(start),
                lambda rows: (self.layer.input_layernorm(rows.x), rows.attention),
            )
            weight, self.errors[key] = self._fit(train, held_out, start, torch.zeros_like(start))
            self._store(key, {"self_attn.linear_proj.weight": weight.T})
        else:
            self._grouped(key, attention.kv_heads or 1)

    def _grouped(self, key: str, kv_heads: int) -> None:
        """Fits the output map for each promising merge of KV heads, and keeps the best."""
        shape, out = self.parent.shape, self.layer.self_attn.o_proj
        prior = _joined(out.weight, out.bias)
        merges = candidate_merges(head_options(shape.heads, shape.kv_heads, kv_heads))
        pooled = merges[-1]
        if self.config.start == "puzzle":
            merges = [pooled]
        elif len(merges) > 1:
            merges = promising_merges(merges, self._lost_power(merges))
        fits: dict[HeadMerge, Fitted] = {}
        for merge in merges:
            merged = self._merged(merge)
            sums = self._collect(
                len(prior),
                lambda rows, m=merged: (_ones(self._context(rows.x, m), out.bias), rows.attention),  # type: ignore[misc]
            )
            fits[merge] = self._fit(*sums, prior, prior)
        best = min(merges, key=lambda merge: fits[merge][1].fitted)
        weight, error = fits[best]
        self.errors[key] = LocalError(
            before=fits[pooled][1].before, fitted=error.fitted, ridge=error.ridge
        )
        self._store(key, {**self._merged(best), **_split("self_attn.o_proj", weight, out.bias)})

    def _lost_power(self, merges: Sequence[HeadMerge]) -> torch.Tensor:
        """Returns the power that each new head loses in each merge, unfitted, (merges, heads)."""
        shape = self.parent.shape
        out = self.layer.self_attn.o_proj.weight.T.unflatten(0, (len(merges[0]), -1)).float()
        merged = [self._merged(merge) for merge in merges]

        def lost(rows: Rows) -> torch.Tensor:
            own = self.parent.family.attention_features(self.layer, rows.x, self.rope)
            losses = []
            for tensors in merged:
                change = (self._context(rows.x, tensors) - own).float()
                by_head = change.unflatten(-1, (out.shape[0], -1))
                losses.append(torch.einsum("blhk,hkd->blhd", by_head, out).square().sum((0, 1, 3)))
            return torch.stack(losses)

        assert shape.heads % len(merges[0]) == 0
        return torch.stack([loss for _, loss in self.streams.batches(lost, most=SCREENED)]).sum(0)

    def _merged(self, merge: HeadMerge) -> Tensors:
        state = self.layer.self_attn.state_dict()
        keys = [key for key in state if key.startswith(("k_proj", "v_proj"))]
        head_dim = self.parent.shape.head_dim
        return {f"self_attn.{key}": merge_kv_heads(state[key], merge, head_dim) for key in keys}

    def _context(self, x_BLD: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        query = self.layer.self_attn.q_proj
        return attention_context(
            self.layer.input_layernorm(x_BLD),
            (
                query.weight,
                tensors["self_attn.k_proj.weight"],
                tensors["self_attn.v_proj.weight"],
            ),
            head_dim=self.parent.shape.head_dim,
            rope=self.rope,
            biases=(
                query.bias,
                tensors.get("self_attn.k_proj.bias"),
                tensors.get("self_attn.v_proj.bias"),
            ),
        )

    def attention_output(self, attention: Attention, rows: Rows) -> torch.Tensor:
        """Returns what an attention variant adds to the residual stream, float32."""
        if attention.kind == "none":
            return torch.zeros_like(rows.attention)
        prefix = attention_key(attention) + "/"
        stored = self.tensors.items()
        tensors = {k.removeprefix(prefix): v for k, v in stored if k.startswith(prefix)}
        if not tensors:
            return rows.attention
        if attention.kind == "linear":
            h = self.layer.input_layernorm(rows.x)
            return nn.functional.linear(h, tensors["self_attn.linear_proj.weight"]).float()
        out, bias = tensors["self_attn.o_proj.weight"], tensors.get("self_attn.o_proj.bias")
        return nn.functional.linear(self._context(rows.x, tensors), out, bias).float()

    def _ffns(self, attention: Attention, ffns: Sequence[FFN]) -> None:
        """Fits the FFNs behind one attention, each to return what that attention leaves missing."""
        mlp, width = self.layer.mlp, self.parent.shape.ffn_width
        size = torch.zeros(width, device=self.streams.device)

        def features(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
            added = self.attention_output(attention, rows)
            u = self.layer.post_attention_layernorm(rows.x + added.to(rows.x.dtype))
            phi = mlp.act_fn(mlp.gate_proj(u)) * mlp.up_proj(u)
            return _ones(phi, mlp.down_proj.bias), rows.update - added

        def counted(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
            phi, target = features(rows)
            size.add_(phi[..., :width].abs().float().sum((0, 1)))
            return phi, target

        wide = self._collect(width + (mlp.down_proj.bias is not None), counted)
        power = wide[1].power() if attention == self.own.attention else self._update_power()
        down = _joined(mlp.down_proj.weight, mlp.down_proj.bias)
        order = (size * down[:width].norm(dim=1)).argsort(descending=True)
        for ffn in ffns:
            if ffn.kind == "gated":
                self._gated(attention, ffn, wide, down, order, power)
        if any(ffn.kind == "linear" for ffn in ffns):
            self._linear_ffn(attention, power)
        if any(ffn.kind == "none" for ffn in ffns):
            share = wide[1].power() / max(power, 1e-30)
            self.errors[ffn_key(attention, FFN("none"))] = LocalError(before=share, fitted=share)

    def _update_power(self) -> float:
        powers = self.streams.batches(lambda rows: float(rows.update.square().sum()))
        return sum(power for held_out, power in powers if held_out)

    def _gated(
        self,
        attention: Attention,
        ffn: FFN,
        wide: tuple[Moments, HeldOut],
        down: torch.Tensor,
        order: torch.Tensor,
        power: float,
    ) -> None:
        key = ffn_key(attention, ffn)
        if Block(attention, ffn) == self.own and not self.streams.child:
            self.errors[key] = LocalError(before=0.0, fitted=0.0)
            return
        kept = order[: ffn.width].sort().values
        bias = self.layer.mlp.down_proj.bias
        rows = kept if bias is None else torch.cat([kept, kept.new_tensor([len(order)])])
        train, held_out = wide[0].columns(rows), wide[1].columns(rows)
        weight, self.errors[key] = self._fit(train, held_out, down[rows], down[rows], power)
        self.tensors[f"{key}/channels"] = kept.to(torch.int32)
        self._store(key, _split("mlp.down_proj", weight, bias))

    def _linear_ffn(self, attention: Attention, power: float) -> None:
        mlp, key = self.layer.mlp, ffn_key(attention, FFN("linear"))
        start = (mlp.down_proj.weight.float() @ mlp.up_proj.weight.float()).T

        def features(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
            added = self.attention_output(attention, rows)
            after = rows.x + added.to(rows.x.dtype)
            return self.layer.post_attention_layernorm(after), rows.update - added

        sums = self._collect(len(start), features)
        weight, self.errors[key] = self._fit(*sums, start, torch.zeros_like(start), power)
        self._store(key, {"mlp.linear_proj.weight": weight.T})

    def _collect(
        self, width: int, pair: Callable[[Rows], tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[Moments, HeldOut]:
        """Returns the moments of the fitted windows and the tokens of those held out."""
        train = Moments(width, self.parent.shape.hidden, self.streams.device)
        held_out = HeldOut()
        for late, (phi, target) in self.streams.batches(pair):
            (held_out if late else train).add(phi.flatten(0, 1), target.flatten(0, 1))
        return train, held_out

    def _fit(
        self,
        train: Moments,
        held_out: HeldOut,
        start: torch.Tensor,
        prior: torch.Tensor,
        power: float | None = None,
    ) -> Fitted:
        """Returns a map's weights and error; `start` is the map it is compared with."""
        power = max(held_out.power() if power is None else power, 1e-30)
        before = held_out.error(start) / power
        if self.config.start == "puzzle":
            return start, LocalError(before=before, fitted=before)
        solved = fit(train, held_out, prior, self.config.ridges)
        if before * power < solved.error:
            return start, LocalError(before=before, fitted=before)
        error = LocalError(before=before, fitted=solved.error / power, ridge=solved.ridge)
        return solved.weight, error

    def _store(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.tensors[f"{key}/{name}"] = tensor.to(self.parent.dtype)


def _linear_start(attention: Any, head_dim: int) -> torch.Tensor:
    """Returns W_O W_V, what the attention does if each token attends to itself alone."""
    value = attention.v_proj.weight.float().unflatten(0, (-1, head_dim))
    copies = attention.o_proj.weight.shape[1] // attention.v_proj.weight.shape[0]
    return (attention.o_proj.weight.float() @ value.repeat_interleave(copies, 0).flatten(0, 1)).T


def _joined(weight_DK: torch.Tensor, bias_D: torch.Tensor | None) -> torch.Tensor:
    """Returns a map as (k, d), with its bias as one more row."""
    weight = weight_DK.T.float()
    return weight if bias_D is None else torch.cat([weight, bias_D.float()[None]])


def _split(name: str, weight_KD: torch.Tensor, bias_D: torch.Tensor | None) -> Tensors:
    if bias_D is None:
        return {f"{name}.weight": weight_KD.T}
    return {f"{name}.weight": weight_KD[:-1].T, f"{name}.bias": weight_KD[-1]}


def _ones(phi: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Returns features with a one appended where the map has a bias."""
    return phi if bias is None else torch.cat([phi, torch.ones_like(phi[..., :1])], -1)
