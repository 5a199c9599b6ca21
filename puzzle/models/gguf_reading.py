"""One reading of a GGUF file for all that transformers asks of it.

Of the architectures that puzzle opens, transformers reads a GGUF file anew for the config, for the
weights and for the tokenizer. Each time the package gguf slices a memory map several times for
each of some hundred thousand tokens and merges, and a slice of a memory map takes several times as
long as one of an array; the table of tensor names is made again for each module of the model. Of a
small model this is most of what opening takes, and transformers has no option against it.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

# Names in the module gguf are replaced, which all threads share: one reads at a time.
_LOCK = threading.RLock()


@contextmanager
def files_read_once() -> Iterator[None]:
    """Lets this thread's readings of one GGUF file share the work, until the end of the block.

    What is read is the same as without, and a file is not looked at again: whether it was changed
    meanwhile is for the caller to watch. Other threads read as ever; those that enter such a block
    wait. Where the package gguf is missing, nothing is done, and who needs it says so.

    Example:
        >>> with files_read_once():  # doctest: +SKIP
        ...     AutoConfig.from_pretrained("models", gguf_file="model.gguf")
        ...     AutoTokenizer.from_pretrained("models", gguf_file="model.gguf")
    """
    if importlib.util.find_spec("gguf") is None:
        yield
        return
    gguf = importlib.import_module("gguf")
    with _LOCK:
        own = {name: getattr(gguf, name) for name in _FASTER if hasattr(gguf, name)}
        if any(isinstance(each, _OncePerArguments) for each in own.values()):
            yield  # within another block of this thread, whose readings are shared
            return
        try:
            for name, each in own.items():
                setattr(gguf, name, _OncePerArguments(each, _FASTER[name](each)))
            yield
        finally:
            for name, each in own.items():
                setattr(gguf, name, each)


class _OncePerArguments:
    """Calls a faster function once for the same arguments in this thread; its own, in others."""

    def __init__(self, own: Callable[..., Any], here: Callable[..., Any]) -> None:
        self.own, self.here = own, functools.cache(here)
        self.thread = threading.get_ident()

    def __call__(self, *args: Any, **options: Any) -> Any:
        here = threading.get_ident() == self.thread
        return (self.here if here else self.own)(*args, **options)


def _plain(reader: Any) -> Any:
    """Returns a reader whose slices are of an array, over the same bytes as its memory map."""

    def read(self: Any) -> Any:
        return self.__dict__["data"]

    def write(self: Any, data: Any) -> None:
        self.__dict__["data"] = data.view(np.ndarray) if isinstance(data, np.memmap) else data

    if not isinstance(reader, type):
        return reader
    return type(reader.__name__, (reader,), {"data": property(read, write)})


# What takes the place of what, in the package gguf.
_FASTER: Mapping[str, Callable[[Any], Callable[..., Any]]] = {
    "GGUFReader": _plain,
    "get_tensor_name_map": lambda own: own,
}
