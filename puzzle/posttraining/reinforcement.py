"""rl(): reinforcement learning on tasks whose answers can be verified, by TRL's GRPO or RLOO."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puzzle.errors import SettingError
from puzzle.evaluation.answers import Scorer, same_text
from puzzle.hardware.torch_state import own_torch_state
from puzzle.posttraining.checked_reward import CheckedReward
from puzzle.posttraining.conversation_rows import Problem, problems_of
from puzzle.posttraining.limited_scorer import SECONDS, LimitedScorer
from puzzle.posttraining.mode_prompts import mode_prompts
from puzzle.posttraining.posttrain_result import PostTrainResult
from puzzle.posttraining.rewards import Brief, Consistent, Correct, Formed
from puzzle.posttraining.solve_rate import curriculum
from puzzle.posttraining.stage_run import StageRun, open_stage, require_trl, trackers, trl_config

METHODS = {"grpo": "GRPO", "rloo": "RLOO"}


@dataclass(frozen=True, slots=True)
class StoredAnswerScorer:
    """A scorer of answers that a table holds as JSON.

    Args:
        scorer: Given an answer and the right one.
    """

    scorer: Scorer

    def __call__(self, answer: str, right: str) -> float:
        """Returns the score of an answer."""
        return self.scorer(answer, json.loads(right))


@own_torch_state()
def rl(
    model: Any,
    tasks: Any,
    scorer: Scorer = same_text,
    *,
    method: str = "grpo",
    thinking: str = "both",
    rewards: Mapping[Any, float] | None = None,
    rates: Sequence[float] | None = None,
    out: str | os.PathLike[str] = "rl",
    tokenizer: Any = None,
    training: Mapping[str, Any] | None = None,
    peft_config: Any = None,
    scorer_seconds: float = SECONDS,
    system_prompts: Mapping[str, str] | None = None,
    resume: bool = True,
    callbacks: Iterable[Any] = (),
    report_to: str | Iterable[str] | None = None,
) -> PostTrainResult:
    """Trains a model on tasks whose answers can be verified, with TRL's GRPO or RLOO.

    The same call goes on where another one ended.

    Args:
        model: As for `sft`; teach it the form of its answers with `sft` first.
        tasks: Rows with a question (`prompt`, `question`, `problem` or `messages`) and its answer
            (`answer`, `solution` or `ground_truth`), such as those of `gym_tasks`; or the
            `pathlib.Path` of a .jsonl, .json or .parquet file.
        scorer: Given an answer, without its thought, and the right one; right is what scores
            exactly 1. `math_equal`, `gym_equal`, `CodeTests()` and `instructions_followed` are
            such. It is called in a process of its own.
        method: "grpo" or "rloo".
        thinking: "both", "on" or "off".
        rewards: The weight of each reward, an object that TRL calls; by default 1 for `Correct`,
            and 0.2 for `Consistent` and for `Brief`.
        rates: What `solve_rates` returned for the tasks: those that are never or nearly always
            solved are left out, and the easy ones come first.
        out: The run directory; the model is in `out/child`.
        tokenizer: By default the one beside the model.
        training: Fields of TRL's GRPOConfig or RLOOConfig, such as `num_generations`.
        peft_config: Adapters of peft, which are merged into what is saved.
        scorer_seconds: The most that the scorer may take for one answer. One that takes longer or
            raises makes the answer a wrong one, and is counted.
        system_prompts: The system prompt of each mode, for a model whose switch that is; rewards
            that are given need them too.
        resume: As for `sft`.
        callbacks: TrainerCallback instances of transformers.
        report_to: Trackers that transformers knows, such as "tensorboard" or "wandb".

    Raises:
        DataError: A task has no answer, the template cannot switch within a run, TRL is not
            installed, a reward is not finite, or an argument is not allowed.
        SettingError: A group of answers would be split, or a setting is not allowed.
        DivergedError: A weight is not finite after training.
        WorkspaceError: The disk is full or cannot be written, or `out` holds something else.

    Example:
        >>> tasks = puzzle.posttraining.gym_tasks("chain_sum", size=1000)  # doctest: +SKIP
        >>> puzzle.posttraining.rl("sft/child", tasks, puzzle.posttraining.gym_equal,
        ...     training={"num_generations": 8})  # doctest: +SKIP
    """
    if method not in METHODS:
        raise SettingError(f"method={method!r}; allowed: {', '.join(METHODS)}")
    trl = require_trl()
    problems = problems_of(tasks if rates is None else curriculum(tasks, rates))
    limited = LimitedScorer(StoredAnswerScorer(scorer), seconds=scorer_seconds)
    run = open_stage(
        "rl",
        model,
        tokenizer,
        out,
        depends={
            "problems": [[each.prompt, each.answer] for each in problems],
            "how": [method, thinking, repr(scorer), repr(rewards), repr(peft_config)],
            "training": dict(training or {}),
            **({"system prompts": dict(system_prompts)} if system_prompts else {}),
        },
        resume=resume,
    )
    prompts, numbers, arguments = mode_prompts(problems, run.tokenizer, thinking, system_prompts)
    config = _config(run, method, arguments, training, report_to, curriculum=rates is not None)
    chosen = rewards or _default_rewards(limited, config.num_generations, thinking, system_prompts)
    config.reward_weights = _weights(chosen)
    if (done := run.finished()) is not None:
        return done
    trainer = getattr(trl, f"{METHODS[method]}Trainer")(
        run.model(),
        [CheckedReward(each) if callable(each) else each for each in chosen],
        args=config,
        train_dataset=_table(prompts, [problems[n] for n in numbers]),
        processing_class=run.tokenizer,
        peft_config=peft_config,
        callbacks=list(callbacks),
    )
    result = run.train(trainer, lambda trained: _figures(problems, prompts, limited))
    limited.close()
    return result


def _config(
    run: StageRun,
    method: str,
    arguments: Mapping[str, bool],
    training: Mapping[str, Any] | None,
    report_to: Any,
    *,
    curriculum: bool,
) -> Any:
    own = {
        "output_dir": str(run.checkpoints),
        "report_to": trackers(report_to),
        "chat_template_kwargs": dict(arguments) or None,
        "shuffle_dataset": not curriculum,
    }
    config = trl_config(f"{METHODS[method]}Config", own, training)
    require_whole_groups(config)
    return config


def require_whole_groups(config: Any) -> None:
    """Raises SettingError if a group of answers would be split between processes.

    Args:
        config: TRL's configuration.
    """
    local = config.per_device_train_batch_size * config.steps_per_generation
    if local % config.num_generations:
        raise SettingError(
            f"num_generations={config.num_generations} does not divide the {local} answers that "
            "one process makes at a time (per_device_train_batch_size times steps_per_generation): "
            "groups would be split between processes, and their rewards not be comparable"
        )


def _default_rewards(
    scorer: Scorer, size: int, thinking: str, system_prompts: Mapping[str, str] | None
) -> dict[Any, float]:
    mode = "off" if thinking == "off" else "on"
    common: dict[str, Any] = {"scorer": scorer, "thinking": mode, "system_prompts": system_prompts}
    return {
        Correct(**common): 1.0,
        Consistent(**common): 0.2,
        Brief(**common, num_generations=size): 0.2,
    }


def _weights(rewards: Mapping[Any, float]) -> list[float]:
    """Returns the weights of rewards, of which form alone is worth less than being right."""
    correct = sum(weight for reward, weight in rewards.items() if isinstance(reward, Correct))
    formed = sum(weight for reward, weight in rewards.items() if isinstance(reward, Formed))
    if correct and formed >= correct:
        raise SettingError(
            f"the weight of Formed, {formed:g}, is not below that of Correct, {correct:g}: a wrong "
            "answer in the right form would be worth as much as a right one"
        )
    return [float(weight) for weight in rewards.values()]


def _table(prompts: Sequence[Any], problems: Sequence[Problem]) -> Any:
    import datasets

    answers = [json.dumps(each.answer, default=str) for each in problems]
    return datasets.Dataset.from_dict({"prompt": list(prompts), "answer": answers})


def _figures(
    problems: Sequence[Problem], prompts: Sequence[Any], scorer: LimitedScorer
) -> dict[str, Any]:
    failures = {f"scorer {kind}": count for kind, count in scorer.failures.items()}
    return {"tasks": len(problems), "prompts": len(prompts), **failures}
