"""Samplers beside blackjax and numpyro: the same step where steps can be compared, the same acceptance where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

KEY = jax.random.key(0)


def test_the_thermostat_is_that_of_blackjax():
    """Without noise: velocity = step p, friction = step xi. Blackjax moves x by the old velocity, we by the new."""
    blackjax = pytest.importorskip("blackjax")
    score = lambda x, batch: -(x**3) + jnp.sum(batch)
    x, p, xi, step = jnp.array([0.4, -1.2, 0.7]), jnp.array([0.3, 1.0, -0.5]), 0.2, 0.1
    start = blackjax.sgmcmc.sgnht.SGNHTState(x, p, xi)
    theirs = blackjax.sgmcmc.sgnht.build_kernel(0.05)(KEY, start, score, jnp.ones(2), step, temperature=0.0)
    ours = js.mcmc.SGNHT(score, jnp.ones(2), step_size=step**2, friction=0.05 * step, temperature=0.0)
    state = ours.init(x)
    state = state._replace(memory=(step * p, jnp.asarray(step * xi, state.memory[1].dtype)))
    state, _ = ours.step(KEY, state)
    velocity, friction = state.memory
    np.testing.assert_allclose(velocity, step * theirs.momentum, rtol=1e-5)
    np.testing.assert_allclose(friction, step * theirs.xi, rtol=1e-5)
    np.testing.assert_allclose(state.position - x, step * theirs.momentum, rtol=1e-5)
    np.testing.assert_allclose(theirs.position - x, step * p, rtol=1e-5)


@pytest.mark.slow
def test_stretches_are_accepted_as_often_as_in_numpyro():
    numpyro = pytest.importorskip("numpyro")
    from numpyro.infer import AIES

    walkers = jax.random.normal(KEY, (20, 5))
    info = js.chain(jax.random.key(1), js.mcmc.Stretch(lambda x: -jnp.sum(x**2) / 2), walkers, 1, thin=2000).info
    kernel = AIES(potential_fn=lambda x: jnp.sum(x**2) / 2, moves={AIES.StretchMove(): 1.0})
    mcmc = numpyro.infer.MCMC(
        kernel, num_warmup=1, num_samples=2000, num_chains=20, chain_method="vectorized", progress_bar=False
    )
    with jax.numpy_rank_promotion("allow"):
        mcmc.run(jax.random.key(2), init_params=walkers)
    # 40,000 proposals each.
    assert abs(float(info.accept) - float(mcmc.last_state.inner_state.mean_accept_prob)) < 0.03
