"""The tokenizer and chat template of a GGUF file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from puzzle.errors import ExportError
from puzzle.models.gguf_header import read_gguf_header
from puzzle.storage.json_files import interpreting
from puzzle.storage.paths import user_path

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# llama.cpp's names of pre-tokenizers for byte-level BPE, by their regular expression.
_BY_PATTERN = {
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"\p{N}" + _REST: "qwen2",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Field:
    """A value of a GGUF's header, with its type; arrays have their elements' type too."""

    key: str
    value: Any
    kind: Any
    element: Any = None


def copied_fields(gguf_file: str | os.PathLike[str], vocab: int) -> list[Field]:
    """Returns the tokenizer's fields of another GGUF, such as the parent's.

    Args:
        gguf_file: The file.
        vocab: Rows of the child's embedding.

    Raises:
        ExportError: There is no such file, it has no tokenizer, or one of another size.
    """
    from gguf import GGUFReader

    gguf_file = user_path(gguf_file)
    if not gguf_file.is_file():
        raise ExportError(f"tokenizer_from={str(gguf_file)!r} is not a file; give a GGUF")
    fields = []
    with interpreting(gguf_file, "a GGUF file", ExportError):
        read_gguf_header(gguf_file)  # in bounded memory, whatever its counts are
        for key, field in GGUFReader(os.fspath(gguf_file)).fields.items():
            if key.startswith("tokenizer."):
                kinds = [*field.types, None]
                fields.append(Field(key, field.contents(), kinds[0], kinds[1]))
    tokens: Any = [field.value for field in fields if field.key == "tokenizer.ggml.tokens"]
    tokens = tokens[0] if tokens else []
    if len(tokens) != vocab:
        raise ExportError(
            f"{gguf_file} has a tokenizer of {len(tokens)} tokens; the child has {vocab}. Give the "
            "GGUF of its own parent"
        )
    return fields


def tokenizer_fields(tokenizer: Any, vocab: int, *, pre: str | None = None) -> list[Field]:
    """Returns a tokenizer's fields.

    Args:
        tokenizer: A fast transformers tokenizer of byte-level BPE.
        vocab: Rows of the embedding; the tokenizer may have fewer tokens.
        pre: llama.cpp's name of the pre-tokenizer, where it is not recognised.

    Raises:
        ExportError: It is of another kind, or its pre-tokenizer is unknown.
    """
    from gguf import GGUFValueType as Kind

    backend = _backend(tokenizer)
    if len(tokenizer) > vocab:
        raise ExportError(
            f"the tokenizer has {len(tokenizer)} tokens for an embedding of {vocab} rows; give the "
            "tokenizer of the child's parent"
        )
    tokens, types = _tokens(tokenizer, backend, vocab)
    merges = [m if isinstance(m, str) else " ".join(m) for m in backend["model"]["merges"]]
    fields = [
        Field("tokenizer.ggml.model", "gpt2", Kind.STRING),
        Field("tokenizer.ggml.pre", pre or _pre_tokenizer(backend["pre_tokenizer"]), Kind.STRING),
        Field("tokenizer.ggml.tokens", tokens, Kind.ARRAY, Kind.STRING),
        Field("tokenizer.ggml.token_type", types, Kind.ARRAY, Kind.INT32),
        Field("tokenizer.ggml.merges", merges, Kind.ARRAY, Kind.STRING),
    ]
    fields += [Field(k, v, Kind.UINT32) for k, v in _special_ids(tokenizer)]
    adds_bos = tokenizer.bos_token_id in tokenizer("a")["input_ids"][:1]
    fields.append(Field("tokenizer.ggml.add_bos_token", adds_bos, Kind.BOOL))
    fields += _templates(tokenizer.chat_template)
    return fields


def _templates(template: Any) -> list[Field]:
    """Returns the fields of a chat template, or of several by name as llama.cpp reads them."""
    from gguf import GGUFValueType as Kind

    named = dict(template) if isinstance(template, Mapping) else {"default": template}
    default = named.pop("default", None)
    fields = [] if default is None else [Field("tokenizer.chat_template", default, Kind.STRING)]
    # The names of keys, as gguf writes them.
    named = {re.sub(r"[^A-Za-z0-9]", "_", name): text for name, text in named.items()}
    fields += [Field(f"tokenizer.chat_template.{n}", t, Kind.STRING) for n, t in named.items()]
    if named:
        fields.append(Field("tokenizer.chat_templates", sorted(named), Kind.ARRAY, Kind.STRING))
    return fields


def no_tokenizer_fields() -> list[Field]:
    """Returns the fields of a model without a tokenizer, which then takes and returns token ids."""
    from gguf import GGUFValueType as Kind

    return [Field("tokenizer.ggml.model", "none", Kind.STRING)]


def _backend(tokenizer: Any) -> Mapping[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    values = json.loads(backend.to_str()) if backend is not None else {}
    byte_level = values.get("model", {}).get("type") == "BPE" and any(
        part.get("type") == "ByteLevel" for part in _parts(values.get("pre_tokenizer"))
    )
    if not byte_level:
        raise ExportError(
            f"{type(tokenizer).__name__} is not a byte-level BPE tokenizer, the only kind written "
            "from transformers; pass tokenizer_from=, a GGUF of the parent, to copy its tokenizer"
        )
    return values


def _parts(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    return list(pre_tokenizer.get("pretokenizers", [pre_tokenizer]))


def _pre_tokenizer(pre_tokenizer: Mapping[str, Any]) -> str:
    """Returns llama.cpp's name of a pre-tokenizer."""
    parts = _parts(pre_tokenizer)
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = parts[0]["pattern"].get("Regex", "")
        if pattern in _BY_PATTERN:
            return _BY_PATTERN[pattern]
    raise ExportError(
        f"the pre-tokenizer of this tokenizer ({' + '.join(kinds)}) is not recognised; pass "
        "tokenizer_from=, a GGUF of the parent, or pre=, llama.cpp's name for it"
    )


def _tokens(tokenizer: Any, backend: Mapping[str, Any], vocab: int) -> tuple[list[str], list[int]]:
    added = {token["id"]: token for token in backend.get("added_tokens", [])}
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for index in range(vocab):
        tokens.append(by_id.get(index, f"[PAD{index}]"))
        if index not in by_id:
            types.append(_UNUSED)
        elif index in added:
            types.append(_CONTROL if added[index]["special"] else _USER_DEFINED)
        else:
            types.append(_NORMAL)
    return tokens, types


def _special_ids(tokenizer: Any) -> Iterator[tuple[str, int]]:
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for written, name in names.items():
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None:
            yield f"tokenizer.ggml.{written}_token_id", index
