"""One layer's variants: initialised from the parent and fitted in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from puzzle.library.attention import kv_head_choices, merge_kv_heads
from puzzle.library.fit import Moments, fit
from puzzle.parents import Parent
from puzzle.parents.llama import attention_context
from search_space import FFN, Attention, Block

BATCH = 4
HELD_OUT = 0.25
Tensors = dict[str, torch.Tensor]


class LayerFit:
    """Builds every variant of one layer from the parent's activations that enter it.

    Args:
        parent: The parent.
        index: The layer.
        layer: The parent's layer, loaded.
        x_BLD: Residual stream entering the layer, (windows, length, hidden).
    """

    def __init__(self, parent: Parent, index: int, layer: nn.Module, x_BLD: torch.Tensor) -> None:
        self.parent, self.index, self.x = parent, index, x_BLD
        self.layer: Any = layer
        self.rope = parent.rope(x_BLD.shape[1])
        self.first_held_out = max(1, round(x_BLD.shape[0] * (1 - HELD_OUT)))
        self.tensors: Tensors = {}
        self.errors: dict[str, float] = {}

    def batches(self) -> Iterator[tuple[torch.Tensor, int]]:
        """Yields (residual stream, 0 for fitted or 1 for held-out windows)."""
        for part, chunk in enumerate(self.x.tensor_split([self.first_held_out])):
            for x in chunk.split(BATCH):
                yield x, part

    def build(self, attentions: tuple[Attention, ...], ffns: tuple[FFN, ...]) -> None:
        """Fits all variants into `tensors` and their held-out block errors into `errors`.

        An error is the share of the power of the parent layer's update that the block misses.
        """
        own = self.parent.shape.parent_block
        for attention in attentions:
            if attention != own.attention and attention.kind != "none":
                self._fit_attention(attention)
        for attention in attentions:
            self._fit_ffns(attention, ffns)

    def _fit_attention(self, attention: Attention) -> None:
        own: Any = self.layer.self_attn
        shape = self.parent.shape
        if attention.kind == "linear":
            ways: list[Tensors] = [{}]
            prior = torch.zeros(shape.hidden, shape.hidden)
        else:
            choices = kv_head_choices(shape.heads, shape.kv_heads, attention.kv_heads or 1)
            ways = [self._merged(way) for way in choices]
            prior = own.o_proj.weight.T
        moments = [[Moments(prior.shape[0], shape.hidden) for _ in range(2)] for _ in ways]
        for x, part in self.batches():
            h = self.layer.input_layernorm(x)
            target = own.o_proj(self.parent.family.attention_features(self.layer, x, self.rope))
            if own.o_proj.bias is not None and attention.kind == "gqa":
                target = target - own.o_proj.bias
            for way, sums in zip(ways, moments, strict=True):
                phi = h if attention.kind == "linear" else self._context(h, way)
                sums[part].add(phi.flatten(0, 1), target.flatten(0, 1))
        fits = [fit(train, held_out, prior) for train, held_out in moments]
        best = min(range(len(ways)), key=lambda way: fits[way].error)
        name = "linear_proj" if attention.kind == "linear" else "o_proj"
        found = {**ways[best], f"self_attn.{name}.weight": fits[best].weight.T}
        if own.o_proj.bias is not None and attention.kind == "gqa":
            found["self_attn.o_proj.bias"] = own.o_proj.bias
        for key, value in found.items():
            self.tensors[f"attention/{attention.label}/{key}"] = value.to(self.parent.dtype)

    def _merged(self, way: list[tuple[int, ...]]) -> Tensors:
        state = self.layer.self_attn.state_dict()
        keys = [key for key in state if key.startswith(("k_proj", "v_proj"))]
        head_dim = self.parent.shape.head_dim
        return {f"self_attn.{key}": merge_kv_heads(state[key], way, head_dim) for key in keys}

    def _context(self, h_BLD: torch.Tensor, way: Mapping[str, torch.Tensor]) -> torch.Tensor:
        query = self.layer.self_attn.q_proj
        return attention_context(
            h_BLD,
            query.weight,
            way["self_attn.k_proj.weight"],
            way["self_attn.v_proj.weight"],
            head_dim=self.parent.shape.head_dim,
            rope=self.rope,
            biases=(
                query.bias,
                way.get("self_attn.k_proj.bias"),
                way.get("self_attn.v_proj.bias"),
            ),
        )

    def after_attention(self, attention: Attention, x_BLD: torch.Tensor) -> torch.Tensor:
        """Returns the residual stream after an attention variant."""
        if attention.kind == "none":
            return x_BLD
        h = self.layer.input_layernorm(x_BLD)
        own: Any = self.layer.self_attn
        if attention == self.parent.shape.parent_block.attention:
            features = self.parent.family.attention_features(self.layer, x_BLD, self.rope)
            return x_BLD + own.o_proj(features)
        prefix = f"attention/{attention.label}/"
        found = {k.removeprefix(prefix): v for k, v in self.tensors.items() if prefix in k}
        if attention.kind == "linear":
            return x_BLD + h @ found["self_attn.linear_proj.weight"].T
        out, bias = found["self_attn.o_proj.weight"], found.get("self_attn.o_proj.bias")
        return x_BLD + nn.functional.linear(self._context(h, found), out, bias)

    def _fit_ffns(self, attention: Attention, ffns: tuple[FFN, ...]) -> None:
        """Fits the FFNs that go with one attention, so that each returns y - (x + attention)."""
        shape, mlp = self.parent.shape, self.layer.mlp
        wide = [Moments(shape.ffn_width, shape.hidden) for _ in range(2)]
        flat = [Moments(shape.hidden, shape.hidden) for _ in range(2)]
        power = missing = 0.0
        size = torch.zeros(shape.ffn_width)
        bias = mlp.down_proj.bias
        for x, part in self.batches():
            after = self.after_attention(attention, x)
            u = self.layer.post_attention_layernorm(after)
            phi = mlp.act_fn(mlp.gate_proj(u)) * mlp.up_proj(u)
            y = self.parent.run(self.layer, x)
            target = y.float() - after.float()
            wide[part].add(
                phi.flatten(0, 1), (target if bias is None else target - bias).flatten(0, 1)
            )
            if any(ffn.kind == "linear" for ffn in ffns):
                flat[part].add(u.flatten(0, 1), target.flatten(0, 1))
            size += phi.abs().float().flatten(0, 1).sum(0)
            if part:
                power += float((y.float() - x.float()).square().sum())
                missing += float(target.square().sum())
        down = mlp.down_proj.weight.T.float()
        order = (size * down.norm(dim=1)).argsort(descending=True)
        for ffn in ffns:
            label = Block(attention, ffn).label
            error = self._fit_ffn(attention, ffn, wide, flat, down, order, missing)
            self.errors[label] = error / max(power, 1e-30)

    def _fit_ffn(
        self,
        attention: Attention,
        ffn: FFN,
        wide: list[Moments],
        flat: list[Moments],
        down: torch.Tensor,
        order: torch.Tensor,
        missing: float,
    ) -> float:
        """Stores one FFN and returns its squared error on held-out tokens."""
        if Block(attention, ffn) == self.parent.shape.parent_block:
            return 0.0
        if ffn.kind == "none":
            return missing
        prefix = f"ffn/{attention.label}/{ffn.label}/"
        if ffn.kind == "linear":
            found = fit(flat[0], flat[1], torch.zeros_like(flat[0].cross))
            weight = found.weight.T.to(self.parent.dtype)
            self.tensors[f"{prefix}mlp.linear_proj.weight"] = weight
            return found.error
        kept = order[: ffn.width].sort().values
        found = fit(wide[0].columns(kept), wide[1].columns(kept), down[kept])
        self.tensors[f"{prefix}channels"] = kept.to(torch.int32)
        self.tensors[f"{prefix}mlp.down_proj.weight"] = found.weight.T.to(self.parent.dtype)
        return found.error
