"""How powerful are shallow networks with bandlimited random weights: the bound on the weights decides what is learned.

Li et al. 2023. 500 units with weights and thresholds uniform in [-limit, limit], least squares in float64 with a cut of
1e-10, sin(omega x) on [-1, 1]; root mean square errors, where .70 is a target left untouched.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

PI = np.pi
# (kind, limit) -> errors at pi, 5 pi, 20 pi, 40 pi, within a factor of 100 where they are small.
TABLE = {
    ("tanh", 1.0): (3e-8, 0.24, 0.70, 0.70),
    ("tanh", 5.0): (5e-11, 1e-8, 0.12, 0.69),
    ("tanh", 20.0): (7e-11, 2e-9, 9e-7, 8e-4),
    ("tanh", 100.0): (3e-5, 3e-4, 1e-3, 1e-2),
    ("gauss", 5.0): (3e-11, 2e-8, 0.68, 0.70),
    ("gauss", 20.0): (1e-11, 4e-11, 1e-7, 0.63),
}


@pytest.mark.parametrize(("kind", "limit"), TABLE)
def test_the_bound_decides_what_is_learned(kind, limit, x64):
    x = jnp.linspace(-1, 1, 1000)[:, None]
    fresh = jnp.linspace(-0.999, 0.999, 777)[:, None]
    features = js.fit.random_features(jax.random.key(0), 500, limit=limit, kind=kind, dtype=jnp.float64)
    assert float(jnp.abs(features.A).max()) <= limit
    targets = lambda x: jnp.sin(x * jnp.array([PI, 5 * PI, 20 * PI, 40 * PI])[None])
    found = js.fit.readout(features(x), targets(x), rcond=1e-10)
    error = np.asarray(jnp.sqrt(jnp.mean((features(fresh) @ found - targets(fresh)) ** 2, 0)))
    for got, want in zip(error, TABLE[kind, limit], strict=True):
        if want > 0.2:
            assert want - 0.08 < got < want + 0.08
        elif want > 0.05:  # at the wall the error is that of the draw: partly learned
            assert 0.02 < got < 0.5
        else:
            assert want / 100 < got < want * 100


def test_too_small_never_learns_and_too_large_hurts(x64):
    """Both take-homes at 20 pi: the best limit is neither the smallest nor the largest."""
    x = jnp.linspace(-1, 1, 600)[:, None]
    y = jnp.sin(20 * PI * x[:, 0])

    def error(limit):
        features = js.fit.random_features(jax.random.key(1), 300, limit=limit, dtype=jnp.float64)
        return float(jnp.sqrt(jnp.mean((features(x) @ js.fit.readout(features(x), y, rcond=1e-10) - y) ** 2)))

    small, right, large = error(1.0), error(20.0), error(300.0)
    assert small > 0.65
    assert right < 1e-2 * large
    assert large < 0.65
