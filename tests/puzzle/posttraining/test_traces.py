"""Claims about rows of several formats, verifiers that fail, and traces that resume."""

import json
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pytest

from puzzle.errors import DataError, EngineError
from puzzle.posttraining.answer_samplers import (
    ChatServer,
    ModelSampler,
    Sampled,
)
from puzzle.posttraining.conversation_rows import problems_of, rows
from puzzle.posttraining.limited_scorer import LimitedScorer
from puzzle.posttraining.opened_model import opened_with_tokenizer
from puzzle.posttraining.rewards import Correct
from puzzle.posttraining.stage_settings import SampleSettings
from puzzle.posttraining.trace_making import traces
from puzzle.text.switch import add_thinking_switch
from tests.factories.posttraining import LAYOUTS, save_pair

USER = {"role": "user", "content": "1+1="}
THOUGHT = "<think>\nso\n</think>\n\n2"
SAME = {
    "TRL, turns": {
        "prompt": [USER],
        "completion": [{"role": "assistant", "content": "2", "reasoning_content": "so"}],
        "chat_template_kwargs": {"enable_thinking": True},
    },
    "TRL, text": {"prompt": "1+1=", "completion": THOUGHT, "reasoning": "on"},
    "messages": {
        "messages": [USER, {"role": "assistant", "content": "2", "reasoning_content": "so"}],
        "reasoning": "on",
    },
    "Llama-Nemotron": {
        "input": [USER],
        "output": THOUGHT,
        "reasoning": "on",
        "system_prompt": "detailed thinking on",
        "category": "math",
    },
    "Nemotron v1": {
        "uuid": "0",
        "messages": [USER, {"role": "assistant", "content": THOUGHT}],
        "reasoning": "on",
    },
}


@pytest.mark.parametrize("name", SAME)
def test_every_format_gives_the_same_exchange(name, tmp_path):
    [expected] = rows([SAME["TRL, turns"]])
    assert (expected.thought, expected.answer, expected.modes) == ("so", "2", ("on",))
    file = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([SAME[name]]).to_parquet(str(file))
    assert rows([SAME[name]]) == rows(file) == [expected]
    assert rows([expected.to_dict()]) == [expected]


def test_a_row_that_names_no_mode_is_an_example_of_each_that_it_fits():
    with_thought = {"messages": [USER, {"role": "assistant", "content": THOUGHT}]}
    plain = {"messages": [USER, {"role": "assistant", "content": "2"}]}
    assert [each.modes for each in rows([with_thought, plain])] == [("on", "off"), ("off",)]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER]},
        {"prompt": "1+1=", "completion": ""},
        {"prompt": "1+1=", "completion": "<think>so"},
        {"prompt": "1+1=", "completion": "2", "reasoning": "on"},
        {"text": "1+1=2"},
    ],
)
def test_rows_without_an_answer_are_named(row):
    with pytest.raises(DataError, match=r"row 1 \(from 0\)"):
        rows([SAME["messages"], row])
    with pytest.raises(DataError, match=r"row 0 \(from 0\) has the columns"):
        problems_of([{"question": "1+1="}])


def loops(answer, right):
    while True:
        time.sleep(0.01)


def test_a_scorer_that_raises_hangs_or_returns_nan_scores_0_and_is_counted():
    def score(answer, right):
        if answer == "hang":
            while True:
                pass
        return {"raise": 1 / len(right), "nan": float("nan")}.get(answer, answer == right)

    limited = LimitedScorer(score, seconds=0.5)
    assert [limited(*pair) for pair in (("2", "2"), ("3", "2"), ("raise", ""))] == [1, 0, 0]
    assert [limited(*pair) for pair in (("nan", "2"), ("hang", "2"), ("2", "2"))] == [0, 0, 1]
    assert limited.failures == {"raised": 1, "not finite": 1, "timed out": 1}
    copied = pickle.loads(pickle.dumps(Correct(scorer=LimitedScorer(loops, seconds=9))))
    assert copied.scorer.seconds == 9
    limited.close()


class Teacher:
    """Answers sums, of which it gets every other one wrong, and counts what it was given."""

    identity = "teacher"

    def __init__(self, most=100):
        self.calls, self.most = 0, most

    def sample(self, prompts, mode, settings, *, seed):
        self.calls += 1
        if self.calls > self.most:
            raise KeyboardInterrupt
        thoughts = {"on": ("so", ""), "off": ("", "")}[mode]
        return [
            [
                Sampled(thought=thoughts[0], answer=str(eval(turns[-1]["content"][:-1])), tokens=3),
                Sampled(thought=thoughts[0], answer="?"),
                Sampled(thought="so", answer=None),
                Sampled(thought="so" if mode == "off" else "", answer="2"),
            ]
            for turns in prompts
        ]


