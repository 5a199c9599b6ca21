"""What cannot be searched though it looks like a model: said by name, with what to do instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import ParentError, PuzzleError
from puzzle.storage.json_files import read_object

POINTER = b"version https://git-lfs"
MERGE = (
    "merge it into its base model first: model = model.merge_and_unload(), then "
    "model.save_pretrained(directory), and give that directory"
)
DEQUANTISE = (
    "give the checkpoint that it was made from, in bfloat16, float16 or float32; a child can be "
    "quantised after the search"
)
_COPY = (
    "or write a copy in full weights: model = AutoModelForCausalLM.from_pretrained(directory{}); "
    "{}model.save_pretrained(other), and give that directory"
)
_IN_PLACE = _COPY.format("", "model.dequantize(); ")
_COMPUTED = (
    "search, distill and open_parent compute its full weights where they are given its directory; "
    f"elsewhere {DEQUANTISE}"
)
COMMANDS = {
    "bitsandbytes": f"{DEQUANTISE}; {_IN_PLACE}",
    "compressed-tensors": f"{DEQUANTISE}; "
    + _COPY.format(", quantization_config=CompressedTensorsConfig(run_compressed=False)", ""),
    "fp8": _COMPUTED,
    "mxfp4": _COMPUTED,
}
# Tensor names and number formats of quantised checkpoints.
PACKED = {"qweight", "qzeros", "scales", "weight_scale", "weight_scale_inv", "weight_packed"}
PACKED |= {"absmax", "quant_map", "SCB", "g_idx"}
FLOATS = {"F64", "F32", "BF16", "F16"}
PICKLED = ("*.bin", "*.pt", "*.pth", "consolidated.*.pth")
# What the classes of models end in that classify, score or fill in.
HEADS = (
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    *("ForMaskedLM", "ForMultipleChoice", "ForImageClassification", "RewardModel"),
)
# The largest published models have some hundred layers and rows by the hundred thousand.
MOST = {"num_hidden_layers": 4096}
SIZES = ["hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"]
SIZES += ["vocab_size", "num_hidden_layers", "head_dim"]
LARGEST = 2**24


def refuse_pointer(path: Path) -> None:
    """Raises ParentError if a file is the pointer that Git LFS leaves in place of the file."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(POINTER))
    except OSError:
        return
    if start == POINTER:
        raise ParentError(
            f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}"
        )


def refuse_unsuitable_directory(directory: Path) -> None:
    """Raises ParentError if a directory holds something else than a decoder's weights."""
    for name in ("config.json", "tokenizer.json", "tokenizer.model"):
        refuse_pointer(directory / name)
    for path in directory.glob("*.safetensors"):
        refuse_pointer(path)
    if (directory / "adapter_config.json").is_file():
        raise ParentError(f"{directory} holds a PEFT adapter, not a whole model; {MERGE}")
    if (directory / "modules.json").is_file():
        raise ParentError(
            f"{directory} holds an embedding model (sentence-transformers), which generates no "
            "text; give a causal language model"
        )
    if not (directory / "config.json").is_file():
        raise ParentError(f"{directory} has no config.json; {what_else(directory)}")
    config = _config_file(directory)
    refuse_unsuitable_config(config, str(directory))
    heads = [name for name in config.get("architectures") or () if str(name).endswith(HEADS)]
    if heads:
        raise ParentError(
            f"{directory} holds a {heads[0]}, which generates no text; give the causal language "
            "model that it was made from"
        )


def what_else(directory: Path) -> str:
    """Returns what to do with a directory that holds no safetensors, or no config."""
    ggufs = sorted(path.name for path in directory.glob("*.gguf"))
    if ggufs:
        return f"it holds {ggufs}: give the path of the GGUF file"
    pickles = sorted(path.name for pattern in PICKLED for path in directory.glob(pattern))
    if pickles:
        return (
            f"it holds {pickles[:3]}, and pickled weights are not opened, because they can run "
            "code; load them with transformers where you trust them, and save_pretrained the model"
        )
    return "give a directory that save_pretrained wrote"


def _config_file(directory: Path) -> dict[str, Any]:
    """Returns a directory's config.json, refusing sizes for which memory would run out."""
    path = directory / "config.json"
    config = read_object(path, "a model's config", error=ParentError)
    inner = config.get("text_config")
    for values in (config, inner if isinstance(inner, dict) else {}):
        _refuse_sizes(values, path)
    return config


def _refuse_sizes(config: Mapping[str, Any], path: Path) -> None:
    for name in SIZES:
        size, most = config.get(name), MOST.get(name, LARGEST)
        if size is not None and (
            not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= most
        ):
            raise ParentError(
                f"{path} has {name}={size!r:.100}; allowed: whole numbers from 1 to {most}"
            )


