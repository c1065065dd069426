"""Novack et al., "DITTO-2: Distilled Diffusion Inference-Time T-Optimization for Music Generation", 2024,
arXiv:2405.20289.

Claim: optimising the start of a sampler through a distilled one-step jump costs ten times less than through the sampler,
and the sample decoded in several steps meets the target as well. Here data are Gaussian and the student, with a few
numbers of its own, is distilled by `js.loss.TrajectoryConsistency`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsamp as js

VE = js.noise.VE(sigma_min=0.02, sigma_max=5.0)
STD = np.array([1.0, 0.5], np.float32)
LAW = js.denoise.GaussianMixture(VE, weights=[1.0], means=[[0.0, 0.0]], covs=[np.diag(STD**2)])
GRID = js.noise.karras_grid(VE, 8)[:-1]
PLAN = js.solve.dpmpp(VE, js.noise.karras_grid(VE, 20))


def student(log_std, x, t, s):
    """The trajectory network of a Gaussian whose spread is unknown."""
    variance = jnp.exp(2 * log_std)
    ratio, share = jnp.sqrt((variance + s**2) / (variance + t**2)), s / t
    near = share > 1 - 1e-3
    return jnp.where(near, variance / (variance + t**2), (ratio - share) / jnp.where(near, 1, 1 - share)) * x


def target(x0):
    """Wants the coordinates to add up to two."""
    return (x0.sum() - 2.0) ** 2


def never(x, t, *, key=None):
    raise AssertionError("The search through the student asks the sampler's network.")


def test_a_distilled_jump_replaces_the_sampler_in_the_search():
    data = jax.random.normal(jax.random.key(1), (4096, 2)) * STD[None]
    start = jax.tree_util.Partial(student, jnp.zeros(2) - 0.5)
    loss = js.loss.TrajectoryConsistency(GRID, js.loss.Teacher(LAW, js.solve.heun, steps=2), reach=1, denoising=0.0)
    jumper = js.fit.minimise(
        jax.random.key(0), loss, (start, start), data, optimiser=optax.adam(0.02), steps=250, batch=256, follow=0.9
    ).x[0]
    np.testing.assert_allclose(np.exp(jumper.args[0]), STD, rtol=0.15)
    x = VE.sigma_max * jax.random.normal(jax.random.key(2), (2,))
    jump = lambda x, t, s: js.loss.jump(jumper, x, t, s)  # two jumps go where one goes
    np.testing.assert_allclose(jump(jump(x, 5.0, 1.5), 1.5, 0.4), jump(x, 5.0, 0.4), rtol=1e-4)
    one_step = jax.tree_util.Partial(lambda model, x: js.loss.jump(model, x, VE.sigma_max, 0.0), jumper)
    search = lambda law, **options: (
        js.solve.optimise_start(law, x, PLAN, target, optax.adam(0.3), steps=70, **options).x
    )
    cheap, dear = search(never, surrogate=one_step), search(LAW)
    error = lambda start: float(target(js.sample(None, LAW, start, PLAN).x))
    assert error(x) > 0.5 and error(cheap) < 0.02 * error(x) and error(dear) < 0.02 * error(x)
    evaluations = {"cheap": 3 * 70 + PLAN.nfe, "dear": 4 * 70 * PLAN.nfe}  # remat: four passes a row
    assert evaluations["dear"] > 10 * evaluations["cheap"]
