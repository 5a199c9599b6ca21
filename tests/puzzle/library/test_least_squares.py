"""Claims about the least-squares fit of a map."""

import torch

from puzzle.library.least_squares import RIDGES, HeldOut, Moments, fit


def test_the_fit_recovers_a_map():
    generator = torch.Generator().manual_seed(0)
    phi, truth = (torch.randn(shape, generator=generator) for shape in ((200, 5), (5, 3)))
    train, held_out = Moments(5, 3), HeldOut()
    train.add(phi[:150], phi[:150] @ truth)
    held_out.add(phi[150:], phi[150:] @ truth)
    found = fit(train, held_out, torch.zeros(5, 3), (1e-6,))
    torch.testing.assert_close(found.weight, truth, rtol=1e-3, atol=1e-3)


def test_a_fit_never_loses_to_its_prior_on_held_out_tokens():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        # As many features as tokens and pure noise: an unguarded fit would lose every time.
        phi, y = (torch.randn(60, n, generator=generator) for n in (30, 3))
        prior = torch.zeros(30, 3)
        train, held_out = Moments(30, 3), HeldOut()
        train.add(phi[:30], y[:30])
        held_out.add(phi[30:], y[30:])
        unguarded = torch.linalg.lstsq(phi[:30], y[:30]).solution
        assert held_out.error(unguarded) > held_out.error(prior)
        found = fit(train, held_out, prior)
        assert found.error == held_out.error(found.weight) <= held_out.error(prior)


def test_a_refit_is_the_closed_form_of_all_tokens_with_the_ridge_that_was_chosen():
    generator = torch.Generator().manual_seed(0)
    phi, noise = (torch.randn(80, n, generator=generator) for n in (12, 3))
    prior = torch.randn(12, 3, generator=generator)
    y = phi @ torch.randn(12, 3, generator=generator) + noise
    train, held_out = Moments(12, 3), HeldOut()
    train.add(phi[:60], y[:60])
    held_out.add(phi[60:], y[60:])
    chosen, again = fit(train, held_out, prior), fit(train, held_out, prior, refit=True)
    assert chosen.ridge == again.ridge is not None
    assert chosen.error == again.error == held_out.error(chosen.weight)
    gram = phi.T @ phi
    gram += chosen.ridge * gram.diagonal().mean() * torch.eye(12)
    expected = prior + torch.linalg.solve(gram, phi.T @ (y - phi @ prior))
    torch.testing.assert_close(again.weight, expected)


def test_the_ridge_is_the_one_with_the_least_error_on_either_side_of_the_middle():
    chosen = set()
    for noise in (0.0, 3.0, 4.0, 6.0):
        generator = torch.Generator().manual_seed(0)
        phi = torch.randn(120, 10, generator=generator)
        y = phi @ torch.randn(10, 3, generator=generator)
        y += noise * torch.randn(120, 3, generator=generator)
        prior = torch.zeros(10, 3)
        train, held_out = Moments(10, 3), HeldOut()
        train.add(phi[:20], y[:20])
        held_out.add(phi[20:], y[20:])
        alone = {ridge: fit(train, held_out, prior, (ridge,)).error for ridge in RIDGES}
        found = fit(train, held_out, prior)
        assert alone[found.ridge] == found.error == min(alone.values())
        assert found.prior == held_out.error(prior)
        chosen.add(found.ridge)
    assert len(chosen) == 4


def test_products_with_targets_follow_from_the_map_that_returns_them():
    generator = torch.Generator().manual_seed(0)
    phi, weight = (torch.randn(shape, generator=generator) for shape in ((40, 6), (6, 3)))
    one, two = Moments(6, 3), Moments(6, 3)
    one.add(phi, phi @ weight)
    two.add(phi, None)
    two.returned_by(weight)
    torch.testing.assert_close(two.cross, one.cross)
