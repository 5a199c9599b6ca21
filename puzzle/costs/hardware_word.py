"""HardwareWord: what the text of `hardware=` names, read in one place."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from puzzle.costs.calibrated.engines.command import Command
from puzzle.costs.calibrated.engines.engine import Engine
from puzzle.costs.calibrated.engines.llama_cpp import LlamaCpp
from puzzle.costs.calibrated.engines.torch_generate import TorchGenerate
from puzzle.costs.calibrated.engines.vllm import Vllm
from puzzle.costs.device_specs import device_spec
from puzzle.errors import CostModelError
from puzzle.storage.paths import user_path

__all__ = ["ALLOWED", "ENGINES", "HardwareWord"]

ENGINES: Mapping[str, Callable[[], Engine]] = {
    "llama.cpp": LlamaCpp,
    "vllm": Vllm,
    "torch": TorchGenerate,
}
ALLOWED = (
    "'cpu' or 'cuda' (measured here), 'roofline:<device>' such as 'roofline:h100-sxm' (either with "
    "',tensor_parallel=2' after it), "
    "'table:<path>', the path of a profile (.json), an engine to calibrate in "
    f"({', '.join(map(repr, ENGINES))}, or 'command:<command line>'), "
    "'<module>:<class>' of a cost model of your own, or a CostModel"
)
# What may follow published rates, and a device of this machine.
OF_RATES: Mapping[str, str] = {
    "tensor_parallel": "[0-9]+",
    "weight_dtype": "[a-z0-9]+",
    "cache_dtype": "[a-z0-9]+",
}
OF_DEVICE: Mapping[str, str] = {"tensor_parallel": "[0-9]+", "link": r"[0-9]+(\.[0-9]+)?"}
Kind = Literal["device", "roofline", "table", "profile", "engine", "command", "model"]


@dataclass(frozen=True, slots=True)
class HardwareWord:
    """The text of `hardware=`, taken apart.

    Args:
        text: As it was given.
        kind: What it names: a torch device, published rates, a table, a profile, an engine, a
            command line that measures, or a cost model to import.
        rest: The text without what marks its kind, and without settings.
        settings: What follows a device or rates, such as "tensor_parallel=4", by name.

    Example:
        >>> HardwareWord.read("roofline:h100-sxm")
        HardwareWord(text='roofline:h100-sxm', kind='roofline', rest='h100-sxm', settings=())
        >>> HardwareWord.read("cuda,tensor_parallel=4,link=450").options
        {'tensor_parallel': 4, 'link': 450000000000.0}
        >>> HardwareWord.read("npu.costs:EdgeCost").kind
        'model'
    """

    text: str
    kind: Kind
    rest: str
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, hardware: str | os.PathLike[str]) -> HardwareWord:
        """Returns what a text names; nothing is opened or imported.

        Raises:
            CostModelError: It names nothing.
        """
        text = os.fspath(hardware)
        before, colon, rest = text.partition(":")
        if colon and before == "roofline":
            name, *settings = rest.split(",")
            return cls(text, "roofline", name, _settings(text, settings, OF_RATES))
        if colon and before in ("table", "command"):
            return cls(text, before, rest)  # type: ignore[arg-type]
        if Path(text).suffix.lower() == ".json":
            return cls(text, "profile", text)
        device, *settings = text.split(",")
        if re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
            return cls(text, "device", device, _settings(text, settings, OF_DEVICE))
        if text in ENGINES:
            return cls(text, "engine", text)
        names = [*before.split("."), *rest.split(".")]
        if before not in ("cpu", "cuda") and all(name.isidentifier() for name in names):
            return cls(text, "model", text)
        raise CostModelError(f"hardware={text!r}; allowed: {ALLOWED}")

    @property
    def options(self) -> dict[str, Any]:
        """The settings as the cost model takes them: a link in bytes per second."""
        options: dict[str, Any] = dict(self.settings)
        if "tensor_parallel" in options:
            options["tensor_parallel"] = int(options["tensor_parallel"])
        if "link" in options:
            options["link"] = 1e9 * float(options["link"])
        return options

    @property
    def is_run_here(self) -> bool:
        """Whether models are run on this machine to find out what blocks cost."""
        return self.kind in ("device", "engine", "command")

    @property
    def engine(self) -> Engine | None:
        """The engine to calibrate in, or None."""
        if self.kind == "command":
            return Command(command=self.rest)
        return ENGINES[self.rest]() if self.kind == "engine" else None

    def check(self) -> None:
        """Refuses what is not there, without reading a file or running an engine.

        Raises:
            CostModelError: The device is not in the table of rates, the file is absent, or the
                module or what it should hold is.
            EngineError: A command line does not say where the model goes.
        """
        if self.kind == "roofline":
            device_spec(self.rest)
        elif self.kind in ("table", "profile"):
            file = user_path(self.rest)
            if not file.is_file():
                raise CostModelError(
                    f"hardware={self.text!r}: there is no file {file}; give the path of one"
                )
        elif self.kind == "command":
            Command(command=self.rest)
        elif self.kind == "model":
            self.imported()

    def imported(self) -> Any:
        """Returns the class, function or object that "<module>:<name>" names.

        Its module is looked for in the working directory, then where Python looks.

        Raises:
            CostModelError: There is no such module or name, or importing it fails.
        """
        module_name, _, path = self.text.partition(":")
        value: Any = _module(module_name, self.text)
        for name in path.split("."):
            if not hasattr(value, name):
                known = ", ".join(n for n in vars(value) if not n.startswith("_"))
                raise CostModelError(
                    f"hardware={self.text!r}: {module_name} has no {name}; it has {known or 'none'}"
                )
            value = getattr(value, name)
        return value


def _module(name: str, text: str) -> ModuleType:
    with _working_directory_first():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                raise CostModelError(
                    f"hardware={text!r}: there is no module {error.name!r} in {Path.cwd()} or "
                    "among what is installed; start where it is, or install it"
                ) from error
            raise CostModelError(f"hardware={text!r}: importing {name} fails: {error}") from error
        except Exception as error:
            raise CostModelError(
                f"hardware={text!r}: importing {name} fails: {type(error).__name__}: {error}"
            ) from error


def _settings(
    text: str, parts: Sequence[str], allowed: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    settings: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name in settings or not re.fullmatch(allowed.get(name, "(?!)"), value):
            names = ", ".join(f"{known}=..." for known in allowed)
            raise CostModelError(
                f"hardware={text!r}: {part!r}; allowed after the device: {names}, each once, such "
                "as tensor_parallel=2"
            )
        settings[name] = value
    return tuple(settings.items())


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """An installed command does not look into the working directory, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
