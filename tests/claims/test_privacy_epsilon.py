"""Bayesian estimation of differential privacy: around 40% narrower intervals, and what they cover (arXiv:2206.05199)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import estimate
from jsamp.estimate._privacy import Counts, _cdf


@pytest.mark.parametrize(
    ("members", "fpr", "fnr", "want"),
    [
        (500, 0.25, 0.25, 0.62),
        (500, 0.1, 0.1, 0.66),
        (250, 0.2, 0.2, 0.63),
        (50, 0.2, 0.2, 0.63),
        (500, 0.05, 0.3, 0.71),
    ],
)
def test_joint_intervals_are_narrower(members, fpr, fnr, want):
    """Widths over Clopper-Pearson's: .62 to .71."""
    miss, alarm = round(members * fnr), round(members * fpr)
    counts = {"tp": members - miss, "fn": miss, "fp": alarm, "tn": members - alarm}
    widths = []
    for method in ("joint", "clopper_pearson"):
        found = estimate.dp_epsilon(counts, 1e-5, 0.9, method=method)
        widths.append(float(found.high - found.low))
    assert abs(widths[0] / widths[1] - want) < 0.012  # over Jeffreys intervals it is .016 to .05 more


@pytest.mark.parametrize(("members", "fpr", "fnr", "want"), [(500, 0.1, 0.1, 0.79), (500, 0.05, 0.3, 0.90)])
def test_what_the_narrower_intervals_cover(members, fpr, fnr, want):
    """At level .9 over 600 audits: what the docstring states, 4 standard errors either way."""
    keys = jax.random.split(jax.random.key(0), 2)
    fn, fp = (jax.random.binomial(k, members, rate, (600,)) for k, rate in zip(keys, (fnr, fpr), strict=True))
    truth = max(np.log((1 - 1e-5 - fnr) / fpr), np.log((1 - 1e-5 - fpr) / fnr))
    place = lambda fn, fp, epsilon: _cdf(Counts(members - fn, members - fp, fp, fn), 1e-5, epsilon)
    # The interval is central: it covers where the posterior puts between .05 and .95 below the truth.
    below = jax.jit(lambda fn, fp: jax.lax.map(lambda c: place(*c, truth), (fn, fp), batch_size=50))(fn, fp)
    assert abs(np.mean((below >= 0.05) & (below <= 0.95)) - want) < 4 * np.sqrt(want * (1 - want) / 600)
    first = {"tp": members - int(fn[0]), "fn": int(fn[0]), "fp": int(fp[0]), "tn": members - int(fp[0])}
    found = estimate.dp_epsilon(first, 1e-5, 0.9)
    ends = [place(fn[0].astype(float), fp[0].astype(float), jnp.float32(e)) for e in (found.low, found.high)]
    np.testing.assert_allclose(ends, [0.05, 0.95], atol=3e-3)
