"""export(): a child in the form that a serving engine reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import ExportError
from puzzle.hardware.torch_state import own_torch_state
from puzzle.models.pretrained import load_tokenizer
from puzzle.serving.file_names import CHILD_FILES, CHILDREN, MODEL_FILES
from puzzle.serving.files import copy_legal, copy_tokenizer, save_tokenizer
from puzzle.serving.writers.as_llama import as_llama
from puzzle.serving.writers.gguf import file_bytes, plan_gguf, write_gguf
from puzzle.serving.writers.gguf_tokenizer import (
    Field,
    copied_fields,
    no_tokenizer_fields,
    tokenizer_fields,
)
from puzzle.serving.writers.lowering import require_layout
from puzzle.serving.writers.mlx_openelm import plan_mlx_openelm, write_mlx_openelm
from puzzle.serving.writers.nemotron_nas import plan_nemotron_nas, write_nemotron_nas
from puzzle.serving.writers.plain_checkpoint import plain_config, write_plain
from puzzle.serving.writers.source import Source, open_source, sources_of
from puzzle.storage.disk import require_free
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.publishing import (
    publishing_directory,
    publishing_file,
    require_replaceable,
)
from search_space import ENGINES, Layout
from search_space.engines import engine_named, rewritings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_ENGINES = {"nemotron-nas": "vllm", "gguf": "llama.cpp", "plain": "plain"}
_GGUF_OF_DTYPE = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Args:
        path: What the engine is given: a directory, or a GGUF file.
        engine: The engine it was written for.
        format: "nemotron-nas", "gguf" or "plain".
        layout: The layout as written, after rewriting.
        rewritten: By layer of the child, what was rewritten exactly, and into what.
    """

    path: Path
    engine: str
    format: str
    layout: Layout
    rewritten: Mapping[int, tuple[str, ...]]


@own_torch_state()
def export(
    child: Any,
    directory: str | os.PathLike[str],
    *,
    engine: str | None = None,
    format: str | None = None,
    dtype: str | None = None,
    quantisation: str | None = None,
    tokenizer: Any = None,
    tokenizer_from: str | os.PathLike[str] | None = None,
    pre: str | None = None,
) -> Exported:
    """Writes a child in the form that an unmodified serving engine reads.

    What the engine lacks is rewritten exactly into what it has; `search_space.ENGINES` says what
    it supports. Nothing is written before the child is known to fit.

    Args:
        child: A child or its parent: the model, a `SearchResult`, or a directory of one.
        directory: Where to write. Files that puzzle wrote there before are replaced, and others are
            never; for GGUF, a name that ends in ".gguf" is that file.
        engine: "vllm", "mlx", "tensorrt-llm", "sglang" or "llama.cpp"; or "plain", for all that run
            the parent, where the layers of the child are alike but for those removed whole; by
            default that of the format.
        format: "nemotron-nas" (for vLLM if no engine is named), "gguf" or "plain"; by default that
            of the engine.
        dtype: "float32", "bfloat16" or "float16" of a directory; the child's if not given.
        quantisation: "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1" or "q4_0" for GGUF, or
            one of llama.cpp's mixes of K-quants, for which xllamacpp has to be installed: "q6_k",
            "q5_k_m", "q4_k_m", "q3_k_m" or "q2_k"; the child's own format if not given.
        tokenizer: The tokenizer of a child in memory; by default the files in its directory.
        tokenizer_from: For GGUF, another GGUF (the parent's) whose tokenizer is copied.
        pre: For GGUF, llama.cpp's name of the tokenizer's pre-tokenizer, where not recognised.

    Returns:
        What was written, and what was rewritten on the way.

    Raises:
        ExportError: The engine cannot run the child, an option does not apply to the format, or
            the tokenizer cannot be written; or the child or files of others are in `directory`.
        WorkspaceError: The disk is full or cannot be written.

    Example:
        >>> import puzzle
        >>> puzzle.export("out/child", "out/gguf", engine="llama.cpp",
        ...               quantisation="q8_0")  # doctest: +SKIP
    """
    target, form = _target(engine, format)
    if isinstance(getattr(child, "layout", None), Layout):
        # A search result that does not fit is refused before its child is assembled.
        require_layout(child.layout, target)
    path = user_path(directory)
    refuse_source(path, [*sources_of(child), tokenizer_from], error=ExportError)
    if form != "gguf":
        _require_directory(path, form)
    source = open_source(child, tokenizer=tokenizer)
    if form != "plain":
        source = as_llama(source, target)
    rewritten = rewritings(source.layout, target)
    if form == "gguf":
        kind = _gguf_kind(dtype, quantisation, source)
        path, layout = _export_gguf(source, path, kind, tokenizer_from, pre)
    else:
        if quantisation is not None or tokenizer_from is not None or pre is not None:
            raise ExportError(
                f"quantisation, tokenizer_from and pre are for GGUF; {form} takes dtype"
            )
        if dtype is not None and dtype not in DTYPES:
            raise ExportError(f"dtype={dtype!r}; allowed: {sorted(DTYPES)}")
        layout = _export_directory(source, path, target, DTYPES.get(dtype or ""))
    return Exported(path=path, engine=target, format=form, layout=layout, rewritten=rewritten)


