"""The header of a GGUF file, read with bounds, and what of it transformers would leave out.

transformers reads a list of fields and of tensors and drops the rest. What is dropped changes the
model, so it is carried here, or the file is refused.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puzzle.errors import ParentError
from puzzle.models.unsuitable import named, refuse_pointer

MAGIC = b"GGUF"
MOST_FIELDS, MOST_TENSORS, MOST_DIMENSIONS = 2**16, 2**18, 8
# A name that is longer is damage; values, such as chat templates, may be.
MOST_NAME = 2**12
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
SCALARS |= {12: "d"}
STRING, ARRAY = 8, 9
# Fields of the architecture that are read, or that change nothing in these values.
READ = {"context_length", "block_count", "embedding_length", "feed_forward_length", "vocab_size"}
READ |= {"rope.dimension_count", "rope.freq_base", "attention.head_count"}
READ |= {"attention.head_count_kv", "attention.layer_norm_rms_epsilon"}
READ |= {"attention.key_length", "attention.value_length", "rope.scaling.type"}
READ |= {"rope.scaling.factor", "rope.scale_linear", "rope.scaling.original_context_length"}
READ |= {"rope.scaling.finetuned", "tensor_data_layout"}
HARMLESS = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "leading_dense_block_count": 0,
}
FACTORS = "rope_freqs.weight"
PARTS = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArchitecture:
    """What transformers reads of an architecture.

    Args:
        read: Fields beside those of all architectures.
        parts: Tensors of a layer beside those of a Llama.
        outer: Tensors outside the layers, beside embedding, head and final norm.
        equal: Fields that must have a value, which is not read but taken for granted.
    """

    read: frozenset[str] = frozenset()
    parts: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()
    equal: Mapping[str, Any] = field(default_factory=dict)

    def knows(self, tensor: str) -> bool:
        """Returns whether a tensor is read."""
        part = "|".join((*PARTS, *self.parts))
        outer = "|".join(map(re.escape, self.outer)) or "$^"
        pattern = rf"(token_embd|output|output_norm)\.weight|blk\.\d+\.({part})\.weight|{outer}"
        return re.fullmatch(pattern, tensor) is not None


ARCHITECTURES = {
    "llama": GgufArchitecture(outer=(FACTORS,)),
    "gemma3": GgufArchitecture(
        read=frozenset({"attention.sliding_window"}),
        parts=("attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"),
        # The 27B divides its scores by something else than the root of this, and no field says so.
        equal={"attention.key_length": 256},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Args:
        shape: Its shape, as torch has it.
        kind: The number of its format.
        offset: Where its bytes are.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Args:
        path: The file.
        fields: Numbers and strings by name; of an array, its length and its first values.
        tensors: Its tensors by name.
    """

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """The architecture, such as "llama"."""
        return str(self.fields.get("general.architecture", ""))

    def of_architecture(self) -> dict[str, Any]:
        """Returns the fields of the architecture, without its name in front."""
        start = self.architecture + "."
        return {k.removeprefix(start): v for k, v in self.fields.items() if k.startswith(start)}


