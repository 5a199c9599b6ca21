"""Metrics on text against their definitions, and standard errors against simulation."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from puzzle.errors import DataError
from puzzle.evaluation.metrics_on_text import estimate, ratio, text_metrics
from puzzle.evaluation.text_quality import quality


def model(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=24,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=37,
        bos_token_id=1,
        eos_token_id=None,
    )
    found = LlamaForCausalLM(config).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return found


@pytest.fixture(scope="module")
def rows():
    return torch.randint(2, 37, (6, 12), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_each_metric_is_its_definition(rows):
    parent, child = model(0), model(1)
    found = text_metrics(child, rows, parent=parent, top_k=3)
    p, q = (torch.softmax(m(rows).logits.double(), -1) for m in (parent, child))
    assert found["child"]["kl"].value == pytest.approx(
        (p * (p.log() - q.log())).sum(-1).mean().item(), rel=1e-4
    )
    for name, one in (("parent", parent), ("child", child)):
        loss = one(rows, labels=rows).loss.item()
        assert found[name]["perplexity"].value == pytest.approx(math.exp(loss), rel=1e-4)
    same = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert found["child"]["agreement"].value == pytest.approx(same)
    shared = [
        len({*a.topk(3).indices.tolist()} & {*b.topk(3).indices.tolist()}) / 3
        for a, b in zip(p.flatten(0, 1), q.flatten(0, 1), strict=True)
    ]
    assert found["child"]["top_k_agreement"].value == pytest.approx(sum(shared) / len(shared))


def test_the_figures_of_a_search_are_those_of_the_metrics_and_one_window_has_no_error(rows):
    parent, child = model(0), model(1)
    found = quality(parent, child, rows, progress=False)
    metrics = text_metrics(child, rows, parent=parent)["child"]
    assert found.perplexity == pytest.approx(metrics["perplexity"].value, rel=1e-5)
    for name in ("kl", "agreement"):
        assert getattr(found, name) == pytest.approx(metrics[name].value, rel=1e-5)
        assert getattr(found, f"{name}_error") == pytest.approx(metrics[name].error, rel=1e-5)
    alone = quality(parent, child, rows[:1], progress=False)
    assert alone.kl_error is None
    assert set(alone.to_dict()["child"]) == {"kl", "perplexity", "agreement"}


def test_a_model_beside_itself_has_no_distance_and_no_error(rows):
    one = model(0)
    found = text_metrics(one, rows, parent=one)["child"]
    assert (found["kl"].value, found["kl"].error) == (0.0, 0.0)
    assert found["agreement"].value == found["top_k_agreement"].value == 1.0


def test_without_a_parent_there_is_perplexity_alone(rows):
    assert list(text_metrics(model(0), rows)) == ["child"]
    assert list(text_metrics(model(0), rows)["child"]) == ["perplexity"]
    assert math.isnan(text_metrics(model(0), rows[:1])["child"]["perplexity"].error)


def test_the_error_of_a_mean_and_of_a_ratio_is_the_spread_of_repeated_experiments():
    generator = torch.Generator().manual_seed(0)
    shape = (4000, 200)
    difficulty = torch.rand(shape, generator=generator, dtype=torch.float64)
    parent, child = (
        (torch.rand(shape, generator=generator) < rate * difficulty).double() for rate in (0.9, 0.7)
    )
    for values, function in (((child,), estimate), ((child, parent), ratio)):
        found = [function(*(v[i] for v in values)) for i in range(len(child))]
        spread = torch.tensor([each.value for each in found]).std().item()
        stated = sum(each.error for each in found) / len(found)
        assert stated == pytest.approx(spread, rel=0.05)


def test_wrong_windows_are_named(rows):
    for bad in (rows[0], rows.float(), rows[:, :1]):
        with pytest.raises(DataError, match="token ids"):
            text_metrics(model(0), bad)
    with pytest.raises(DataError, match="top_k=38"):
        text_metrics(model(0), rows, top_k=38)
