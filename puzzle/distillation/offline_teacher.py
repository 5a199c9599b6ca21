"""The offline teacher: the likeliest next tokens of a parent, on disk, in place of the parent."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from puzzle.distillation.distill_config import OFFLINE_LOSSES, TOP_K, DistillConfig
from puzzle.distillation.distiller import Distiller, next_tokens
from puzzle.distillation.logit_losses import head_losses
from puzzle.distillation.teacher_server import TeacherServer
from puzzle.distillation.top_k_loss import top_k_kl
from puzzle.errors import DamagedArtifactError, DataError, SettingError
from puzzle.hardware.precision import AUTO
from puzzle.models.parent import Parent, open_parent
from puzzle.models.pretrained import load_config
from puzzle.models.trainable import NAMES, OpenModel
from puzzle.progress.bars import counted
from puzzle.storage.disk import matching
from puzzle.storage.hashing import content_hash, hash_tensors
from puzzle.storage.json_files import interpreting
from puzzle.storage.paths import user_path
from puzzle.storage.plain_values import count_of
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import MANIFEST, Artifact, ArtifactRef, Workspace

KIND, FORMAT, FILE = "teacher-logits", 1, "logits.safetensors"
# Windows of a file: what a kill repeats, and how often a local parent's layers are read.
WINDOWS = 64


class Teacher(Protocol):
    """What answers with the likeliest next tokens of windows."""

    @property
    def identity(self) -> str:
        """The name under which its answers are kept."""

    def top(self, tokens_BL: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the k likeliest next tokens at every position, and their log-probabilities."""


