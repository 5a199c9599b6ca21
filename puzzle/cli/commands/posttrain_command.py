"""puzzle posttrain: `puzzle.posttraining`'s traces, sft, rl and align."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from puzzle import posttraining
from puzzle.cli.config_file import write_config
from puzzle.cli.flags import Given, Option, declared_options, grouped
from puzzle.cli.signatures import declared
from puzzle.cli.subcommand import Answer, Subcommand, UsageError, required
from puzzle.cli.system_prompts import SYSTEM_PROMPT, system_prompts_of
from puzzle.posttraining.stage_settings import PairSettings, SampleSettings
from puzzle.storage.paths import user_path

STAGES = ("traces", "sft", "rl", "align")
METHODS = {"rl": ("grpo", "rloo"), "align": ("dpo", "apo_zero", "kto", "rloo")}
SCORERS: Mapping[str, str] = {
    "math": "math_equal",
    "gym": "gym_equal",
    "instructions": "instructions_followed",
}
SOURCES = (
    Option(
        name="stage",
        parameter="stage",
        positional=True,
        help="traces (answers of a teacher), sft, rl, or align",
        choices=STAGES,
    ),
    Option(
        name="model",
        parameter="model",
        positional=True,
        help="the directory of a child or of any other model; for traces also the address of a "
        "server, such as http://localhost:8000/v1",
    ),
    Option(
        name="rows",
        parameter="data",
        aliases=("data",),
        help="a .jsonl, .json or .parquet file: conversations for sft, questions with answers for "
        "traces and rl, preferences for align",
    ),
    Option(name="out", parameter="out", help="the run directory; by default named as the stage"),
    Option(
        name="thinking",
        parameter="thinking",
        help="the modes: of traces and rl",
        default="both",
        choices=("both", "on", "off"),
    ),
    SYSTEM_PROMPT,
    Option(
        name="add-switch",
        parameter="add_switch",
        type=bool,
        default=False,
        help="put a switch for thinking around the chat template; it is saved with the model",
    ),
)
TASKS = grouped(
    "tasks of traces and rl",
    (
        Option(
            name="gym",
            parameter="gym",
            many=True,
            help="a data set of reasoning-gym, in place of --rows; repeatable",
        ),
        Option(name="gym-size", parameter="gym_size", type=int, default=1000, help="rows of each"),
        Option(
            name="scorer",
            parameter="scorer",
            default="same",
            help="what judges an answer: same (the same text), math, gym, instructions, code, or "
            "the name of a function, such as mymodule.score; gym with --gym",
        ),
        Option(
            name="scorer-seconds",
            parameter="seconds",
            type=float,
            default=10.0,
            help="the most that it may take for one answer",
        ),
        Option(
            name="server-model",
            parameter="server_model",
            help="the name of the model on the server of traces",
        ),
        Option(
            name="rate-samples",
            parameter="rate_samples",
            type=int,
            help="before rl, answer each task so many times, and leave out those that are never or "
            "nearly always solved",
        ),
    ),
)
TRAINING = grouped(
    "training of sft, rl and align",
    (
        Option(
            name="method",
            parameter="method",
            help="of rl: grpo (default) or rloo; of align: dpo (default), apo_zero, kto, or rloo",
        ),
        Option(
            name="reward-model",
            parameter="reward_model",
            help="of align with rloo: the directory of a model with one label",
        ),
        Option(
            name="set",
            parameter="training",
            many=True,
            help="NAME=VALUE, a field of TRL's configuration, such as learning_rate=1e-5; "
            "repeatable",
        ),
        Option(
            name="lora-rank",
            parameter="lora_rank",
            type=int,
            help="train adapters of this rank, which are merged into what is saved",
        ),
        Option(
            name="report-to",
            parameter="report_to",
            help="a tracker that transformers knows, such as tensorboard",
        ),
        Option(
            name="resume",
            parameter="resume",
            type=bool,
            default=True,
            help="continue a run of the same model, rows and settings",
        ),
    ),
)
SAMPLES = grouped(
    "how traces are sampled",
    declared_options(
        declared(SampleSettings),
        changes={
            "budget": {"help": "the most tokens of a thought, of a model that is no server"},
            "seed": {"help": "seed of the draws, and of the training of the other stages"},
        },
    ),
)
PAIRS = grouped(
    "rows of sft",
    declared_options(
        declared(PairSettings),
        skip=("seed", "system_prompts"),
        changes={"max_length": {"help": "the most tokens of a row; longer ones are left out"}},
    ),
)
_OF_STAGE: Mapping[str, tuple[tuple[Option, ...], ...]] = {
    "traces": (TASKS[:5], SAMPLES),
    "sft": (TRAINING[2:], PAIRS),
    "rl": (TASKS[:4], TASKS[5:], TRAINING[:1], TRAINING[2:]),
    "align": (TRAINING,),
}


def _run(given: Given) -> Answer:
    stage = required(given, "stage")
    if stage not in STAGES:
        raise UsageError(f"stage {stage}: allowed: {', '.join(STAGES)}")
    _refuse_others(given, stage)
    out = user_path(given.get("out", stage))
    result = _RUNS[stage](given, required(given, "model"), out)
    write_config(out / f"posttrain-{stage}.toml", given.values)
    return Answer(
        values=result.to_dict(),
        text=f"{result.table()}\n{result.path}",
        rows=[("", "value"), *result.rows()] if stage != "traces" else (),
    )


def _refuse_others(given: Given, stage: str) -> None:
    """Raises UsageError for options of another stage."""
    own = {each.name for group in (SOURCES, *_OF_STAGE[stage]) for each in group}
    if wrong := sorted(given.values.keys() - own - {"seed"}):
        raise UsageError(f"--{wrong[0]} is no option of the stage {stage}")


def _traces(given: Given, model: str, out: Any) -> Any:
    teacher: Any = model
    prompts = system_prompts_of(given)
    if model.startswith(("http://", "https://")):
        name = required(given, "server-model")
        teacher, prompts = posttraining.ChatServer(model, name, system_prompts=prompts), None
    tasks, scorer = _tasks(given)
    return posttraining.traces(
        teacher,
        tasks,
        scorer,
        out=out,
        tokenizer=_tokenizer(given, model),
        settings=SampleSettings(**given.arguments(SAMPLES)),
        system_prompts=prompts,
        verifier_seconds=given.get("scorer-seconds", 10.0),
        **_named(given, "thinking"),
    )


def _sft(given: Given, model: str, out: Any) -> Any:
    settings = PairSettings(**given.arguments(PAIRS), system_prompts=system_prompts_of(given))
    if "seed" in given.values:
        settings = replace(settings, seed=given.get("seed"))
    rows = user_path(required(given, "rows"))
    return posttraining.sft(model, rows, out=out, settings=settings, **_training(given, model))


def _rl(given: Given, model: str, out: Any) -> Any:
    tasks, scorer = _tasks(given)
    seconds, tokenizer = given.get("scorer-seconds", 10.0), _tokenizer(given, model)
    common = _named(given, "thinking")
    rates = None
    if (samples := given.get("rate-samples")) is not None:
        rates = posttraining.solve_rates(
            model,
            tasks,
            scorer,
            tokenizer=tokenizer,
            settings=SampleSettings(samples=samples),
            scorer_seconds=seconds,
            system_prompts=system_prompts_of(given),
            **{"thinking": "both", **common},
        )
    return posttraining.rl(
        model,
        tasks,
        scorer,
        rates=rates,
        out=out,
        system_prompts=system_prompts_of(given),
        scorer_seconds=seconds,
        **common,
        **_method(given, "rl"),
        **_training(given, model),
    )


def _align(given: Given, model: str, out: Any) -> Any:
    return posttraining.align(
        model,
        user_path(required(given, "rows")),
        out=out,
        system_prompts=system_prompts_of(given),
        **_named(given, "reward-model", "thinking"),
        **_method(given, "align"),
        **_training(given, model),
    )


_RUNS: Mapping[str, Callable[[Given, str, Any], Any]] = {
    "traces": _traces,
    "sft": _sft,
    "rl": _rl,
    "align": _align,
}


def _named(given: Given, *names: str) -> dict[str, Any]:
    return {name.replace("-", "_"): given.get(name) for name in names if name in given.values}


def _method(given: Given, stage: str) -> dict[str, Any]:
    named = _named(given, "method")
    if named and named["method"] not in METHODS[stage]:
        raise UsageError(f"--method {named['method']}: allowed: {', '.join(METHODS[stage])}")
    return named


def _tasks(given: Given) -> tuple[Any, Any]:
    """Returns the tasks that options name, and what judges their answers."""
    gym, file, scorer = given.get("gym"), given.get("rows"), given.get("scorer", "same")
    if bool(gym) == bool(file):
        raise UsageError("give --rows FILE, or --gym NAME")
    if gym:
        tasks = posttraining.gym_tasks(gym, size=given.get("gym-size", 1000))
        return tasks, posttraining.gym_equal
    if scorer == "code":
        return user_path(file), posttraining.CodeTests()
    if scorer == "same":
        return user_path(file), posttraining.same_text
    if scorer in SCORERS:
        return user_path(file), getattr(posttraining, SCORERS[scorer])
    return user_path(file), _function(scorer)


def _function(name: str) -> Any:
    module, dot, function = name.rpartition(".")
    try:
        if dot:
            return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--scorer {name}: {error}") from error
    raise UsageError(
        f"--scorer {name}: allowed: same, math, gym, instructions, code, or a function"
    )


def _tokenizer(given: Given, model: str) -> Any:
    if not given.get("add-switch", False):
        return None
    return posttraining.switched_tokenizer(model)


def _training(given: Given, model: str) -> dict[str, Any]:
    """Returns what the three stages that train have in common."""
    fields = {}
    for text in given.get("set", []):
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UsageError(f"--set {text!r}: write NAME=VALUE, such as learning_rate=1e-5")
        try:
            fields[name.strip()] = json.loads(value)
        except ValueError:
            fields[name.strip()] = value.strip()
    if "seed" in given.values:
        fields.setdefault("seed", given.get("seed"))
    common = _named(given, "resume", "report-to")
    return {
        **common,
        "tokenizer": _tokenizer(given, model),
        "training": fields,
        "peft_config": _adapters(given.get("lora-rank")),
    }


def _adapters(rank: int | None) -> Any:
    if rank is None:
        return None
    try:
        import peft
    except ImportError as error:
        raise UsageError('--lora-rank needs peft: pip install "puzzle-nas[posttrain]"') from error
    return peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")


POSTTRAIN = Subcommand(
    name="posttrain",
    help="teach a child to think when it is told to: traces, sft, rl and align, by TRL",
    options=(*SOURCES, *TASKS, *SAMPLES, *PAIRS, *TRAINING),
    examples=(
        "puzzle posttrain sft puzzle-run/child --rows traces/traces.parquet --add-switch "
        "--set learning_rate=1e-5",
        "puzzle posttrain rl sft/child --gym chain_sum --rate-samples 4 --set num_generations=8",
    ),
    run=_run,
)