def quantisation_of(config: Mapping[str, Any]) -> str | None:
    """Returns the method by which a config says that its model is quantised, if it is."""
    method = config.get("quantization_config") or config.get("compression_config")
    if not method:
        return None
    get = method.get if isinstance(method, Mapping) else vars(method).get
    kind = get("quant_method") or "an unknown method"
    return str(getattr(kind, "value", kind))


def refuse_unsuitable_config(config: Mapping[str, Any], source: str) -> None:
    """Raises ParentError if a config is of a quantised model or of one that is no decoder."""
    if kind := quantisation_of(config):
        raise ParentError(f"{source} is quantised ({kind}); {COMMANDS.get(kind, DEQUANTISE)}")
    if config.get("is_encoder_decoder"):
        raise ParentError(
            f"{source} is an encoder-decoder ({config.get('model_type')}); give a model that has "
            "a decoder only"
        )


def refuse_unsuitable_tensors(kinds: Mapping[str, str], source: str) -> None:
    """Raises ParentError if tensors are quantised.

    Args:
        kinds: Number format of each, in the words of safetensors, by name.
        source: What they are of.
    """
    for name, kind in kinds.items():
        if kind.startswith("F8_"):
            raise ParentError(f"{source} is quantised to FP8 (tensor {name!r}); {DEQUANTISE}")
        if name.rpartition(".")[2] in PACKED:
            raise ParentError(f"{source} is quantised (tensor {name!r}); {DEQUANTISE}")
        if "lora_" in name:
            raise ParentError(f"{source} holds a LoRA adapter (tensor {name!r}); {MERGE}")
        if kind not in FLOATS and not name.endswith(("position_ids", ".attn.bias")):
            raise ParentError(
                f"{source} has the tensor {name!r} in {kind}; allowed: {sorted(FLOATS)}: "
                f"{DEQUANTISE}"
            )


def refuse_unsuitable_model(model: Any, *, error: type[PuzzleError] = ParentError) -> None:
    """Raises an error if a model in memory cannot be read weight by weight as it computes.

    Args:
        model: The model.
        error: The error to raise.
    """
    try:
        _refuse_unsuitable_model(model)
    except ParentError as problem:
        raise error(str(problem)) from problem


def _refuse_unsuitable_model(model: Any) -> None:
    name = type(model).__name__
    if type(model).__module__.split(".")[0] == "peft" or getattr(model, "peft_config", None):
        raise ParentError(f"{name} has a PEFT adapter; {MERGE}")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ParentError(f"{name} has a PEFT adapter; {MERGE}")
    refuse_unsuitable_config(_config_of(model), name)
    if getattr(model, "is_quantized", False):
        raise ParentError(f"{name} is quantised; {DEQUANTISE}")
    tensors = dict(model.state_dict()) if isinstance(model, torch.nn.Module) else {}
    empty = [key for key, tensor in tensors.items() if tensor.is_meta]
    if empty:
        raise ParentError(
            f"{name} has tensors without values (on the meta device, or offloaded to disk), such "
            f"as {empty[0]!r}; load it without device_map, or give its directory instead"
        )
    refuse_unsuitable_tensors({key: _kind(t.dtype) for key, t in tensors.items()}, name)


def _config_of(model: Any) -> Mapping[str, Any]:
    config = getattr(model, "config", None)
    values: Mapping[str, Any] = config if isinstance(config, Mapping) else vars(config or object)
    return values


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        if dtype.itemsize == 1:
            return "F8_"
        return "BF16" if dtype is torch.bfloat16 else f"F{8 * dtype.itemsize}"
    return str(dtype).removeprefix("torch.")


def refuse_unsuitable_tokenizer(tokenizer: Any, vocab: int) -> None:
    """Raises ParentError if a tokenizer ends texts with a token that the embedding lacks."""
    for kind in ("eos_token", "bos_token"):
        number = getattr(tokenizer, f"{kind}_id", None)
        if isinstance(number, int) and number >= vocab:
            token = getattr(tokenizer, kind, None)
            raise ParentError(
                f"the tokenizer's {kind} {token!r} has the number {number}, and the embedding has "
                f"{vocab} rows, 0 to {vocab - 1}: the token was added and the model was not "
                "resized. Call model.resize_token_embeddings(len(tokenizer)), train and save it, "
                "or give the tokenizer that the model was trained with"
            )


def named(names: Iterable[str]) -> str:
    """Returns a few of many names, for a message."""
    some = sorted(names)
    rest = f" and {len(some) - 4} more" if len(some) > 4 else ""
    return ", ".join(map(repr, some[:4])) + rest