def _target(engine: str | None, format: str | None) -> tuple[str, str]:
    if format is not None and format not in DEFAULT_ENGINES:
        raise ExportError(f"format={format!r}; allowed: {sorted(DEFAULT_ENGINES)}")
    if engine is None and format is None:
        raise ExportError(f"name an engine ({sorted(ENGINES)}) or a format")
    try:
        target = engine_named(engine or DEFAULT_ENGINES[str(format)])
    except ValueError as error:
        raise ExportError(str(error)) from error
    if target.format == "puzzle":
        raise ExportError(
            "transformers reads a child as it is saved: save() of a result, save_pretrained() of a "
            "model. Without puzzle it reads children whose layers are alike, exported for 'plain'"
        )
    if format not in (None, target.format):
        raise ExportError(f"{target.name} reads {target.format}, not {format}; leave format out")
    return target.name, target.format


def _require_directory(path: Path, form: str) -> None:
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        raise ExportError(f"{path} is the name of a GGUF file; {form} is a directory: give one")
    require_replaceable(path, CHILD_FILES, kept=CHILDREN, error=ExportError)


def _gguf_kind(dtype: str | None, quantisation: str | None, source: Source) -> str:
    if dtype is not None:
        raise ExportError("for GGUF, give quantisation ('f32', 'bf16', 'q8_0', ...), not dtype")
    return quantisation or _GGUF_OF_DTYPE[source.dtype]


def _export_directory(
    source: Source, directory: Path, engine: str, dtype: torch.dtype | None
) -> Layout:
    is_qwen3 = engine == "mlx" and source.family.model_types[0] == "qwen3"
    if engine == "plain":
        plain_config(source, dtype or source.dtype)  # refuses what has none
        written = source.layout
    elif is_qwen3:
        written = plan_mlx_openelm(source)
    else:
        written, _ = plan_nemotron_nas(source, engine)
    require_free(directory.parent, written.parameters() * (dtype or source.dtype).itemsize)
    with publishing_directory(directory, claims=MODEL_FILES, error=ExportError) as stage:
        if engine == "plain":
            written = write_plain(source, stage, dtype=dtype)
        elif is_qwen3:
            written = write_mlx_openelm(source, stage, dtype=dtype)
        else:
            written = write_nemotron_nas(source, stage, engine=engine, dtype=dtype)
        _write_companions(source, stage)
    return written


def _write_companions(source: Source, directory: Path) -> None:
    """Writes tokenizer, chat template, generation config, licence and the child's layout."""
    if source.directory is not None:
        copy_legal(source.directory, directory)
    if source.tokenizer is not None:
        save_tokenizer(source.tokenizer, directory)
    elif source.directory is not None:
        copy_tokenizer(source.directory, directory)
    if source.generation_config is not None:
        source.generation_config.save_pretrained(directory)
    source.layout.save(directory / "layout.json")


def _export_gguf(
    source: Source,
    path: Path,
    kind: str,
    tokenizer_from: str | os.PathLike[str] | None,
    pre: str | None,
) -> tuple[Path, Layout]:
    written, _ = plan_gguf(source, kind)
    fields = _gguf_tokenizer(source, tokenizer_from, pre)
    # The tensors are collected on disk before the file is put together.
    require_free(path, 2 * file_bytes(written, kind))
    name = f"model-{kind}.gguf"
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        with publishing_file(path, error=ExportError) as file:
            written = write_gguf(source, file, kind=kind, tokenizer=fields)
        return path, written
    require_replaceable(path, [name], error=ExportError)
    with publishing_directory(path, error=ExportError) as stage:
        written = write_gguf(source, stage / name, kind=kind, tokenizer=fields)
    return path / name, written


def _gguf_tokenizer(
    source: Source, tokenizer_from: str | os.PathLike[str] | None, pre: str | None
) -> list[Field]:
    vocab = source.layout.shape.vocab
    if tokenizer_from is not None:
        return copied_fields(tokenizer_from, vocab)
    tokenizer = source.tokenizer
    directory = source.directory
    if tokenizer is None and directory is not None and any(directory.glob("tokenizer*")):
        tokenizer = load_tokenizer(directory, error=ExportError)
    if tokenizer is None:
        return no_tokenizer_fields()
    return tokenizer_fields(tokenizer, vocab, pre=pre)