class _Cursor:
    """Reads values one after the other, none of them beyond the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError(f"{size} bytes are wanted at {self.at} of {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize(letter)))[0]

    def count(self, most: int, what: str) -> int:
        number = int(self.number("Q"))
        if number > most:
            raise ValueError(f"{number} {what}; at most {most} are read")
        return number

    def text(self, most: int) -> str:
        return self.take(self.count(most, "bytes of text")).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text(len(self.data))
        if kind != ARRAY or depth > 2:
            raise ValueError(f"a field of the unknown type {kind}")
        item = int(self.number("I"))
        size = struct.calcsize(SCALARS[item]) if item in SCALARS else 8
        length = self.count((len(self.data) - self.at) // size, "items")
        kept: list[Any] = []
        if item in SCALARS:
            values = struct.unpack(f"<{length}{SCALARS[item]}", self.take(length * size))
            return list(values[:4096])
        # Each item is read to reach the next one; few are kept.
        for number in range(length):
            value = self.value(item, depth + 1)
            if number < 64:
                kept.append(value)
        return kept


def read_gguf_header(path: Path) -> GgufHeader:
    """Returns the header of a GGUF file; no tensor is read.

    Raises:
        ParentError: It is no GGUF file, or it is cut short or malformed.
    """
    refuse_pointer(path)
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(path, _Cursor(data))
    except ParentError:
        raise
    except (OSError, ValueError, KeyError, struct.error, MemoryError, OverflowError) as error:
        raise ParentError(
            f"{path} is no GGUF file, or it is damaged or cut short ({error}); download it again"
        ) from error


def _read(path: Path, cursor: _Cursor) -> GgufHeader:
    if cursor.take(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        raise ValueError(f"version {version}; versions 2 and 3 are read, little-endian")
    tensors = cursor.count(MOST_TENSORS, "tensors")
    fields = {}
    for _ in range(cursor.count(MOST_FIELDS, "fields")):
        name = cursor.text(MOST_NAME)
        fields[name] = cursor.value(cursor.number("I"))
    entries = [_entry(cursor) for _ in range(tensors)]
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
        raise ValueError(f"general.alignment is {alignment!r:.50}")
    start = -(-cursor.at // alignment) * alignment
    placed = {}
    for name, tensor in entries:
        if name in placed:
            raise ValueError(f"the tensor {name!r} is there twice")
        end = start + tensor.offset + _bytes(tensor)
        if end > len(cursor.data):
            raise ValueError(f"the tensor {name!r} ends at {end} of {len(cursor.data)} bytes")
        placed[name] = GgufTensor(
            shape=tensor.shape, kind=tensor.kind, offset=start + tensor.offset
        )
    return GgufHeader(path=path, fields=fields, tensors=placed)


def _entry(cursor: _Cursor) -> tuple[str, GgufTensor]:
    name = cursor.text(MOST_NAME)
    count = int(cursor.number("I"))
    if count > MOST_DIMENSIONS:
        raise ValueError(f"the tensor {name!r} has {count} dimensions")
    shape = tuple(int(cursor.number("Q")) for _ in range(count))[::-1]
    kind, offset = int(cursor.number("I")), int(cursor.number("Q"))
    return name, GgufTensor(shape=shape, kind=kind, offset=offset)


def _bytes(tensor: GgufTensor) -> int:
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise ParentError(
            "reading GGUF files needs the package gguf; run: pip install 'puzzle-nas[gguf]'"
        ) from error
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
    elements = 1
    for length in tensor.shape:
        elements *= length
    return elements // block * size


def refuse_left_out(header: GgufHeader) -> None:
    """Raises ParentError if transformers would leave out a part of the model in the file."""
    path, fields = header.path, header.of_architecture()
    parts = header.fields.get("split.count", 1)
    if parts not in (0, 1):
        number = header.fields.get("split.no", 0)
        raise ParentError(
            f"{path} is part {number + 1 if isinstance(number, int) else '?'} of {parts} of a "
            "split GGUF; join the parts first: llama-gguf-split --merge FIRST-PART WHOLE.gguf"
        )
    architecture = ARCHITECTURES.get(header.architecture)
    if architecture is None:
        raise ParentError(
            f"{path} is of the architecture {header.architecture!r:.80}; known: "
            f"{named(ARCHITECTURES)}; give the model in Hugging Face format"
        )
    lists = [name for name, value in fields.items() if isinstance(value, list)]
    if lists:
        raise ParentError(
            f"{path} has layers that differ ({named(lists)}), as a child has; give the directory "
            "that it was exported from"
        )
    read = READ | architecture.read
    odd = {
        k for k, v in fields.items() if k not in read and not (k in HARMLESS and v == HARMLESS[k])
    }
    odd |= {k for k, value in architecture.equal.items() if fields.get(k) != value}
    if odd:
        raise ParentError(
            f"{path} has the fields {named(odd)}, which may change what the model computes and "
            "are not understood; give the model in Hugging Face format"
        )
    lengths = {fields.get(f"attention.{name}_length") for name in ("key", "value")} - {None}
    heads, hidden = fields.get("attention.head_count"), fields.get("embedding_length")
    rotary = hidden // heads if hidden and heads else None
    if header.architecture != "llama":
        rotary = fields.get("attention.key_length", rotary)
    rotary = fields.get("rope.dimension_count", rotary)
    if lengths - {rotary}:
        raise ParentError(
            f"{path} rotates {rotary} of {named(map(str, lengths))} channels per head; allowed: all"
        )
    unknown = {name for name in header.tensors if not architecture.knows(name)}
    if unknown:
        raise ParentError(
            f"{path} has the tensors {named(unknown)}, which transformers would leave out; give "
            "the model in Hugging Face format"
        )


def carried_rope(header: GgufHeader, config: Any) -> dict[str, Any]:
    """Returns the rotary parameters of a GGUF file's model, scaling included.

    Args:
        header: The file's header.
        config: What transformers makes of the file, which has no scaling.

    Raises:
        ParentError: The scaling cannot be stated in a config.
    """
    fields, rope = header.of_architecture(), dict(config.rope_parameters)
    kind = str(fields.get("rope.scaling.type", "none"))
    factor = fields.get("rope.scaling.factor", fields.get("rope.scale_linear", 1.0))
    if "rope.scaling.type" not in fields and factor not in (0, 1):
        kind = "linear"
    if FACTORS in header.tensors:
        if kind not in ("none", "") and factor not in (0, 1):
            raise ParentError(f"{header.path} scales its rotary embedding twice, by {FACTORS} too")
        return _llama3(header, config)
    if kind in ("none", "") or factor in (0, 1):
        return rope
    if kind == "linear" and isinstance(factor, int | float):
        scaling = {"rope_type": "linear", "factor": float(factor)}
        if "full_attention" in rope:  # by the type of a layer; windows are short, and not scaled
            return {**rope, "full_attention": {**rope["full_attention"], **scaling}}
        return {**rope, **scaling}
    raise ParentError(
        f"{header.path} scales its rotary embedding by {kind!r:.40} (factor {factor!r:.40}); "
        "allowed: 'none', 'linear', and the factors of Llama 3. Give the model in Hugging Face "
        "format"
    )


def _llama3(header: GgufHeader, config: Any) -> dict[str, Any]:
    """Returns Llama 3's parameters whose factors are those in the file.

    A file has the factors only. The largest is that of the slowest frequencies; the context that
    the model was trained for first is 8192 in all Llama 3 models, and is tried beside others.
    """
    factors, theta = _factors(header), config.rope_parameters["rope_theta"]
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    for length in (8192, *(2**n for n in range(4, 21))):
        rope = {"rope_type": "llama3", "rope_theta": theta, "factor": float(factors.max())}
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"original_max_position_embeddings": length}
        expected = _llama3_factors(theta**-exponents, rope)
        if factors.shape == expected.shape and torch.allclose(expected, factors, rtol=1e-4):
            return rope
    raise ParentError(
        f"{header.path} scales its rotary frequencies by {FACTORS}, not as Llama 3 does; give the "
        "model in Hugging Face format, whose config says how"
    )


def _llama3_factors(frequencies: torch.Tensor, rope: Mapping[str, Any]) -> torch.Tensor:
    """Returns by how much Llama 3 divides each rotary frequency."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = frequencies * rope["original_max_position_embeddings"] / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - share) / rope["factor"] + share)


def _factors(header: GgufHeader) -> torch.Tensor:
    tensor = header.tensors[FACTORS]
    if tensor.kind != 0:
        raise ParentError(f"{header.path} has {FACTORS} in format {tensor.kind}; allowed: float32")
    count = int(np.prod(tensor.shape))
    values = np.fromfile(header.path, dtype="<f4", count=count, offset=tensor.offset)
    return torch.from_numpy(values)
