"""Liu et al., "SCott: Accelerating Diffusion Models with Stochastic Consistency Distillation", 2024, arXiv:2403.01505.

Claim, with what it leaves out: a student of a stochastic teacher needs the adversarial term. With the squared distance
alone it learns the mean over the teacher's noise and its samples lose variance, whatever the number of sub-steps; a
critic of second moments gives it back. Data N(0, 1), a student with one number for the jump from sigma = 3.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsamp as js

VE, TOP, END = js.noise.VE(), 3.0, 0.02
LAW = js.denoise.GaussianMixture(VE, weights=[1.0], means=[[0.0]], stds=[1.0])
DATA = jax.random.normal(jax.random.key(1), (20_000, 1))


def student(c, x, t):
    return jnp.where(t > 1, c, 1.0) * x


def critic(c, x, t):
    """A judge of the second moment."""
    return jnp.sum(jnp.tanh(c) * (x**2 - 1))


def spread(eta, critic_weight):
    """Standard deviation of one-step samples."""
    teacher = js.loss.Teacher(LAW, functools.partial(js.solve.ddim, eta=eta), steps=3)
    loss = js.loss.Consistency([TOP, END], teacher, critic_weight=critic_weight)
    jumper = jax.tree_util.Partial(student, jnp.float32(0.3))
    players = (jumper, jumper, jax.tree_util.Partial(critic, jnp.float32(0.0)))
    rates = optax.sgd(0.02), optax.sgd(0.2)
    model = js.fit.minimise(
        jax.random.key(0), (loss, js.loss.ConsistencyCritic(loss)), players, DATA,
        optimiser=rates, steps=500, batch=512, ema=0.99, follow=0.0,
    ).info.average  # fmt: skip
    return abs(float(model[0].args[0])) * np.sqrt(1 + TOP**2)


def test_a_critic_gives_back_the_variance_that_a_stochastic_teacher_takes():
    ode, sde, repaired = spread(0.0, 0.0), spread(0.7, 0.0), spread(0.7, 3.0)
    assert sde < 0.8 * ode
    assert abs(repaired - 1) < 0.5 * abs(sde - 1)
