"""Claims about the training windows: what is in them, and that they can be taken up again."""

import json
from collections import Counter

import datasets
import pytest
import torch

from puzzle.errors import DataError
from puzzle.text.packing import PackedStream
from tests.factories.distillation import tokens
from tests.factories.parents import WORDS, tokenizer
from tests.factories.parents import text as documents


def sources(tmp_path):
    rows = [{"text": text} for text in documents(count=30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "rows.parquet")
    return {
        "text": "\n\n".join(documents(count=30)),
        "list": documents(count=30),
        "rows": rows,
        "dataset": table,
        "stream": table.to_iterable_dataset(num_shards=3),
        "jsonl": path,
        "parquet": tmp_path / "rows.parquet",
        "windows": tokens(30, 8),
    }


KINDS = ("text", "list", "rows", "dataset", "stream", "jsonl", "parquet", "windows")


def through_json(state):
    values, tensors = state
    return json.loads(json.dumps(values)), tensors


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_stream_goes_on_with_the_same_windows(kind, tmp_path):
    # Thirty rows of 21 tokens, so that the three epochs' borders are crossed.
    def opened():
        return PackedStream(sources(tmp_path)[kind], tokenizer(), length=8, seed=5, buffer=7)

    for taken in (0, 1, 40, 77, 78, 79, 80, 160):
        stream = opened()
        if taken:
            stream.take(taken)
        state = through_json(stream.state())
        expected = stream.take(100)
        again = opened()
        again.restore(*state)
        assert torch.equal(again.take(100), expected), taken


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_of_an_epoch_is_in_the_windows_exactly_as_often_as_in_the_text(kind, tmp_path):
    data = sources(tmp_path)[kind]
    stream = PackedStream(data, tokenizer(), length=1, buffer=1)
    size = 240 if kind == "windows" else 30 * 21
    found = Counter(stream.take(size)[:, 0].tolist())
    if kind == "windows":
        expected = Counter(data.flatten().tolist())
    else:
        expected = Counter({0: 30})
        for text in documents(count=30):
            expected.update(2 + WORDS.index(word) for word in text.split())
    assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_reads_no_row_twice_and_says_how_much_there_was(kind, tmp_path, caplog):
    data = sources(tmp_path)[kind]
    size = 240 if kind == "windows" else 30 * 21
    for length, count, have in ((8, 10**6, size // 8), (8, 3, 3), (size, 2, 1)):
        caplog.clear()
        stream = PackedStream(data, tokenizer(), length=length, resumable=False)
        windows = stream.take_once(count)
        assert windows.shape == (have, length)
        assert (f"fill {have} of {count} windows" in caplog.text) is (have < count)
        again = PackedStream(data, tokenizer(), length=length, resumable=False)
        assert torch.equal(again.take(have), windows)
    with pytest.raises(DataError, match=f"has {size} tokens, and one window takes {size + 1}"):
        PackedStream(data, tokenizer(), length=size + 1, resumable=False).take_once(1)
    with pytest.raises(DataError, match=f"has {size} tokens, and one window takes {size + 1}"):
        PackedStream(data, tokenizer(), length=size + 1).take(1)


def test_text_that_is_read_again_is_said_once(caplog):
    stream = PackedStream(tokens(30, 8), None, length=8)
    said = "all 240 tokens of the text have been read"
    stream.take(20)
    assert said not in caplog.text
    for _ in range(3):
        stream.take(30)
    assert caplog.text.count(said) == 1


def test_documents_are_packed_whole_and_in_another_order_each_epoch():
    texts = documents(count=12)
    stream = PackedStream(texts, tokenizer(), length=21)
    epochs = [
        [" ".join(WORDS[i - 2] for i in row[:-1]) for row in stream.take(12).tolist()]
        for _ in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(texts)
    assert epochs[0] != epochs[1] != texts


def test_another_seed_gives_other_windows_and_the_same_seed_the_same():
    def first(seed):
        return PackedStream(documents(), tokenizer(), length=16, seed=seed).take(8)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_a_streamed_set_is_shuffled_within_its_buffer():
    table = datasets.Dataset.from_list([{"text": word} for word in WORDS])
    found = {}
    for buffer in (1, 20):
        stream = PackedStream(
            table.to_iterable_dataset(), tokenizer(), length=2, seed=1, buffer=buffer
        )
        found[buffer] = [WORDS[i - 2] for i in stream.take(40)[:, 0].tolist()]
    assert found[1] == WORDS[:40]
    assert found[20] != WORDS[:40]
    # The n-th draw cannot know more than the first n + buffer - 1 rows.
    assert all(WORDS.index(word) < n + 20 for n, word in enumerate(found[20]))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "no rows"),
        ("", "no rows"),
        (["", " "], "hold no text"),
        (datasets.Dataset.from_dict({"text": []}), "no rows"),
        ((word for word in WORDS), "generator cannot be resumed"),
        (7, "data is a int"),
        ([{"prompt": "w1"}], "'text' or 'messages'"),
        (torch.zeros(3), "token windows"),
        (datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset().skip(5), "no rows"),
    ],
)
def test_useless_data_is_named(data, match):
    with pytest.raises(DataError, match=match):
        PackedStream(data, tokenizer(), length=4).take(1)


def test_a_missing_or_unknown_file_is_named(tmp_path):
    for name in ("absent.jsonl", "rows.pickle"):
        with pytest.raises(DataError, match=name):
            PackedStream(tmp_path / name, tokenizer(), length=4)


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(DataError, match="tokenizer="):
        PackedStream(documents(), None, length=4)


# The switch shows as one more word before the answer.
SWITCH = (
    "{% for m in messages %}{{ m.reasoning_content }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "w59 {% endif %}"
)


def test_every_conversation_is_read_in_both_thinking_modes_within_two_epochs():
    answer = {"role": "assistant", "content": "w58", "reasoning_content": "w57 w56"}
    rows = [{"messages": [{"role": "user", "content": q}, answer]} for q in WORDS[:7]]
    # No example of thinking.
    rows += [
        {"messages": [{"role": "user", "content": "w55"}, {**answer, "reasoning_content": ""}]}
    ]
    found = {}
    for thinking in ("both", "on", "off"):
        stream = PackedStream(rows, tokenizer(SWITCH), length=1, thinking=thinking)
        tokens_each = {"on": 5 * 14, "off": 4 * 16, "both": 7 * 9 + 4}[thinking]
        text = " ".join(["<eos>", "<unk>", *WORDS][i] for i in stream.take(tokens_each)[:, 0])
        found[thinking] = Counter(part.strip() for part in text.split("<eos>") if part.strip())
    assert found["on"] == {f"{q} w57 w56 w58": 2 for q in WORDS[:7]}
    assert found["off"] == {f"{q} w59 w58": 2 for q in [*WORDS[:7], "w55"]}
    assert set(found["both"]) == set(found["on"]) | set(found["off"])
    assert set(found["both"].values()) == {1}
