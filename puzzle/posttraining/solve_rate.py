"""Which tasks a model can learn from: those that it solves sometimes, easy ones first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puzzle.errors import DataError
from puzzle.evaluation.answers import Scorer, modes_of, same_text
from puzzle.hardware.torch_state import own_torch_state
from puzzle.posttraining.answer_samplers import sampler_of
from puzzle.posttraining.conversation_rows import problems_of
from puzzle.posttraining.limited_scorer import SECONDS, LimitedScorer
from puzzle.posttraining.stage_settings import SampleSettings
from puzzle.progress.bars import counted
from puzzle.storage.json_values import as_number


@own_torch_state()
def solve_rates(
    model: Any,
    tasks: Any,
    scorer: Scorer = same_text,
    *,
    thinking: str = "on",
    tokenizer: Any = None,
    settings: SampleSettings | None = None,
    scorer_seconds: float = SECONDS,
    system_prompts: Mapping[str, str] | None = None,
) -> list[float]:
    """Returns the share of a model's sampled answers that is right, for each task.

    Args:
        model: As for `traces`.
        tasks: As for `rl`.
        scorer: Given an answer and the right one; right is what scores exactly 1.
        thinking: "on", "off" or "both", of which the mean is taken.
        tokenizer: By default the one beside the model.
        settings: How answers are sampled; by default 4 in each mode.
        scorer_seconds: The most that the scorer may take for one answer.
        system_prompts: The system prompt of each mode, for a model whose switch that is.

    Raises:
        DataError: A task has no answer, or an argument is not allowed.
        EngineError: The server does not answer.
    """
    settings, modes = settings or SampleSettings(), modes_of(thinking)
    problems, limited = problems_of(tasks), LimitedScorer(scorer, seconds=scorer_seconds)
    sampler = sampler_of(model, tokenizer, system_prompts)
    right = [0] * len(problems)
    for start in counted(range(0, len(problems), settings.batch), "solve rates", "batch"):
        batch = problems[start : start + settings.batch]
        for mode in modes:
            seed = 1_000_003 * settings.seed + start * settings.samples
            found = sampler.sample([each.prompt for each in batch], mode, settings, seed=seed)
            for place, answers in enumerate(found, start):
                for each in answers:
                    if each.answer is not None:
                        right[place] += limited(each.answer, problems[place].answer) == 1
    limited.close()
    return [each / (settings.samples * len(modes)) for each in right]


def curriculum(tasks: Any, rates: Sequence[float], *, most: float = 0.75) -> list[dict[str, Any]]:
    """Returns the tasks that are solved sometimes, easy ones first.

    A task that is never solved, or nearly always, gives a group of equal rewards, from which
    nothing is learned.

    Args:
        tasks: As for `rl`.
        rates: The share of right answers to each.
        most: The share from which on a task is left out.

    Raises:
        DataError: There is not one rate for each task, or no task is left.

    Example:
        >>> sums = [{"question": f"{n}+1=", "answer": str(n + 1)} for n in range(4)]
        >>> [row["answer"] for row in curriculum(sums, [0.25, 0.0, 0.5, 1.0])]
        ['3', '1']
    """
    problems = problems_of(tasks)
    if len(problems) != len(rates) or any(not 0 <= as_number(r, "a rate") <= 1 for r in rates):
        raise DataError(
            f"there are {len(rates)} rates for {len(problems)} tasks; give one from 0 to 1 for each"
        )
    kept = [place for place, rate in enumerate(rates) if 0 < rate < most]
    if not kept:
        raise DataError(
            f"none of the {len(rates)} tasks is solved sometimes and less than {most:g} of the "
            "time: give other tasks, or train with sft first"
        )
    kept.sort(key=lambda place: -rates[place])
    return [{"prompt": problems[n].prompt, "answer": problems[n].answer} for n in kept]
