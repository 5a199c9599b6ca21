"""Content hashes of values, files and tensors, from which artifacts take their names."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from puzzle.errors import DataError
from puzzle.storage.disk import naming

if TYPE_CHECKING:  # torch takes seconds to import, and hashing a value needs none of it
    from torch import Tensor


def canonical(value: Any) -> Any:
    """Returns a value as plain JSON types; DataError names the part that cannot be stored so."""
    if hasattr(value, "to_dict"):
        return canonical(value.to_dict())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    raise DataError(
        f"{value!r} ({type(value).__name__}) cannot be stored as JSON; allowed are None, bool, "
        "int, finite float, str, lists, dicts with str keys and objects with to_dict(): convert it."
    )


def content_hash(value: Any) -> str:
    """Hash a JSON-like value by its content.

    Args:
        value: None, bool, int, finite float, str, list, tuple, mapping with str keys, or an
            object with `to_dict`, nested to any depth. The order of keys does not matter.

    Returns:
        32 hexadecimal digits.

    Raises:
        DataError: Part of the value is none of these.

    Example:
        >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
        True
    """
    text = json.dumps(canonical(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes without holding them in memory.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> len(hash_file("pyproject.toml"))
        32
    """
    with open(path, "rb") as file, naming(path):
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 by which others publish a file, in 64 hexadecimal digits.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file, naming(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors by name, dtype, shape and bytes.

    Args:
        tensors: Tensors by name, on any device; order and strides do not matter.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> hash_tensors({"w": torch.zeros(2)}) == hash_tensors({"w": torch.zeros(1, 2)})
        False
    """
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(f"{len(header)}:{header}".encode())
        # numpy has no bfloat16, so all tensors are viewed as bytes; scalars must be 1-d for that.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
