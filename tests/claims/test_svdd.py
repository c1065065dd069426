"""Li et al., "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based Decoding", 2024,
arXiv:2408.08252.

Claim: with rewards that have no gradient, choosing one of M children at each step by the value of its predicted x0 draws
samples of higher reward than the best of M whole runs, at the same number of network evaluations, and the more so the
larger M is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

VP = js.noise.VP()
DIM, RUNS = 16, 400
LAW = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.0] * DIM], stds=[1.0])
PLAN = js.solve.ddpm(VP, js.noise.logsnr_grid(VP, 30, final="zero"))


def reward(x0):
    """How many coordinates are above 1: a count has no gradient."""
    return jnp.sum(x0 > 1.0, axis=-1).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="num")
def rewards(steer, num):
    """Rewards [runs, num] of what `num` children or runs give."""

    def one(key):
        first, second = jax.random.split(key)
        return reward(js.sample(second, LAW, VP.prior(first, (num, DIM)), PLAN, steer=steer).x)

    return jax.vmap(one)(jax.random.split(jax.random.key(0), RUNS))


def test_children_chosen_on_the_way_beat_the_best_of_as_many_runs():
    """Measured: 4.3 against 3.3 of 16 for four children, 6.1 against 4.4 for sixteen; the errors are below 0.11."""
    value = js.steer.SoftValue(lambda x, p, info: reward(p.x0), temperature=0.1)
    gaps = []
    for num in (4, 16):
        best = np.asarray(rewards(None, num)).max(axis=1)
        chosen = np.asarray(rewards(value, num)).max(axis=1)
        error = np.sqrt((best.var() + chosen.var()) / RUNS)
        gaps.append(chosen.mean() - best.mean())
        assert gaps[-1] > max(0.5, 5 * error)
    assert gaps[1] > gaps[0] + 0.1
