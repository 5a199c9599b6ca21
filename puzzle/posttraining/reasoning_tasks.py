"""Tasks of reasoning-gym: made on the spot, with answers that its own scorers verify."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from puzzle.errors import DataError
from puzzle.storage.plain_values import count_of

# reasoning-gym makes row n of seed s of the number s + n, so that neighbouring seeds share rows.
_SEED_STEP = 1_000_003


def gym_tasks(
    tasks: str | Sequence[str] | Mapping[str, Mapping[str, Any]], *, size: int, seed: int = 0
) -> list[dict[str, str]]:
    """Returns rows of reasoning-gym's tasks, for `rl`, `traces` and `solve_rates`.

    Args:
        tasks: Names of its data sets, or their settings by name.
        size: Rows of each.
        seed: Seed of the rows; another one gives rows that were drawn apart, for evaluation. Of a
            task with few different questions, both have some of the same.

    Returns:
        Rows with `question`, and as `answer` the whole entry as JSON, for `gym_equal`.

    Raises:
        DataError: reasoning-gym is not installed, a name is unknown, or the scorer of a task does
            not accept the task's own answer once it is stored.

    Example:
        >>> gym_tasks({"chain_sum": {"max_terms": 3}}, size=100)  # doctest: +SKIP
    """
    count_of("size", size)
    count_of("seed", seed, least=0)
    names = [tasks] if isinstance(tasks, str) else tasks
    settings = names if isinstance(names, Mapping) else {each: {} for each in names}
    rows = []
    for name, given in settings.items():
        try:
            made = _gym().create_dataset(name, size=size, seed=seed * _SEED_STEP % 2**31, **given)
        except (AssertionError, TypeError, ValueError) as error:
            raise DataError(
                f"reasoning-gym refuses {name!r} with {dict(given)}: {error}"
            ) from error
        for entry in made:
            answer = json.dumps({"task": name, "entry": entry}, default=str)
            if gym_equal(str(entry["answer"]), answer) != 1:
                raise DataError(
                    f"reasoning-gym's {name!r} does not accept its own answer once it is stored; "
                    "leave this task out"
                )
            rows.append({"question": str(entry["question"]), "answer": answer})
    return rows


def gym_equal(answer: str, right: Any) -> float:
    """Returns the score that reasoning-gym gives an answer; only 1 is right.

    Args:
        answer: What a model answered.
        right: The `answer` of a row of `gym_tasks`.
    """
    values = json.loads(right)
    return float(_score_function(values["task"])(answer=answer, entry=values["entry"]))


@functools.cache
def _score_function(name: str) -> Any:
    return _gym().get_score_answer_fn(name)


def _gym() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise DataError(
            'reasoning-gym is not installed; run: pip install "puzzle-nas[posttrain]"'
        ) from error
    return reasoning_gym
