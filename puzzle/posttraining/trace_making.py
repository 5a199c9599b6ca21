"""traces(): answers of a teacher in both modes, of which those that are right are kept."""

from __future__ import annotations

import inspect
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from puzzle.errors import DataError
from puzzle.evaluation.answers import Scorer, modes_of, same_text
from puzzle.hardware.torch_state import own_torch_state
from puzzle.posttraining.answer_samplers import (
    Sampled,
    Sampler,
    sampler_of,
)
from puzzle.posttraining.conversation_rows import Problem, problems_of
from puzzle.posttraining.limited_scorer import SECONDS, LimitedScorer
from puzzle.posttraining.stage_settings import SampleSettings
from puzzle.progress.bars import counted
from puzzle.storage.hashing import content_hash
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import publishing_file
from puzzle.storage.workspace import Workspace
from puzzle.text.thoughts import FIELD

# Answers that are sampled between two writes to the disk.
_PART = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What was kept of a teacher's answers.

    Args:
        path: The parquet file, which `rows` and `sft` read.
        counts: By mode: `sampled`, `kept`, and why others were not: `wrong`, `unfinished`,
            `other mode` (a thought under off, or none under on), and the verifier's failures.
        failures: Numbers of the prompts at which the verifier failed, with what happened.
    """

    path: Path
    counts: Mapping[str, Mapping[str, int]]
    failures: Sequence[tuple[int, str]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "path": str(self.path),
            "counts": {mode: dict(each) for mode, each in self.counts.items()},
            "failures": [list(each) for each in self.failures],
        }

    def table(self) -> str:
        """Returns the counts as text."""
        return "\n".join(
            f"thinking {mode}: " + ", ".join(f"{name} {n}" for name, n in each.items())
            for mode, each in self.counts.items()
        )


@own_torch_state()
def traces(
    teacher: Any,
    prompts: Any,
    verifier: Scorer = same_text,
    *,
    out: str | os.PathLike[str] = "traces",
    tokenizer: Any = None,
    thinking: str = "both",
    settings: SampleSettings | None = None,
    verifier_seconds: float = SECONDS,
    system_prompts: Mapping[str, str] | None = None,
) -> Traces:
    """Samples a teacher's answers in both modes, and keeps those that a verifier accepts.

    Each part of the prompts is written when it is done, so that the same call goes on where
    another one ended.

    Args:
        teacher: A model, its directory, a `SearchResult`, or a `ChatServer`.
        prompts: As for `rl`: rows with a question and its answer.
        verifier: Given an answer, without its thought, and the right one; an answer is kept if it
            returns exactly 1. It is called in a process of its own.
        out: The directory of the parts and of `traces.parquet`.
        tokenizer: The teacher's tokenizer; by default the one beside it.
        thinking: "both", "on" or "off".
        settings: How answers are sampled.
        verifier_seconds: The most that the verifier may take for one answer. A verifier that takes
            longer or raises rejects the answer and is counted.
        system_prompts: The system prompt of each mode, for a model whose switch that is.

    Raises:
        DataError: A prompt has no answer, no answer was kept, the template has no switch, or an
            argument is not allowed.
        EngineError: The server does not answer.
        WorkspaceError: The disk is full or cannot be written.

    Example:
        >>> puzzle.posttraining.traces("child", [{"question": "1+1=", "answer": "2"}],
        ...     out="traces")  # doctest: +SKIP
    """
    settings, modes = settings or SampleSettings(), modes_of(thinking)
    problems = problems_of(prompts)
    scorer = LimitedScorer(verifier, seconds=verifier_seconds)
    sampler = sampler_of(teacher, tokenizer, system_prompts)
    workspace = Workspace(user_path(out))
    identity, each = sampler.identity, max(1, _PART // settings.samples)
    parts = []
    for start in counted(range(0, len(problems), each), "traces", "batch"):
        part = problems[start : start + each]
        for mode in modes:
            made = _Part(sampler, scorer, settings, mode, part, start)
            spec = {
                "teacher": identity,
                "prompts": content_hash(json.dumps([asdict(p) for p in part], default=repr)),
                "settings": asdict(settings),
                "verifier": _definition(verifier),
                "mode": mode,
                "start": start,
            }
            parts.append(workspace.get_or_build("traces", spec, made.build).load_json("part.json"))
    scorer.close()
    return _joined(parts, modes, user_path(out) / "traces.parquet")


def _definition(function: Any) -> str:
    """Returns what tells a verifier from others: its source, or else its name."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # an object that is called, or typed in by hand
        return repr(function)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some prompts in one mode, sampled and judged."""

    sampler: Sampler
    scorer: LimitedScorer
    settings: SampleSettings
    mode: str
    problems: Sequence[Problem]
    start: int

    def build(self, directory: Path) -> None:
        """Writes the rows that are kept, and what became of the others."""
        counts: Counter[str] = Counter({"sampled": 0, "kept": 0})
        kept: list[dict[str, Any]] = []
        failures: list[tuple[int, str]] = []
        for first in range(0, len(self.problems), self.settings.batch):
            batch = self.problems[first : first + self.settings.batch]
            number = self.start + first
            turns = [problem.prompt for problem in batch]
            seed = 1_000_003 * self.settings.seed + 2 * number * self.settings.samples
            found = self.sampler.sample(turns, self.mode, self.settings, seed=seed)
            for place, (problem, answers) in enumerate(zip(batch, found, strict=True), number):
                for sampled in answers:
                    fate = self._fate(problem, sampled, place)
                    counts.update({"sampled": 1, fate: 1})
                    if fate == "kept":
                        kept.append(_row(problem, sampled, self.mode))
                    elif fate.startswith("verifier"):
                        failures.append((place, fate))
        values = {"mode": self.mode, "rows": kept, "counts": counts, "failures": failures}
        (directory / "part.json").write_text(json.dumps(values), encoding="utf-8")

    def _fate(self, problem: Problem, sampled: Sampled, number: int) -> str:
        if sampled.answer is None:
            return "unfinished"
        if bool(sampled.thought) != (self.mode == "on"):
            return "other mode"
        name = f"prompt {number} (from 0)"
        score, problem_kind = self.scorer.judge(sampled.answer, problem.answer, name=name)
        if problem_kind:
            return f"verifier {problem_kind}"
        return "kept" if score == 1 else "wrong"


def _row(problem: Problem, sampled: Sampled, mode: str) -> dict[str, Any]:
    """Returns a row that TRL reads as well."""
    turn = {"role": "assistant", "content": sampled.answer, FIELD: sampled.thought}
    right = problem.answer
    return {
        "prompt": problem.prompt,
        "completion": [turn],
        "chat_template_kwargs": {"enable_thinking": mode == "on"},
        "answer": right if isinstance(right, str) else json.dumps(right, default=repr),
        "tokens": sampled.tokens,
    }


def _joined(parts: Sequence[Mapping[str, Any]], modes: Sequence[str], path: Path) -> Traces:
    import datasets

    counts: dict[str, Counter[str]] = {mode: Counter() for mode in modes}
    for part in parts:
        counts[part["mode"]].update(part["counts"])
    kept = [row for part in parts for row in part["rows"]]
    if not kept:
        raise DataError(
            f"no answer was kept ({json.dumps(counts)}); sample "
            "more of them, or look at what the verifier refuses"
        )
    with publishing_file(path) as fresh:
        datasets.Dataset.from_list(kept).to_parquet(str(fresh))
    return Traces(
        path=path,
        counts={mode: dict(each) for mode, each in counts.items()},
        failures=tuple((n, kind) for part in parts for n, kind in part["failures"]),
    )
