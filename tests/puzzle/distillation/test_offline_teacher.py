"""Claims about the offline teacher: its loss is the full one where k is the vocabulary."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import puzzle
from puzzle.distillation.logit_losses import head_losses
from puzzle.distillation.offline_teacher import OfflineTeacher, cache_teacher
from puzzle.distillation.top_k_loss import top_k_kl
from puzzle.errors import DataError, EngineError, PuzzleError, SettingError
from tests.factories.distillation import child_model, losses, parent_model, settings, tokens
from tests.factories.parents import tokenizer

VOCAB, STEPS = 62, 3
KL = {"losses": {"kl": 1.0, "lm": 0.5}, "tokens": 16 * 8 * STEPS}


class Completions(BaseHTTPRequestHandler):
    """Answers as vLLM does: the log-probabilities of a prompt, by a model in memory."""

    def do_GET(self):
        self.answer({"data": [{"id": "tiny"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if len(self.server.asked) == self.server.broken:
            return self.send_error(400, "max_logprobs is 20")
        prompt, k = torch.tensor([body["prompt"]]), body["prompt_logprobs"]
        with torch.no_grad():
            log_p = torch.log_softmax(self.server.model(prompt).logits[0], -1)
        positions = [None]
        for at in range(prompt.shape[1] - 1):
            top = log_p[at].topk(k).indices.tolist()
            own = prompt[0, at + 1].item()
            kept = dict.fromkeys([own, *top])  # the prompt's own token comes first, in any case
            positions.append({str(t): {"logprob": log_p[at, t].item()} for t in kept})
        self.answer({"choices": [{"text": "", "prompt_logprobs": positions}]})

    def answer(self, values):
        text = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server around the tiny parent."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    served.model, served.asked, served.broken = parent_model(), [], None
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def url(server):
    return f"http://127.0.0.1:{server.server_port}"


def distilled(out, parent=None, **options):
    return puzzle.distill(
        child_model(),
        parent,
        tokens(),
        config=settings(**KL),
        tokenizer=tokenizer(),
        validation=tokens(4, seed=9),
        out=out,
        **options,
    )


def random_heads(count=10, hidden=8, vocab=37):
    draw = torch.Generator().manual_seed(0)
    child, own = (torch.randn(count, hidden, generator=draw).double() for _ in range(2))
    heads = [torch.randn(vocab, hidden, generator=draw).double() for _ in range(2)]
    return child.requires_grad_(), heads[0].requires_grad_(), own, heads[1]


@pytest.mark.parametrize("chunk", [5, 100])
def test_the_loss_of_the_whole_vocabulary_is_the_full_one_with_its_gradient(chunk):
    child_ND, child_VD, parent_ND, parent_VD = random_heads()
    none = torch.full((len(child_ND),), -100)
    heads = {"parent_ND": parent_ND, "parent_VD": parent_VD, "chunk": chunk, "names": ("kl",)}
    full = head_losses(child_ND, child_VD, none, **heads)["kl"]
    log_p, ids = torch.log_softmax(parent_ND @ parent_VD.T, -1).sort(-1, descending=True)
    some = top_k_kl(child_ND, child_VD, ids, log_p, chunk=chunk)
    torch.testing.assert_close(some, full)
    inputs = (child_ND, child_VD)
    wanted = torch.autograd.grad(full, inputs)
    torch.testing.assert_close(torch.autograd.grad(some, inputs), wanted)


def test_the_loss_of_some_tokens_is_the_kl_with_the_rest_as_one_token_and_at_most_the_full():
    child_ND, child_VD, parent_ND, parent_VD = random_heads()
    log_p_NV = torch.log_softmax(parent_ND @ parent_VD.T, -1)
    log_q_NV = torch.log_softmax(child_ND @ child_VD.T, -1)
    previous = 0.0
    for k in (1, 3, 10, 30):
        log_p, ids = log_p_NV.topk(k)
        p, q = log_p.exp(), log_q_NV.gather(1, ids).exp()
        p, q = (torch.cat([each, 1 - each.sum(-1, keepdim=True)], -1) for each in (p, q))
        wanted = (p * (p / q).log()).sum(-1).mean()
        some = top_k_kl(child_ND, child_VD, ids, log_p, chunk=7)
        torch.testing.assert_close(some, wanted)
        inputs = (child_ND, child_VD)
        gradients = torch.autograd.grad(wanted, inputs, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(some, inputs), gradients)
        assert some.detach() > previous
        previous = some.detach()
    assert previous < (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1).mean()


def test_a_server_a_streamed_parent_and_the_parent_itself_train_alike(server, tmp_path):
    whole = distilled(tmp_path / "whole", parent_model())
    windows = torch.cat([tokens(), tokens(4, seed=9)])
    for name, source in (("served", url(server)), ("local", parent_model())):
        place = cache_teacher(source, windows, tmp_path / name, k=VOCAB)
        other = distilled(tmp_path / f"by-{name}", teacher=place)
        for one, two in zip(losses(other), losses(whole), strict=True):
            assert one == pytest.approx(two, rel=1e-4)
        assert other.evaluations[-1]["kl"] == pytest.approx(whole.evaluations[-1]["kl"], rel=1e-3)


def test_a_url_is_asked_for_every_window_once_and_an_interrupted_call_goes_on(server, tmp_path):
    server.broken = 70
    with pytest.raises(EngineError, match=r"(?s)max_logprobs is 20.*--max-logprobs"):
        cache_teacher(url(server), tokens(100), tmp_path / "t", k=4)
    server.broken, before = None, len(server.asked)
    cache_teacher(url(server), tokens(100), tmp_path / "t", k=4)
    # The first file of 64 windows was there.
    assert len(server.asked) == before + 36
    server.asked.clear()
    first = distilled(tmp_path / "run", teacher=url(server))
    assert len(server.asked) == STEPS * 8 + 4
    again = distilled(tmp_path / "run", teacher=url(server))
    assert len(server.asked) == STEPS * 8 + 4
    assert losses(again) == losses(first)


def test_what_no_offline_teacher_can_do_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"\['cosine'\] need the parent itself"):
        puzzle.distill(child_model(), None, tokens(), tokenizer=tokenizer(), out=tmp_path / "a",
                       config=settings(), teacher=tmp_path)  # fmt: skip
    with pytest.raises(DataError, match="is no directory"):
        distilled(tmp_path / "b", teacher=tmp_path / "missing")
    place = cache_teacher(parent_model(), tokens(8, seed=5), tmp_path / "other", k=4)
    assert OfflineTeacher(place).k == 4
    with pytest.raises(DataError, match="no answers for a window of this text"):
        distilled(tmp_path / "c", teacher=place)
    with pytest.raises(PuzzleError, match="does not answer"):
        distilled(tmp_path / "d", teacher="http://127.0.0.1:9")
