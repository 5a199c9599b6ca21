"""The chunked losses against the same losses from whole logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from puzzle.distillation.logit_losses import NAMES, head_losses

N, V, D, D_PARENT = 11, 37, 6, 9


def case(seed, scale=1.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    sizes = {"child": (N, D), "head": (V, D), "parent": (N, D_PARENT), "phead": (V, D_PARENT)}
    found = {
        name: (torch.randn(size, generator=g, dtype=torch.float64) * scale).to(dtype)
        for name, size in sizes.items()
    }
    targets = torch.randint(0, V, (N,), generator=g)
    targets[::4] = -100
    return found, targets


def whole(values, targets):
    child, head, parent, phead = values.values()
    log_q = torch.log_softmax(child @ head.T, -1)
    log_p = torch.log_softmax(parent @ phead.T, -1)
    return {
        "kl": (log_p.exp() * (log_p - log_q)).sum(-1).mean(),
        "reverse_kl": (log_q.exp() * (log_q - log_p)).sum(-1).mean(),
        "lm": nn.functional.cross_entropy(child @ head.T, targets, ignore_index=-100),
    }


def chunked(values, targets, chunk, names=NAMES):
    return head_losses(
        values["child"],
        values["head"],
        targets,
        parent_ND=values["parent"],
        parent_VD=values["phead"],
        chunk=chunk,
        names=names,
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 100),
    chunk=st.integers(1, V + 5),
    scale=st.sampled_from([0.3, 3.0]),
    names=st.sets(st.sampled_from(NAMES), min_size=1),
)
def test_values_and_gradients_are_those_of_whole_logits(seed, chunk, scale, names):
    values, targets = case(seed, scale)
    weights = {n: {"kl": 0.7, "reverse_kl": 1.3, "lm": 0.4}[n] for n in sorted(names)}
    gradients = []
    for function in (
        lambda: chunked(values, targets, chunk, names),
        lambda: whole(values, targets),
    ):
        for name in ("child", "head"):
            values[name] = values[name].detach().requires_grad_()
        found = function()
        sum(weights[name] * found[name] for name in weights).backward()
        gradients.append((values["child"].grad, values["head"].grad, found))
    for one, other in zip(gradients[0][:2], gradients[1][:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    for name in weights:
        torch.testing.assert_close(gradients[0][2][name], gradients[1][2][name])


def test_the_gradient_is_that_of_finite_differences():
    values, targets = case(1)
    child, head = (values[name].requires_grad_() for name in ("child", "head"))

    def loss(child, head):
        found = chunked({**values, "child": child, "head": head}, targets, 10)
        return found["kl"] + found["reverse_kl"] + found["lm"]

    assert torch.autograd.gradcheck(loss, (child, head))


def test_a_frozen_head_gets_no_gradient_and_its_input_the_same_one():
    gradients = []
    for frozen in (False, True):
        values, targets = case(5)
        values["child"].requires_grad_()
        values["head"].requires_grad_(not frozen)
        chunked(values, targets, 10)["kl"].backward()
        gradients.append(values["child"].grad)
        assert (values["head"].grad is None) == frozen
    assert torch.equal(*gradients)


def test_without_a_parent_there_is_the_cross_entropy_alone():
    values, targets = case(2)
    found = head_losses(values["child"], values["head"], targets, chunk=8)
    expected = whole(values, targets)["lm"]
    assert list(found) == ["lm"]
    torch.testing.assert_close(found["lm"], expected)


def test_extreme_logits_neither_overflow_nor_vanish():
    values, targets = case(3, scale=30.0)
    found = chunked(values, targets, 5)
    expected = whole(values, targets)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def test_in_bfloat16_the_chunks_do_not_matter():
    values, targets = case(4, dtype=torch.bfloat16)
    one, other = chunked(values, targets, 5), chunked(values, targets, V)
    for name in one:
        assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5, abs=1e-6)


def test_no_tensor_of_all_logits_is_ever_made():
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (found,) if isinstance(t, torch.Tensor))
            return found

    tokens, vocabulary, hidden = 64, 512, 8
    parent = torch.randn(tokens, hidden)
    child = torch.randn(tokens, hidden, requires_grad=True)
    head = torch.randn(vocabulary, hidden, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,))
    with Watch():
        found = head_losses(
            child, head, targets, parent_ND=parent, parent_VD=head.detach(), chunk=16
        )
        (found["kl"] + found["lm"]).backward()
    assert max(sizes) == vocabulary * hidden < tokens * vocabulary
