"""sft(): supervised fine-tuning on pairs of answers with and without thinking, by TRL."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from puzzle.hardware.torch_state import own_torch_state
from puzzle.models.pretrained import load_config
from puzzle.posttraining.conversation_rows import Exchange, rows
from puzzle.posttraining.pair_tokens import pair_rows
from puzzle.posttraining.posttrain_result import PostTrainResult
from puzzle.posttraining.stage_run import open_stage, require_trl, trackers, trl_config
from puzzle.posttraining.stage_settings import PairSettings
from puzzle.storage.plain_values import count_of


@own_torch_state()
def sft(
    model: Any,
    data: Any,
    *,
    out: str | os.PathLike[str] = "sft",
    tokenizer: Any = None,
    settings: PairSettings | None = None,
    training: Mapping[str, Any] | None = None,
    peft_config: Any = None,
    resume: bool = True,
    callbacks: Iterable[Any] = (),
    report_to: str | Iterable[str] | None = None,
) -> PostTrainResult:
    """Teaches a model to answer with thinking on and off, with TRL's SFTTrainer.

    A row that names no mode is trained in both: with its thought, and without. The loss is on what
    the model writes. The same call goes on where another one ended.

    Args:
        model: A child, its directory, a hub id, or what a search or a stage returned; it is not
            changed.
        data: As for `rows`.
        out: The run directory; the model is in `out/child`.
        tokenizer: By default the one beside the model. Its template needs a switch, which
            `puzzle.add_thinking_switch` gives it.
        settings: How rows are made of the data.
        training: Fields of TRL's SFTConfig, such as `learning_rate` and `num_train_epochs`.
        peft_config: Adapters of peft, which are merged into what is saved.
        resume: Continue a run of the same model, data and settings; if False, there must be none
            in `out`.
        callbacks: TrainerCallback instances of transformers.
        report_to: Trackers that transformers knows, such as "tensorboard" or "wandb".

    Raises:
        DataError: A row has no answer, the template has no switch, TRL is not installed, or an
            argument is not allowed.
        DivergedError: The loss is not finite.
        WorkspaceError: The disk is full or cannot be written, or `out` holds something else.

    Example:
        >>> puzzle.posttraining.sft("run/child", Path("traces/traces.parquet"),
        ...     training={"learning_rate": 1e-5})  # doctest: +SKIP
    """
    trl, settings = require_trl(), settings or PairSettings()
    exchanges = rows(data)
    depends = {
        "rows": [_row(each) for each in exchanges],
        "settings": asdict(settings),
        "training": dict(training or {}),
        "peft": repr(peft_config),
    }
    run = open_stage("sft", model, tokenizer, out, depends=depends, resume=resume)
    positions = int(load_config(run.source).max_position_embeddings)
    longest = min(positions, count_of("max_length", settings.max_length or positions))
    made, counts = pair_rows(exchanges, run.tokenizer, settings, longest)
    config = trl_config(
        "SFTConfig",
        {
            "output_dir": str(run.checkpoints),
            "report_to": trackers(report_to),
            "max_length": longest,
            "train_sampling_strategy": "sequential" if settings.curriculum else "random",
            "seed": settings.seed,
        },
        training,
    )
    if (done := run.finished()) is not None:
        return done
    import datasets

    table = datasets.Dataset.from_dict(
        {"input_ids": [row.ids for row in made], "labels": [row.labels for row in made]}
    )
    trainer = trl.SFTTrainer(
        run.model(),
        args=config,
        train_dataset=table,
        processing_class=run.tokenizer,
        peft_config=peft_config,
        callbacks=list(callbacks),
    )
    return run.train(trainer, lambda trained: counts)


def _row(exchange: Exchange) -> list[Any]:
    return [exchange.prompt, exchange.thought, exchange.answer, exchange.mode]