SUMS = [{"question": f"{n}+1=", "answer": str(n + 1)} for n in range(40)]


def test_traces_keep_what_is_right_in_each_mode_and_go_on_where_they_ended(tmp_path):
    def verify(answer, right):
        return 1 / 0 if right == "7" else answer == right

    teacher, settings = Teacher(most=7), SampleSettings(samples=4, batch=8)
    with pytest.raises(KeyboardInterrupt):
        traces(teacher, SUMS, verify, out=tmp_path, settings=settings)
    teacher.most = 100
    made = traces(teacher, SUMS, verify, out=tmp_path, settings=settings)
    whole = Teacher()
    again = traces(whole, SUMS, verify, out=tmp_path / "other", settings=settings)
    assert teacher.calls < 7 + whole.calls  # what was written was not sampled again
    assert made.counts == again.counts
    fates = {"sampled": 160, "kept": 39, "wrong": 39, "unfinished": 40, "other mode": 40}
    for mode in ("on", "off"):
        assert made.counts[mode] == {**fates, "verifier raised": 2}
    assert set(made.failures) == {(6, "verifier raised")}
    exchanges = rows(made.path)
    assert len(exchanges) == 78
    assert {each.mode for each in exchanges} == {"on", "off"}
    assert all(bool(each.thought) == (each.mode == "on") for each in exchanges)
    assert all(each.answer == each.right for each in exchanges)


def test_traces_of_which_none_is_kept_are_refused(tmp_path):
    with pytest.raises(DataError, match="no answer was kept"):
        traces(Teacher(), SUMS[:1], lambda answer, right: 0, out=tmp_path)


def test_a_model_samples_in_both_modes_the_same_for_the_same_seed(tmp_path):
    save_pair(tmp_path, "llama", LAYOUTS["mixed"])
    model, tokenizer = opened_with_tokenizer(tmp_path / "child")
    sampler = ModelSampler(model, add_thinking_switch(tokenizer))
    settings = SampleSettings(samples=2, max_tokens=6)
    prompts = [[USER], [{"role": "user", "content": "2+2+2="}]]
    for mode in ("on", "off"):
        first, again, other = (
            sampler.sample(prompts, mode, settings, seed=seed) for seed in (1, 1, 2)
        )
        assert first == again != other
        assert [len(each) for each in first] == [2, 2]
        greedy = SampleSettings(samples=1, max_tokens=6, temperature=0)
        together = sampler.sample(prompts, mode, greedy, seed=0)
        assert together == [sampler.sample([p], mode, greedy, seed=0)[0] for p in prompts]
    limited = SampleSettings(samples=1, max_tokens=40, budget=3)
    [[ended]] = sampler.sample(prompts[:1], "on", limited, seed=0)
    assert 0 < len(ended.thought) <= 3


class Replies(BaseHTTPRequestHandler):
    """A server that answers as reasoning parsers, and servers without one, do."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        on = body.get("chat_template_kwargs", {}).get("enable_thinking")
        message = {"content": "2" if on is not None else body["messages"][0]["content"]}
        if on and body["model"] == "parsed":
            message["reasoning_content"] = "so"
        elif on:
            message["content"] = "so</think>2"
        choice = {"message": message, "finish_reason": "stop" if body["seed"] % 2 else "length"}
        reply = json.dumps({"choices": [choice], "usage": {"completion_tokens": 5}}).encode()
        self.send_response(404 if body["model"] == "missing" else 200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        """Keeps the test quiet."""


def test_a_server_answers_in_both_modes_with_and_without_a_reasoning_parser():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, settings = f"http://127.0.0.1:{server.server_port}/v1", SampleSettings(samples=2)
    try:
        for model in ("parsed", "plain"):
            for mode, thought in (("on", "so"), ("off", "")):
                [found] = ChatServer(url, model).sample([[USER]], mode, settings, seed=0)
                assert [each.answer for each in found] == [None, "2"]
                assert (found[1].thought, found[1].tokens) == (thought, 5)
        prompted = ChatServer(url, "parsed", system_prompts={"on": "think", "off": "do not"})
        turns = [[USER], [{"role": "system", "content": "Be kind."}, USER]]
        found = prompted.sample(turns, "on", settings, seed=0)
        assert [each[1].answer for each in found] == ["think", "think\n\nBe kind."]
        with pytest.raises(EngineError, match="404"):
            ChatServer(url, "missing").sample([[USER]], "on", settings, seed=0)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(DataError, match="http"):
        ChatServer("localhost:8000", "parsed")
    with pytest.raises(DataError, match="'on' and 'off'"):
        ChatServer(url, "parsed", system_prompts={"on": "think"})