class LocalTeacher:
    """A parent that is run layer by layer: memory holds one layer, whatever its depth.

    Args:
        parent: The parent.
    """

    def __init__(self, parent: Parent) -> None:
        self.parent = parent

    @property
    def identity(self) -> str:
        """The parent's identity."""
        return self.parent.identity

    @torch.no_grad()
    def top(self, tokens_BL: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the k likeliest next tokens at every position, and their log-probabilities."""
        parent, rows = self.parent, []
        streams = [parent.embed(row[None]) for row in tokens_BL]
        for index in range(parent.shape.layers):
            layer = parent.layer(index)
            streams = [parent.run(layer, x_1LD) for x_1LD in streams]
        head = parent.head()
        for x_1LD in streams:
            log_p_LV = torch.log_softmax(head(x_1LD)[0].float(), -1)
            rows.append(log_p_LV.topk(min(k, log_p_LV.shape[-1])))
        ids = torch.stack([row.indices for row in rows]).int().cpu()
        return ids, torch.stack([row.values for row in rows]).cpu()


def cache_teacher(
    teacher: Any,
    windows: torch.Tensor,
    out: str | os.PathLike[str],
    *,
    k: int = TOP_K,
    device: str = "cpu",
) -> Path:
    """Stores the likeliest next tokens of a teacher for windows of text, to distil from later.

    What is stored already is not computed again, so that an interrupted call goes on.

    Args:
        teacher: The URL of a server (`TeacherServer`), or what `open_parent` accepts, which is run
            layer by layer; or an object with `identity` and `top`.
        windows: Token windows, (windows, length), such as `PackedStream.take` gives.
        out: A directory; give it to `distill(teacher=)`.
        k: Tokens per position.
        device: Where a local parent works.

    Returns:
        The directory.

    Raises:
        EngineError: The server does not answer.
        ParentError: The parent cannot be opened.

    Example:
        >>> cache_teacher("http://localhost:8000", windows, "teacher", k=20)  # doctest: +SKIP
    """
    count_of("k", k)
    workspace = Workspace(out)
    opened = _opened(teacher, workspace, device)
    for tokens_BL in counted(windows.split(WINDOWS), "teacher", unit="file"):
        spec = {
            "format": FORMAT,
            "teacher": opened.identity,
            "k": k,
            "tokens": hash_tensors({"tokens": tokens_BL.int()}),
        }
        workspace.get_or_build(KIND, spec, partial(_write, opened, tokens_BL, k))
    return workspace.root


def _write(teacher: Teacher, tokens_BL: torch.Tensor, k: int, directory: Path) -> None:
    ids, log_p = teacher.top(tokens_BL, k)
    tensors = {"tokens": tokens_BL.int(), "ids": ids, "log_p": log_p}
    save_tensors(directory / FILE, {name: each.contiguous() for name, each in tensors.items()})


def is_url(teacher: Any) -> bool:
    """Returns whether a teacher is the URL of a server."""
    return isinstance(teacher, str) and teacher.startswith(("http://", "https://"))


def _opened(teacher: Any, workspace: Workspace, device: str) -> Teacher:
    if is_url(teacher):
        return TeacherServer(teacher)
    if isinstance(teacher, Parent):
        return LocalTeacher(teacher)
    if hasattr(teacher, "top") and hasattr(teacher, "identity"):
        given: Teacher = teacher
        return given
    # In the format it is stored in, as `distill` runs a parent.
    live = not isinstance(teacher, str | os.PathLike)
    stored = getattr(teacher if live else load_config(teacher), "dtype", None)
    dtype = AUTO if stored is None else NAMES.get(stored, AUTO)
    return LocalTeacher(open_parent(teacher, workspace=workspace, device=device, dtype=dtype))


class OfflineTeacher:
    """Reads what `cache_teacher` stored, a window at a time.

    Args:
        directory: The directory.

    Raises:
        DataError: It holds nothing of a teacher, or answers of different k.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        root = user_path(directory)
        if not root.is_dir():
            raise DataError(
                f"teacher={str(directory)!r} is no directory; give one that cache_teacher wrote, "
                "or the URL of a server"
            )
        workspace = Workspace(root)
        self._files: list[Path] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        keys, sizes = [], set()
        for manifest in matching(root, f"{KIND}/*/{MANIFEST}"):
            artifact = workspace.find(ArtifactRef(kind=KIND, key=manifest.parent.name))
            artifact.verify()
            keys.append(artifact.key)
            sizes.add(self._add(artifact))
        if len(sizes) != 1:
            what = f"answers of {sorted(sizes)} tokens per position" if sizes else "no teacher"
            raise DataError(f"{root} holds {what}; let cache_teacher write one into it")
        self.identity, (self.k,) = content_hash(sorted(keys)), sizes

    def _add(self, artifact: Artifact) -> int:
        """Notes where the windows of a file are; returns the tokens per position."""
        path = artifact.path / FILE
        with (
            interpreting(path, "a teacher's answers", DamagedArtifactError),
            _read(path) as file,
        ):
            for row, tokens_L in enumerate(file.get_tensor("tokens")):
                self._places[_name(tokens_L)] = (len(self._files), row)
            self._files.append(path)
            return int(file.get_slice("ids").get_shape()[-1])

    def answers(self, tokens_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the likeliest next tokens of windows, and their log-probabilities.

        Raises:
            DataError: A window was not asked for by `cache_teacher`.
        """
        parts = []
        for tokens_L in tokens_BL.cpu():
            if (place := self._places.get(_name(tokens_L))) is None:
                raise DataError(
                    "the teacher has no answers for a window of this text; cache_teacher has to "
                    "be given the windows of the same rows, length, seed and tokenizer"
                )
            with _read(self._files[place[0]]) as file:
                parts.append(tuple(file.get_slice(name)[place[1]] for name in ("ids", "log_p")))
        ids, log_p = (torch.stack(each) for each in zip(*parts, strict=True))
        return ids.long().to(tokens_BL.device), log_p.to(tokens_BL.device)

    @property
    def model(self) -> OpenModel:
        """What stands for the parent where only its identity is needed."""
        return OpenModel(
            config=None,  # type: ignore[arg-type]
            tensors={},
            tokenizer=None,
            dtype=torch.float32,
            identity=self.identity,
        )


def _read(path: Path) -> Any:
    return safe_open(path, framework="pt")


def _name(tokens_L: torch.Tensor) -> bytes:
    return tokens_L.int().numpy().tobytes()


class OfflineDistiller(Distiller):
    """A child whose loss is computed from answers on disk: no parent is in memory.

    Args:
        child: The child; its parameters are trained.
        teacher: The answers.
        config: The losses, "kl" and "lm" among them and no others.

    Raises:
        SettingError: A loss needs the parent itself.
    """

    def __init__(self, child: Any, teacher: OfflineTeacher, config: DistillConfig) -> None:
        torch.nn.Module.__init__(self)
        require_offline(config)
        self.child, self.parent, self.pairs = child, torch.nn.Identity(), ()
        self.losses, self.chunk = dict(config.losses), config.vocab_chunk
        self.teacher = teacher

    def forward(
        self, tokens_BL: torch.Tensor, *, measure: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the weighted loss and its terms, or KL and cross-entropy; as of a `Distiller`."""
        names = OFFLINE_LOSSES if measure else tuple(self.losses)
        h_BLD = self.child.model(input_ids=tokens_BL, use_cache=False).last_hidden_state
        h_ND, head_VD = h_BLD.flatten(0, 1), self.child.lm_head.weight
        losses, chunk = {}, self.rows_at_once(tokens_BL)
        if "kl" in names:
            ids, log_p = (each.flatten(0, 1) for each in self.teacher.answers(tokens_BL))
            losses["kl"] = top_k_kl(h_ND, head_VD, ids, log_p, chunk=chunk)
        if "lm" in names:
            targets_N = next_tokens(tokens_BL).flatten()
            losses |= head_losses(h_ND, head_VD, targets_N, chunk=chunk, names=("lm",))
        if measure:
            return losses["kl"], losses["lm"]
        terms = torch.stack([losses[name].float() for name in self.losses])
        weights = torch.tensor(list(self.losses.values()), device=terms.device)
        return (terms * weights).sum(), terms.detach()


def require_offline(config: DistillConfig) -> None:
    """Raises SettingError if a loss cannot be computed from a teacher's likeliest tokens."""
    if config.parent_losses:
        raise SettingError(
            f"losses {list(config.parent_losses)} need the parent itself; with teacher= give "
            'DistillConfig(losses={"kl": 1.0}), with or without "lm"'
        )
