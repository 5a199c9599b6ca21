"""add_thinking_switch(): any chat template, with thinking that a caller turns on and off."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from puzzle.errors import DataError
from puzzle.text.chat import thinking_switch
from puzzle.text.template_rendering import apply_template, rendered_tokens
from puzzle.text.thoughts import CLOSE, FIELD, MODES, OPEN

# Around a template, which reads the messages that are left for it.
_BEFORE = """\
{%- set thinking = namespace(on=DEFAULT, turns=[]) -%}
{%- set mark = MARK -%}
{%- if enable_thinking is defined -%}{%- set thinking.on = enable_thinking -%}{%- endif -%}
{%- for turn in messages -%}
{%- set own = namespace(text=turn.content) -%}
{%- if turn.role in ('system', 'user') and turn.content is string -%}
{%- for flag, mode in (('/no_think', false), ('/think', true)) -%}
{%- set words = own.text.split() -%}
{%- if words and words[-1] == flag -%}
{%- set thinking.on = mode -%}
{%- set own.text = own.text.rstrip()[:-(flag | length)].rstrip() -%}
{%- elif words and words[0] == flag -%}
{%- set thinking.on = mode -%}
{%- set own.text = own.text.lstrip()[(flag | length):].lstrip() -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set thinking.turns = thinking.turns + [dict(turn, content=own.text)] -%}
{%- endfor -%}
{%- set shown = namespace(turns=[]) -%}
{%- for turn in thinking.turns -%}
{%- if turn.role == 'assistant' and turn.content is string -%}
{%- set parts = turn.content.split('</think>') -%}
{%- set answer = parts[-1].strip() if parts | length > 1 else turn.content -%}
{%- set before = parts[:-1] | join('</think>') | replace('<think>', '') -%}
{%- set thought = (turn.FIELD or before).strip() -%}
{%- if not loop.last -%}
{%- set shown.turns = shown.turns + [dict(turn, content=mark ~ answer ~ mark, FIELD='')] -%}
{%- elif thinking.on and thought -%}
{%- set written = '<think>\\n' ~ mark ~ thought ~ '\\n</think>\\n\\n' ~ answer ~ mark -%}
{%- set shown.turns = shown.turns + [dict(turn, content=written, FIELD='')] -%}
{%- else -%}
{%- set written = '<think></think>' ~ mark ~ answer ~ mark -%}
{%- set shown.turns = shown.turns + [dict(turn, content=written, FIELD='')] -%}
{%- endif -%}
{%- else -%}
{%- set shown.turns = shown.turns + [turn] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = shown.turns -%}
"""
_AFTER = """\
{%- if add_generation_prompt -%}
{{- '<think>\\n' if thinking.on else '<think></think>' -}}
{%- endif -%}
"""
# Around a template whose marked text is what the assistant writes, with the token that ends it.
_MARK = "'\\x02'"
_MARKED = (
    "{%- set text -%}",
    """\
{%- endset -%}
{%- for part in text.split(mark) -%}
{%- if loop.index0 % 2 -%}
{%- set ends = eos_token and loop.nextitem.startswith(eos_token) -%}
{%- generation -%}{{- part ~ (eos_token if ends else '') -}}{%- endgeneration -%}
{%- elif loop.index0 and eos_token and part.startswith(eos_token) -%}
{{- part[(eos_token | length):] -}}
{%- else -%}
{{- part -}}
{%- endif -%}
{%- endfor -%}
""",
)
_ANSWERS = ("3", "The answer.", " so", "(a)", "-1")


def add_thinking_switch(
    tokenizer: Any, *, default: str = "on", generation_markers: bool = False
) -> Any:
    """Returns a copy of a tokenizer whose chat template turns thinking on and off.

    The template stays as it is; it is given other messages. Two controls are read: the argument
    `enable_thinking`, and `/think` or `/no_think` as the first or last word of a message of the
    system or the user, the last of which counts and is not shown. A prompt ends with `<think>` and
    a line break, or with `<think></think>`. Answers that are not the last one are shown without
    their thoughts. No token is added to the vocabulary.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template without a switch.
        default: The mode where nothing says otherwise.
        generation_markers: Put what the assistant writes between `{% generation %}` and
            `{% endgeneration %}`, from which transformers makes `assistant_masks` and TRL the loss
            of `assistant_only_loss`. Other engines may not know these tags.

    Raises:
        DataError: There is no template, it has a switch, it rejects the changed messages, it has
            markers already or cannot have them, or the
            tokens of a prompt are not the first ones of prompt and answer in one of the modes, so
            that a model would be trained on other tokens than it is given.

    Example:
        >>> tokenizer = add_thinking_switch(tokenizer)  # doctest: +SKIP
        >>> tokenizer.apply_chat_template(messages, enable_thinking=False)  # doctest: +SKIP
    """
    if default not in MODES:
        raise DataError(f"default={default!r}; allowed: {MODES}")
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise DataError("the tokenizer has no chat template; give it one first")
    if thinking_switch(tokenizer):
        raise DataError(
            "the chat template has a thinking switch already (puzzle.text.chat.thinking_switch "
            "says which); use it as it is"
        )
    switched = copy.deepcopy(tokenizer)
    if isinstance(template, Mapping):
        switched.chat_template = {name: _around(each, default) for name, each in template.items()}
    else:
        switched.chat_template = _around(template, default)
    _require_switch(switched)
    _require_stable(switched)
    return _marked(switched, template, default) if generation_markers else switched


def _around(template: str, default: str, *, marked: bool = False) -> str:
    before = _BEFORE.replace("DEFAULT", str(default == "on").lower()).replace("FIELD", FIELD)
    before = before.replace("MARK", _MARK if marked else "''")
    return before + (template.join(_MARKED) if marked else template) + _AFTER


def _marked(switched: Any, template: Any, default: str) -> Any:
    """Returns a switched tokenizer with markers, which show the same text."""
    if not isinstance(template, str) or "endgeneration" in template:
        raise DataError(
            "generation_markers=True needs one chat template, which has no {% generation %} yet"
        )
    marked = copy.deepcopy(switched)
    marked.chat_template = _around(template, default, marked=True)
    for mode in MODES:
        for answer in (None, *_ANSWERS):
            if _rendered(marked, mode, answer) != _rendered(switched, mode, answer):
                raise DataError(
                    f"the chat template changes what an answer holds ({answer!r}, thinking {mode}),"
                    " so that it cannot be marked; leave generation_markers out"
                )
    return marked


def _rendered(tokenizer: Any, mode: str, answer: str | None = None) -> str:
    turns: list[dict[str, Any]] = [{"role": "user", "content": "What is 1 + 2?"}]
    if answer is not None:
        thought = {FIELD: "1 + 2 = 3"} if mode == "on" else {}
        turns.append({"role": "assistant", "content": answer, **thought})
    arguments = {"enable_thinking": mode == "on"}
    return apply_template(tokenizer, turns, prompt=answer is None, arguments=arguments)


def _require_switch(tokenizer: Any) -> None:
    """Raises DataError if the template does not show what it is given."""
    for mode, ending in (("on", f"{OPEN}\n"), ("off", f"{OPEN}{CLOSE}")):
        prompt, whole = _rendered(tokenizer, mode), _rendered(tokenizer, mode, "The answer.")
        if not (prompt.endswith(ending) and whole.startswith(prompt)):
            raise DataError(
                f"with thinking {mode}, the chat template does not start a conversation with the "
                f"prompt for its last answer: the prompt ends with {prompt[-40:]!r} and the "
                f"conversation with {whole[-80:]!r}; change the template, or use a system prompt "
                "as the switch (DistillConfig.system_prompts)"
            )


def _require_stable(tokenizer: Any) -> None:
    """Raises DataError if the tokens of a prompt are not those that start the conversation."""
    for mode in MODES:
        prompt = rendered_tokens(tokenizer, _rendered(tokenizer, mode))
        for answer in _ANSWERS:
            whole = rendered_tokens(tokenizer, _rendered(tokenizer, mode, answer))
            if whole[: len(prompt)] != prompt:
                raise DataError(
                    f"with thinking {mode}, the tokens of a prompt are not the first ones of it "
                    f"and the answer {answer!r}: the tokenizer joins the end of the prompt with "
                    "what follows; use a system prompt as the switch"
                )
