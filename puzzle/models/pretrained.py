"""All that is read through transformers: never pickled, and no code of a repository is run.

Left to its defaults, transformers asks on the terminal whether code of a repository may run, and
takes a line that is piped in for the answer. Here the answer is always given: no, unless the
caller of a public function said `trust_remote_code=True`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    modeling_gguf_pytorch_utils,
)
from transformers.utils.quantization_config import GgufConfig

from puzzle.errors import ParentError, PuzzleError
from puzzle.models.child_config import PuzzleConfig
from puzzle.models.families import FAMILIES, family_of
from puzzle.models.gguf_header import carried_rope, read_gguf_header, refuse_left_out
from puzzle.models.gguf_reading import files_read_once
from puzzle.models.nas_checkpoints import KEY_MAPPING, is_nemotron_nas, nemotron_nas_config
from puzzle.models.unsuitable import named, refuse_unsuitable_directory
from puzzle.models.wrappers import text_config
from puzzle.progress.foreign_bars import bars_of
from puzzle.storage.json_files import read_object
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import require_unchanged

Source = str | os.PathLike[str]


def load_config(
    source: Source, *, trust_remote_code: bool = False, error: type[PuzzleError] = ParentError
) -> Any:
    """Returns the transformers config of a model; of one that holds a decoder, the decoder's.

    Args:
        source: A model directory, a GGUF file or a hub id.
        trust_remote_code: Whether code of the repository may run.
        error: The error to raise.

    Raises:
        PuzzleError: The class given as `error`; it names the source.
    """
    place, options = _located(source)
    header = None
    with _reading("config", source, error):
        if options:
            header = read_gguf_header(user_path(source))
            refuse_left_out(header)
        elif user_path(source).is_dir():
            refuse_unsuitable_directory(user_path(source))
            require_unchanged(user_path(source), (".safetensors", ".index.json"), error=error)
            if (given := _given_child(source)) is not None:
                return given
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code, **options)
        if header is not None:
            config.rope_parameters = carried_rope(header, config)
    return text_config(config)


def load_tokenizer(
    source: Source, *, trust_remote_code: bool = False, error: type[PuzzleError] = ParentError
) -> Any:
    """Returns the tokenizer of a model; as `load_config`."""
    place, options = _located(source)
    with _reading("tokenizer", source, error):
        if (given := _given_child(source)) is not None:
            options["config"] = given  # that of the file would need the code beside it
        return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code, **options)


def load_generation_config(directory: Source, *, error: type[PuzzleError] = ParentError) -> Any:
    """Returns the generation config in a directory; as `load_config`."""
    with _reading("generation config", directory, error):
        return GenerationConfig.from_pretrained(directory, trust_remote_code=False)


def load_model(
    source: Source,
    *,
    dtype: torch.dtype | str = "auto",
    error: type[PuzzleError] = ParentError,
) -> Any:
    """Returns a model in evaluation mode, read from safetensors or a GGUF file.

    Args:
        source: A model directory, a GGUF file or a hub id.
        dtype: Number format; by default the one it is stored in.
        error: The error to raise.

    Raises:
        PuzzleError: The class given as `error`; it names the source, and tensors that the source
            lacks, which transformers would fill with random numbers.
    """
    place, options = _located(source)
    config = load_config(source, error=error)
    if options:
        options["quantization_config"] = GgufConfig(dequantize=True)
    if isinstance(config, PuzzleConfig):
        options["key_mapping"] = KEY_MAPPING
    with _reading("model", source, error), bars_of(modeling_gguf_pytorch_utils):
        model, report = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    if report["missing_keys"]:
        raise error(
            f"{str(source)!r} lacks the tensors {named(report['missing_keys'])}, which its config "
            "asks for: save or download the model again"
        )
    if "gguf_file" in options:
        # Left in, it would make a saved copy claim to be quantised.
        model.config.__dict__.pop("quantization_config", None)
    return model.eval()


def load_dequantised(directory: Path, method: Any, *, dtype: torch.dtype) -> Any:
    """Returns a quantised model in full weights.

    Args:
        directory: The model.
        method: The transformers config of its quantisation, which says that it is undone.
        dtype: Number format of the full weights.

    Raises:
        ParentError: Its family is unknown, or tensors are missing.
    """
    family_of(text_config(AutoConfig.from_pretrained(str(directory), trust_remote_code=False)))
    model, report = AutoModelForCausalLM.from_pretrained(
        str(directory),
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        quantization_config=method,
    )
    if lacking := {*report["missing_keys"], *map(str, report["mismatched_keys"])}:
        raise ParentError(f"{directory} lacks the tensors {named(lacking)}")
    return model.eval()


def _given_child(source: Source) -> PuzzleConfig | None:
    """Returns the config of a directory whose format is read here and not by transformers."""
    file = user_path(source) / "config.json"
    config = read_object(file, "a model's config", error=ParentError) if file.is_file() else {}
    return nemotron_nas_config(config, file.parent) if is_nemotron_nas(config) else None


def _located(source: Source) -> tuple[str, dict[str, Any]]:
    """Returns what transformers is given for a source: a directory or hub id, and options."""
    path = user_path(source)
    if path.suffix == ".gguf" and not path.is_dir():
        return str(path.parent), {"gguf_file": path.name}
    return str(path) if path.is_dir() else os.fspath(source), {}


@contextmanager
def _reading(what: str, source: Source, error: type[PuzzleError]) -> Iterator[None]:
    """Turns whatever a file makes transformers raise into one error that names the source."""
    try:
        with files_read_once() if user_path(source).suffix == ".gguf" else nullcontext():
            yield
    except PuzzleError as problem:
        if isinstance(problem, error):
            raise
        raise error(str(problem)) from problem
    except Exception as problem:
        raise error(
            f"the {what} of {str(source)!r} cannot be read: {_reason(problem)}"
        ) from problem


def _reason(problem: Exception) -> str:
    said = " ".join(str(problem).split()) or type(problem).__name__
    if "trust_remote_code" in said:
        return (
            "it needs Python code from its repository, which puzzle does not run. Use a model "
            "whose class is part of transformers, or convert it to one; "
            "puzzle.models.open_parent(..., trust_remote_code=True) allows the code of a parent"
        )
    if unknown := re.search(r"has model type `(.*?)` but", said):
        return (
            f"its model_type {unknown[1]!r} is unknown to transformers {transformers.__version__}, "
            f"which a newer one may know; families that are searched: {sorted(FAMILIES)}"
        )
    if isinstance(problem, KeyError):
        return f"{said} is missing"
    return said
