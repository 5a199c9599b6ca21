"""Executors by word, as a command line names them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from puzzle.errors import SettingError
from puzzle.executors.local_processes import Processes, per_device
from puzzle.executors.ray_tasks import Ray
from puzzle.executors.slurm_jobs import Slurm
from puzzle.storage.json_values import shown

ALLOWED = (
    "devices, processes:2, ray, ray://host:10001, ray:address=host:6379,gpus=1, "
    "slurm:partition=h100,gpus=1,timeout_min=120"
)
# Parameters of submitit that are the queue's own, under their names in SLURM.
_OF_SLURM = ("partition", "account", "qos", "constraint", "reservation", "comment")


def executor_named(word: str) -> AbstractContextManager[Any]:
    """Returns an executor by word, to be used in a `with` statement.

    Args:
        word: "devices", a process for each GPU; "processes:N"; "ray", the cluster that Ray finds or
            starts; "ray://host:10001"; "ray:" or "slurm:" and settings of `Ray` or `Slurm`, such as
            "slurm:partition=h100,gpus=1".

    Raises:
        SettingError: There is no such executor, or a setting is wrong.

    Example:
        >>> with executor_named("processes:2") as pool:  # doctest: +SKIP
        ...     puzzle.search(parent, text, constraints=limits, executor=pool)
    """
    name, _, rest = word.partition(":")
    if word == "devices":
        return per_device()
    if name == "processes" and rest.isdecimal():
        return Processes(int(rest))
    if word.startswith("ray://"):
        return Ray(word)
    if name not in ("ray", "slurm"):
        raise SettingError(f"executor {shown(word)}; allowed: {ALLOWED}")
    settings = _settings(word, rest)
    try:
        if name == "ray":
            return Ray(**settings)
        given = {f"slurm_{k}" if k in _OF_SLURM else k: v for k, v in settings.items()}
        return Slurm(**given)
    except TypeError as error:
        raise SettingError(f"executor {shown(word)}: {error}; allowed: {ALLOWED}") from error


def _settings(word: str, text: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not (key.isidentifier() and equals and value):
            raise SettingError(f"executor {shown(word)}: {part!r} is no key=value; e.g. {ALLOWED}")
        settings[key] = int(value) if value.isdecimal() else value
    return settings
