"""The mask of an attention that is run alone, without a cache and without padding."""

from __future__ import annotations

import torch


def attention_mask(
    x_BLD: torch.Tensor, window: int | None, implementation: str
) -> torch.Tensor | None:
    """Returns a causal mask as an implementation takes it; None where it is causal by itself.

    Args:
        x_BLD: The residual stream.
        window: Tokens that each attends to at most; None for all before it.
        implementation: "sdpa" or "eager".
    """
    length = x_BLD.shape[1]
    windowed = window is not None and length > window
    if implementation == "sdpa" and not windowed:
        return None
    at = torch.arange(length, device=x_BLD.device)
    seen_LL = at[:, None] >= at
    if window is not None:
        seen_LL = seen_LL & (at[:, None] - at < window)
    if implementation == "sdpa":
        return seen_LL[None, None]
    mask_LL = x_BLD.new_zeros(length, length)
    return mask_LL.masked_fill(~seen_LL, torch.finfo(x_BLD.dtype).min)[None, None]
