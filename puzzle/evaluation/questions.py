"""Multiple-choice questions from local files, as tasks that lm-eval runs without a network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from puzzle.errors import DataError
from puzzle.storage.json_files import interpreting, read_json_lines, read_object
from puzzle.storage.publishing import make_directory, publishing_file
from puzzle.storage.temporary_places import temporary_place

BIGBENCH = "bigbench==1.0.0"
BIGBENCH_FILE = "bigbench-1.0.0.tar.gz"
BIGBENCH_SHA256 = "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2"
BIGBENCH_TASKS = (
    "arithmetic/1_digit_addition",
    "arithmetic/1_digit_subtraction",
    "arithmetic/2_digit_addition",
    "cause_and_effect/two_sentences",
    "date_understanding",
    "disambiguation_qa",
    "entailed_polarity",
    "general_knowledge",
    "implicatures",
    "logical_deduction/three_objects",
    "sports_understanding",
)
MMLU_FILE = "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"
_MMLU = re.compile(
    r"(?P<question>.*?)\n\(A\) (?P<A>.*?) \(B\) (?P<B>.*?) \(C\) (?P<C>.*?) \(D\) (?P<D>.*?)"
    r"\nA: .*The answer is \((?P<answer>[A-D])\)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its possible answers.

    Args:
        text: The question.
        choices: The answers to choose from, two or more.
        answer: Index of the right one, from 0.
    """

    text: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or not 0 <= self.answer < len(self.choices):
            raise DataError(
                f"question {self.text!r:.60} has {len(self.choices)} choices and answer number "
                f"{self.answer}; there must be two or more, and the answer one of them"
            )


@dataclass(frozen=True, slots=True)
class ChoiceTask:
    """Questions whose answers are ranked by their likelihood.

    Args:
        name: The task's name.
        questions: Its questions.

    Example:
        >>> task = ChoiceTask("sums", (Question("1 + 1 =", ("2", "3"), 0),))
        >>> task.chance
        0.5
    """

    name: str
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        if not self.questions:
            raise DataError(f"task {self.name!r} has no questions")

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return sum(1 / len(q.choices) for q in self.questions) / len(self.questions)

    def config(self, directory: Path) -> dict[str, Any]:
        """Writes the questions into a directory and returns lm-eval's task config."""
        path = directory / f"{self.name}.jsonl"
        rows = [
            {"question": q.text, "choices": list(q.choices), "answer": q.answer}
            for q in self.questions
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return {
            "task": self.name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(directory)},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }


def read_task(path: Path) -> ChoiceTask:
    """Returns the multiple-choice questions of a file.

    Args:
        path: A BIG-bench `task.json`, or JSON lines of `question`, `choices` and `answer` (a
            number from 0).

    Raises:
        DataError: It cannot be read or holds no such questions.
    """
    what = (
        "a file of questions: a BIG-bench task.json, or JSON lines with 'question', 'choices' and "
        "'answer'"
    )
    if path.suffix != ".jsonl":
        with interpreting(path, what):
            return _bigbench(path, read_object(path, what))
    return ChoiceTask(path.stem, tuple(read_json_lines(path, what, _question)))


def _question(row: dict[str, Any]) -> Question:
    text, choices, answer = row["question"], row["choices"], row["answer"]
    if not isinstance(text, str) or not isinstance(choices, list):
        raise TypeError("'question' must be a text and 'choices' a list")
    if not isinstance(answer, int) or isinstance(answer, bool):
        raise TypeError(f"'answer' is {answer!r:.40}; it must be the number of a choice, from 0")
    return Question(text, tuple(map(str, choices)), answer)


def _bigbench(path: Path, task: dict[str, Any]) -> ChoiceTask:
    questions = []
    for example in task["examples"]:
        scores = example.get("target_scores") or {}
        best = max(scores.values(), default=0)
        # Questions with several right answers cannot be graded by the most likely one.
        if len(scores) > 1 and list(scores.values()).count(best) == 1:
            answer = list(scores.values()).index(best)
            questions.append(Question(str(example["input"]), tuple(map(str, scores)), answer))
    name = path.parent.name if path.stem == "task" else path.stem
    return ChoiceTask(name, tuple(questions))


def mmlu_dev() -> ChoiceTask:
    """Returns the development questions of MMLU, 57 subjects, that lm-eval includes as examples.

    Raises:
        DataError: lm-eval is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise DataError('lm-eval is not installed; run: pip install "puzzle-nas[eval]"')
    path = Path(next(iter(spec.submodule_search_locations))) / MMLU_FILE
    subjects = json.loads(path.read_text(encoding="utf-8"))
    questions = []
    for text in subjects.values():
        for part in text.split("\n\nQ: ")[1:]:
            match = _MMLU.match(part)
            if match is not None:
                choices = tuple(match[letter] for letter in "ABCD")
                answer = "ABCD".index(match["answer"])
                questions.append(Question(match["question"], choices, answer))
    return ChoiceTask("mmlu_dev", tuple(questions))


def fetch_bigbench(names: Iterable[str] = BIGBENCH_TASKS) -> list[ChoiceTask]:
    """Returns multiple-choice tasks of BIG-bench; pip fetches its archive the first time (358 MB).

    Only the named task files are kept, in the user's cache. They are for evaluation; BIG-bench
    asks that no model be trained on them.

    Args:
        names: Task names such as "date_understanding" or "arithmetic/1_digit_addition".

    Raises:
        DataError: The archive cannot be fetched, is not the expected one, or lacks a task.
    """
    cache = user_cache_path("puzzle") / "bigbench"
    paths = {name: cache / name / "task.json" for name in names}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        with temporary_place() as directory:
            unpack_bigbench(_download(directory), cache, missing)
    return [read_task(path) for path in paths.values()]


def unpack_bigbench(archive: Path, directory: Path, names: Iterable[str]) -> None:
    """Unpacks task files of BIG-bench's source archive into a directory.

    Raises:
        DataError: The archive is not the expected one, or lacks a task.
    """
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != BIGBENCH_SHA256:
            raise DataError(f"{archive} is not the archive of {BIGBENCH}: its SHA-256 differs")
    wanted = {f"bigbench-1.0.0/bigbench/benchmark_tasks/{n}/task.json": n for n in names}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = wanted.pop(member.name, None)
            content = tar.extractfile(member) if name is not None else None
            if name is not None and content is not None:
                make_directory(directory / name)
                with publishing_file(directory / name / "task.json") as fresh:
                    fresh.write_bytes(content.read())
            if not wanted:
                return
    raise DataError(f"BIG-bench has no tasks {sorted(wanted.values())}")


def _download(directory: Path) -> Path:
    # Its build requirements are not needed, as nothing is built.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    command += [str(directory), "--no-build-isolation", "--no-binary", ":all:", BIGBENCH]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(
            f"{BIGBENCH} cannot be fetched: {done.stderr.strip()[-400:]}; give the task.json "
            "files with read_task instead"
        )
    return directory / BIGBENCH_FILE
