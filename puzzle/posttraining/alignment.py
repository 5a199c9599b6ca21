"""align(): preferences, judged answers or a reward model, by TRL's DPO, KTO and RLOO."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from puzzle.errors import SettingError
from puzzle.hardware.torch_state import own_torch_state
from puzzle.posttraining.conversation_rows import Problem, mappings_of, turns_of
from puzzle.posttraining.mode_format import format_shares
from puzzle.posttraining.mode_prompts import mode_prompts
from puzzle.posttraining.posttrain_result import PostTrainResult
from puzzle.posttraining.preference_rows import judged_rows, preference_rows
from puzzle.posttraining.stage_run import StageRun, open_stage, require_trl, trackers, trl_config
from puzzle.storage.plain_values import count_of
from puzzle.text.chat import thinking_switch

# TRL's trainer of each method, and what it is set to.
_TRAINERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "dpo": ("DPO", {}),
    "apo_zero": ("DPO", {"loss_type": ["apo_zero"]}),
    "kto": ("KTO", {}),
    "rloo": ("RLOO", {}),
}
_PROBES = 16


@own_torch_state()
def align(
    model: Any,
    data: Any,
    *,
    method: str = "dpo",
    reward_model: Any = None,
    thinking: str = "both",
    probes: Sequence[Any] | None = None,
    probe_tokens: int = 512,
    out: str | os.PathLike[str] = "align",
    tokenizer: Any = None,
    training: Mapping[str, Any] | None = None,
    peft_config: Any = None,
    system_prompts: Mapping[str, str] | None = None,
    resume: bool = True,
    callbacks: Iterable[Any] = (),
    report_to: str | Iterable[str] | None = None,
) -> PostTrainResult:
    """Aligns a model with preferences, and says whether both modes keep their form.

    The same call goes on where another one ended.

    Args:
        model: As for `sft`.
        data: Rows with `prompt`, `chosen` and `rejected` for "dpo" and "apo_zero", with `prompt`,
            `completion` and `label` for "kto", with `prompt` for "rloo". A row may name its mode.
        method: "dpo", "apo_zero" (DPO with the loss of that name, which makes chosen answers
            likelier and rejected ones less likely), "kto", or "rloo" with a reward model.
        reward_model: The directory or hub id of a model with one label that scores conversations.
        thinking: The modes that "rloo" trains, as for `rl`.
        probes: Questions whose greedy answers are looked at before and after, of which the figures
            say how many have the form of their mode; by default the first 16 prompts. None are
            looked at if the template has no switch.
        probe_tokens: The most tokens of such an answer.
        out: The run directory; the model is in `out/child`.
        tokenizer: By default the one beside the model.
        training: Fields of TRL's DPOConfig, KTOConfig or RLOOConfig, such as `beta`.
        peft_config: Adapters of peft, which are merged into what is saved.
        system_prompts: The system prompt of each mode, for a model whose switch that is.
        resume: As for `sft`.
        callbacks: TrainerCallback instances of transformers.
        report_to: Trackers that transformers knows, such as "tensorboard" or "wandb".

    Raises:
        DataError: A row has not what the method needs, TRL is not installed, or an argument is not
            allowed.
        SettingError: The method is unknown, or has a reward model that it does not take.
        DivergedError: The loss is not finite.
        WorkspaceError: The disk is full or cannot be written, or `out` holds something else.

    Example:
        >>> puzzle.posttraining.align("rl/child", Path("preferences.jsonl"), method="apo_zero",
        ...     training={"learning_rate": 1e-6})  # doctest: +SKIP
    """
    if method not in _TRAINERS:
        raise SettingError(f"method={method!r}; allowed: {', '.join(_TRAINERS)}")
    if (reward_model is not None) != (method == "rloo"):
        raise SettingError("method='rloo' needs a reward_model, and no other method takes one")
    trl, given = require_trl(), [dict(row) for row in mappings_of(data)]
    count_of("probe_tokens", probe_tokens)
    run = open_stage(
        "align",
        model,
        tokenizer,
        out,
        depends={
            "rows": given,
            "how": [method, thinking, str(reward_model), repr(peft_config)],
            "training": dict(training or {}),
            **({"system prompts": dict(system_prompts)} if system_prompts else {}),
        },
        resume=resume,
    )
    kind, own = _TRAINERS[method]
    rows, counts, arguments = _rows(run, given, method, thinking, system_prompts)
    common = {"output_dir": str(run.checkpoints), "report_to": trackers(report_to), **own}
    config = trl_config(f"{kind}Config", {**common, **arguments}, training)
    if (done := run.finished()) is not None:
        return done
    import datasets

    start = run.model()
    look = functools.partial(
        _shares, run, _probes(run, given, probes, system_prompts), probe_tokens, system_prompts
    )
    before = look(start, "before")
    reward = {"reward_funcs": reward_model} if method == "rloo" else {}
    trainer = getattr(trl, f"{kind}Trainer")(
        start,
        **reward,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=run.tokenizer,
        peft_config=peft_config,
        callbacks=list(callbacks),
    )
    return run.train(
        trainer,
        lambda trained: {**counts, **before, **look(trained, "after")},
    )


def _rows(
    run: StageRun,
    given: Sequence[Mapping[str, Any]],
    method: str,
    thinking: str,
    system_prompts: Mapping[str, str] | None,
) -> tuple[list[dict[str, Any]], dict[str, int], dict[str, Any]]:
    """Returns TRL's rows, what was counted, and fields of its configuration."""
    if method != "rloo":
        read = judged_rows if method == "kto" else preference_rows
        return (*read(given, run.tokenizer, system_prompts), {})
    problems = [Problem(prompt=turns_of(row.get("prompt", "")), answer=None) for row in given]
    prompts, _, arguments = mode_prompts(problems, run.tokenizer, thinking, system_prompts)
    own = {"chat_template_kwargs": arguments or None}
    return [{"prompt": each} for each in prompts], {"rows": len(prompts)}, own


def _probes(
    run: StageRun,
    given: Sequence[Mapping[str, Any]],
    probes: Sequence[Any] | None,
    system_prompts: Mapping[str, str] | None,
) -> list[Any]:
    if not (system_prompts or thinking_switch(run.tokenizer)):
        return []
    own = [row["prompt"] for row in given if row.get("prompt")][:_PROBES]
    return own if probes is None else list(probes)


def _shares(
    run: StageRun,
    probes: Sequence[Any],
    most: int,
    system_prompts: Mapping[str, str] | None,
    model: Any,
    when: str,
) -> dict[str, float]:
    if not probes:
        return {}
    training = model.training
    found = format_shares(
        model.eval(),
        probes,
        tokenizer=run.tokenizer,
        max_tokens=most,
        system_prompts=system_prompts,
    )
    model.train(training)
    return {f"in form {when}, thinking {mode}": share for mode, share in found.items()}
