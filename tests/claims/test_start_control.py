"""Novack et al. 2024 (DITTO, DITTO-2): control at inference by the start alone, with the model frozen: what is asked of a
part is met, the rest follows from the model; a one-step surrogate makes it ten times cheaper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsamp as js

VP = js.noise.VP()
# Two "songs" of eight numbers: their first two numbers tell them apart, the other six go with them.
SONGS = np.array([[1.0, -1.0, 0.8, 0.2, -0.7, 0.5, 0.9, -0.4], [-1.0, 1.0, -0.3, -0.8, 0.6, -0.9, 0.1, 0.7]])
LAW = js.denoise.GaussianMixture(VP, weights=[0.5, 0.5], means=SONGS, stds=[0.1, 0.1])
PLAN = js.solve.dpmpp(VP, js.noise.logsnr_grid(VP, 12))


def test_asking_for_a_part_brings_the_rest_of_the_same_song():
    """Out-painting: the first two numbers are asked for; the six others must be those of the same song."""
    wanted = jnp.asarray(SONGS[1, :2])
    loss = lambda x0: jnp.sum((x0[:2] - wanted) ** 2)

    @jax.jit
    def controlled(start):
        x, info = js.solve.optimise_start(LAW, start, PLAN, loss, optax.adam(0.1), steps=60, shell=1.0)
        return js.sample(None, LAW, x, PLAN).x, info.loss[0], info.radius

    starts = VP.prior(jax.random.key(3), (16, 8))
    plain = jax.vmap(lambda x: js.sample(None, LAW, x, PLAN).x)(starts)
    ends, first, radius = jax.vmap(controlled)(starts)
    other = np.asarray(first) > 1.0
    assert 3 <= other.sum() <= 13, "some of the sixteen begin at the other song"
    met = jax.vmap(loss)(ends)
    assert float(jnp.max(met)) < 0.05
    assert float(jnp.median(jax.vmap(loss)(plain[other]))) > 2
    # The rest is the model's: within its spread of the same song, which no loss asked for.
    rest = np.sqrt(np.mean((np.asarray(ends)[:, 2:] - SONGS[1, 2:]) ** 2, axis=1))
    assert rest.max() < 0.3
    assert np.all(np.abs(np.asarray(radius) - 1) < 0.8)
    # Descent on the sample itself meets the loss and leaves the rest at the other song.
    naive = np.asarray(plain)[other].copy()
    naive[:, :2] = wanted
    assert np.sqrt(np.mean((naive[:, 2:] - SONGS[1, 2:]) ** 2, axis=1)).min() > 0.7


def test_a_one_step_surrogate_costs_a_tenth():
    """DITTO-2: gradients through one evaluation in place of the whole sampler; network evaluations counted as they run."""
    count = []

    def network(x, t):
        jax.debug.callback(lambda: count.append(1))
        return LAW(x, t).x0

    model, loss = js.Denoiser(network, VP, predicts="x0"), lambda x0: jnp.sum((x0[:2] - 1.0) ** 2)
    one = js.solve.ddim(VP, [1.0, 1e-3])

    def evaluations(surrogate):
        count.clear()
        js.solve.optimise_start(model, jnp.ones(8), PLAN, loss, optax.adam(0.1), steps=10, surrogate=surrogate)
        jax.effects_barrier()
        return len(count)

    whole, quick = evaluations(None), evaluations(lambda x: js.sample(None, model, x, one).x)
    assert quick <= 2 * 10 + 2
    assert whole >= 10 * quick
