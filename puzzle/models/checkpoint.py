"""A model directory opened as transformers opens it, and compared with its config at once."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from puzzle.errors import ParentError
from puzzle.models.families import FAMILIES
from puzzle.models.family_sizes import require_known_names
from puzzle.models.nas_checkpoints import child_name
from puzzle.models.shards import Shards
from puzzle.models.unsuitable import named, refuse_unsuitable_tensors
from puzzle.models.watched_files import WatchedFiles
from puzzle.models.wrappers import text_config, text_names

logger = logging.getLogger(__name__)
# Old checkpoints have this buffer in every layer; transformers computes it from the config.
LEFT_OVER = r"rotary_emb\.inv_freq$"
IN_A_LAYER = re.compile(r"(^|\.)layers\.\d+\.")


def open_checkpoint(
    directory: Path, config: Any, *, watched: WatchedFiles | None = None
) -> tuple[Any, Shards]:
    """Opens the weights of a model directory under the names that the model has for them.

    Args:
        directory: The model.
        config: Its config.
        watched: Its files, as they were when their content was hashed.

    Returns:
        The config, which says that embedding and head are not tied where the file has two
        different ones, and the weights.

    Raises:
        ParentError: The weights are quantised, or tensors are missing, of another shape, or more
            than the layers have; they are named.
    """
    shards = whole_experts(Shards(directory, watched), config)
    kinds = {name: tensor.kind for name, tensor in shards.stored.items()}
    refuse_unsuitable_tensors({n: k for n, k in kinds.items() if not _left_over(n)}, str(directory))
    model = _empty(config, str(directory))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names, rest = _resolve(expected, shards.stored, model.base_model_prefix)
    _refuse_unexpected(rest, model, directory)
    ties = dict(model.all_tied_weights_keys)
    for one, other in (*ties.items(), *((b, a) for a, b in ties.items())):
        if one not in names and other in names:
            names[one] = names[other]
    missing = sorted(set(expected) - set(names))
    if missing:
        raise ParentError(
            f"{directory} lacks the tensors {named(missing)}, which its config asks for; "
            "transformers would fill them with random numbers: save or download the model again"
        )
    _refuse_other_shapes(expected, names, shards, directory)
    shards = shards.renamed(names)
    if any(not _equal(shards, one, other) for one, other in ties.items()):
        config = copy.deepcopy(config)
        config.tie_word_embeddings = False
        logger.warning(
            "%s: the config ties embedding and head, but the file has two different ones, which "
            "are used as they are, as transformers does",
            directory,
        )
    return config, shards


def whole_experts(shards: Shards, config: Any) -> Shards:
    """Returns the tensors of files that name each expert, under the names that the model has.

    Raises:
        ParentError: An expert lacks a tensor.
    """
    family = FAMILIES.get(getattr(config, "model_type", ""))
    if family is None or family.experts is None or family.experts.files is None:
        return shards
    half, ups, downs = family.experts.files
    pattern = re.compile(rf"(.*)\.{half}\.{family.experts.experts}\.([0-9]+)\.([^.]+)\.weight")
    found: dict[str, set[int]] = {}
    for name in shards:
        if match := pattern.fullmatch(name):
            found.setdefault(match[1], set()).add(int(match[2]))
    stacks = {}
    for layer, numbers in found.items():
        inside = f"{layer}.{half}.{family.experts.experts}"
        for target, maps in ((family.experts.up, ups), (family.experts.down, downs)):
            rows = [
                [f"{inside}.{number}.{name}.weight" for name in maps]
                for number in range(max(numbers) + 1)
            ]
            if missing := [name for row in rows for name in row if name not in shards.stored]:
                raise ParentError(f"{shards.directory} lacks the tensors {named(missing)}")
            stacks[f"{layer}.{family.ffn.module}.{family.experts.experts}.{target}"] = rows
    stacked = shards.stacked(stacks)
    own, theirs = f".{family.ffn.module}.", f".{half}."
    return stacked.renamed({name.replace(theirs, own): name for name in stacked})


def refuse_incomplete(model: Any) -> None:
    """Raises ParentError if a model in memory lacks tensors of a causal language model."""
    name = type(model).__name__
    whole = _empty(text_config(model.config), name)
    missing = set(whole.state_dict()) - set(text_names(model.state_dict()))
    if missing:
        raise ParentError(
            f"{name} lacks the tensors {named(missing)}; load it with AutoModelForCausalLM"
        )


def _empty(config: Any, source: str) -> Any:
    """Returns the model without memory for its weights."""
    family = FAMILIES.get(getattr(config, "parent_type", config.model_type))
    try:
        if family is not None:
            require_known_names(family, config)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=False)
    except ParentError as error:
        raise ParentError(f"the config of {source}: {error}") from error
    except Exception as error:
        raise ParentError(
            f"the config of {source} describes a model that cannot be built: "
            + " ".join(str(error).split())
        ) from error


def _resolve(
    expected: Mapping[str, Any], stored: Mapping[str, Any], base: str
) -> tuple[dict[str, str], list[str]]:
    """Returns the name in the files by the model's name, and the names that the model lacks.

    A model that was saved without its head has names without the prefix of the base model.
    """
    inner = text_names(stored)
    bare = not any(name.startswith(f"{base}.") for name in inner)
    names, rest = {}, []
    for name, old in inner.items():
        wanted = f"{base}.{name}" if bare and f"{base}.{name}" in expected else name
        wanted = wanted if wanted in expected else child_name(wanted)
        if wanted in expected:
            names[wanted] = old
        else:
            rest.append(old)
    if len(inner) < len(stored):
        logger.warning(
            "left out, as they are not of the decoder of text: %s",
            named(set(stored) - set(inner.values())),
        )
    return names, rest


def _left_over(name: str) -> bool:
    return re.search(LEFT_OVER, name) is not None


def _refuse_unexpected(rest: list[str], model: Any, directory: Path) -> None:
    """Refuses tensors that a layer would compute with; others are left out, with a warning."""
    known = [LEFT_OVER, *(model._keys_to_ignore_on_load_unexpected or ())]
    rest = [name for name in rest if not any(re.search(known_, name) for known_ in known)]
    inside = [name for name in rest if IN_A_LAYER.search(name)]
    if inside:
        raise ParentError(
            f"{directory} has the tensors {named(inside)}, which the layers of its config "
            f"({type(model).__name__}, {model.config.num_hidden_layers} layers) do not have: the "
            "config is of another model, or the model is of another family than it says"
        )
    if rest:
        logger.warning("%s: left out, as the model does not have them: %s", directory, named(rest))


def _refuse_other_shapes(
    expected: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
    shards: Shards,
    directory: Path,
) -> None:
    for name, shape in expected.items():
        actual = shards.stored[names[name]].shape
        if actual != shape:
            raise ParentError(
                f"{directory}: the tensor {names[name]!r} is {list(actual)}, and the config asks "
                f"for {list(shape)}; the config is of another model"
            )


def _equal(shards: Shards, one: str, other: str) -> bool:
    if shards.stored[one] == shards.stored[other]:
        return True
    return torch.equal(shards[one], shards[other])
