"""Claims about the least-squares fit of a map."""

import torch

from puzzle.library.least_squares import HeldOut, Moments, fit


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
