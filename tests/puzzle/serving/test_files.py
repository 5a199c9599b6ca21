"""Claims about the files that go beside the weights."""

from transformers import AutoTokenizer

from puzzle.serving.files import save_tokenizer
from tests.factories.children import byte_level_tokenizer


def test_a_tokenizer_is_copied_as_it_is_stored_unless_it_was_changed(tmp_path):
    byte_level_tokenizer(eos_token="<end>").save_pretrained(tmp_path / "parent")
    template = tmp_path / "parent" / "chat_template.jinja"
    template.write_bytes(b"{{ messages }}{#  odd\r\nspacing #}")
    file = tmp_path / "parent" / "tokenizer.json"
    file.write_bytes(b"\n" + file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "parent")
    tokenizer(["a", "abc"], padding=False, truncation=True, max_length=2)
    for name in ("same", "changed"):
        (tmp_path / name).mkdir()
    save_tokenizer(tokenizer, tmp_path / "same")
    for stored in (template, file):
        assert (tmp_path / "same" / stored.name).read_bytes() == stored.read_bytes()
    tokenizer.chat_template = "{{ other }}"
    save_tokenizer(tokenizer, tmp_path / "changed")
    assert (tmp_path / "changed" / "chat_template.jinja").read_text() == "{{ other }}"
