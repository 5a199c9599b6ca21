"""Claims about Fisher scores, on a tiny random parent."""

import pytest
import torch
from scipy.stats import spearmanr

from puzzle.errors import DataError
from puzzle.library.layer_outputs import LayerOutputs
from puzzle.scoring.exact_scores import replace_one, replace_some
from puzzle.scoring.fisher_scores import FisherConfig, fisher, reliability
from puzzle.scoring.gradient_sweep import TOGETHER, GradientSweep, second_order
from puzzle.scoring.scores import Score, Scores, combine, stretch_means
from search_space import Block

ALL_PROBES = FisherConfig(probes=64, rounds=1)


def test_at_the_last_layer_the_score_is_half_the_change_squared_in_the_fisher_metric(built):
    workspace, parent, space, cut, library = built
    scores = fisher(library, space, cut, workspace=workspace, config=ALL_PROBES)
    last = parent.shape.layers - 1
    x, head = parent.embed(cut.score), parent.head().double()
    for index in range(last):
        x = parent.run(parent.layer(index), x)
    y = parent.run(parent.layer(last), x)
    p = torch.softmax(head(y.double()), -1)
    blocks = [block for block in space.blocks(last) if block != parent.shape.parent_blocks[0]]
    for block, out in LayerOutputs(library.variants(last))(blocks, x):
        # The change of the logits to first order, and its variance under p.
        step = 1e-5 * (out - y).double()
        change = (head(y + step) - head(y - step)) / 2e-5
        half = ((p * change**2).sum(-1) - (p * change).sum(-1) ** 2).mean() / 2
        found = scores[last][block.label]
        assert found.kl == pytest.approx(float(half), rel=0.15), block.label
        assert found.method == "fisher"
        assert found.error > 0


@pytest.mark.parametrize("length", [TOGETHER, 3 * TOGETHER, 2 * TOGETHER + 3, 5])
def test_positions_are_summed_a_few_at_a_time_and_every_group_counts_once(length):
    a = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(0))
    found = second_order(a)
    assert found.shape == a.shape
    expected = sum(piece.sum(-1).square() / 2 for piece in a.split(TOGETHER, -1))
    torch.testing.assert_close(found.sum(-1), expected)


def test_fisher_ranks_blocks_as_exact_scores_do(built):
    workspace, parent, space, cut, library = built
    exact = replace_one(library, space, cut, workspace=workspace)
    found = fisher(library, space, cut, workspace=workspace, config=ALL_PROBES)
    own = parent.shape.parent_blocks[0].label
    keys = [(layer, label) for layer, label, _ in exact.items() if label != own]
    pairs = [[scores.kl(*key) for key in keys] for scores in (exact, found)]
    assert spearmanr(*pairs).statistic > 0.9
    assert found.kl(0, own) == exact.kl(0, own) == 0.0


def test_swept_gradients_are_those_of_the_whole_model(built, tmp_path):
    _, parent, space, cut, library = built
    sweep = GradientSweep(library, cut.score, tmp_path, probes=2)
    sweep.forward()
    sweep.probe(seed=3)
    cotangent = sweep.g[parent.shape.layers].clone()
    x = sweep.x[0].clone().requires_grad_(True)
    y = x
    for index in range(parent.shape.layers):
        y = parent.run(parent.layer(index), y)
    torch.testing.assert_close(y.detach(), sweep.x[parent.shape.layers])
    sweep.backward(space)
    for k in range(2):
        (expected,) = torch.autograd.grad(y, x, cotangent[k], retain_graph=True)
        torch.testing.assert_close(sweep.g[0][k], expected, rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_same_scores_and_another_gives_others(built):
    workspace, _, space, cut, library = built

    def run(seed):
        config = FisherConfig(probes=1, rounds=1, seed=seed)
        return fisher(library, space, cut, workspace=workspace, config=config).to_dict()

    first = run(0)
    for path in (workspace.root / "fisher").glob("*/*"):
        path.unlink()
    assert run(0) == first
    assert run(1) != first
    assert not list((workspace.root / "tmp").iterdir())


def test_rounds_are_added_until_the_ranking_is_stable(built):
    workspace, _, space, cut, library = built

    def rounds(stable):
        config = FisherConfig(probes=2, rounds=3, stable=stable, seed=7)
        fisher(library, space, cut, workspace=workspace, config=config)
        return len(list((workspace.root / "fisher").iterdir()))

    assert rounds(0.01) == 1
    assert rounds(1.0) == 3  # the first is not done again


def test_reliability_is_of_the_rank_correlation_that_scipy_computes():
    """Ties, which noise rarely has, included."""
    one, two = torch.randint(1, 6, (2, 30), generator=torch.Generator().manual_seed(0)).tolist()
    r = spearmanr(one, two).statistic
    found = reliability([{str(i): [a, b] for i, (a, b) in enumerate(zip(one, two, strict=True))}])
    assert found == pytest.approx(max(0.0, 2 * r / (1 + r)) ** 0.5, rel=1e-12)
    assert found > 0


def test_reliability_is_one_for_equal_halves_and_low_for_noise():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, generator=generator)
    equal = [{str(i): [v, v] for i, v in enumerate(scores.tolist())}]
    assert reliability(equal) == pytest.approx(1.0)
    noise = torch.rand(200, 2, generator=generator).tolist()
    assert reliability([{str(i): row for i, row in enumerate(noise)}]) < 0.6


def test_some_exact_scores_equal_those_of_all(built):
    workspace, parent, space, cut, library = built
    wanted = {2: [Block.from_label("none+none")], 0: []}
    some = replace_some(library, wanted, cut, workspace=workspace)
    every = replace_one(library, space, cut, workspace=workspace)
    assert some[0] == {}
    assert some[2]["none+none"].kl == pytest.approx(every.kl(2, "none+none"), rel=1e-4)
    assert parent.shape.layers == len(every)


def test_scores_survive_their_dict_and_show_method_and_error():
    scores = Scores(({"a": Score(kl=0.5, error=0.1, method="fisher"), "b": Score(kl=0.0)},))
    assert Scores.from_dict(scores.to_dict()) == scores
    assert scores.methods() == {"fisher": 1, "exact": 1}
    changed = scores.replaced({(0, "a"): Score(kl=0.7)})
    assert (changed.kl(0, "a"), changed.kl(0, "b")) == (0.7, 0.0)
    assert "fisher, standard error 0.1" in scores._repr_html_()


def test_standard_errors_are_those_of_means_of_stretches():
    values = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    means = stretch_means(values)
    assert means == pytest.approx(values.view(6, 64).mean(1).tolist())
    mean, error = combine(means)
    assert mean == pytest.approx(float(values.mean()), abs=1e-6)
    assert error == pytest.approx(float(values.view(6, 64).mean(1).std()) / 6**0.5, rel=1e-4)


@pytest.mark.parametrize("wrong", [{"probes": 0}, {"rounds": True}, {"stable": 0.0}])
def test_a_wrong_number_of_probes_is_refused(wrong):
    with pytest.raises(DataError, match="allowed"):
        FisherConfig(**wrong)
