"""Chat templates without a tokenizer."""

from transformers.utils.chat_template_utils import render_jinja_template


class Template:
    """A tokenizer as far as chat templates go: transformers' own renderer, no vocabulary."""

    def __init__(self, chat_template):
        self.chat_template = chat_template

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt, **arguments):
        assert not tokenize
        rendered, _ = render_jinja_template(
            [messages],
            chat_template=self.chat_template,
            add_generation_prompt=add_generation_prompt,
            **{"bos_token": "", "eos_token": "", **arguments},
        )
        return rendered[0]
