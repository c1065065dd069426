"""Measurements with the shipped network, whose Jacobian is neither symmetric nor positive: nothing blows up."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples"))

D, NOISE, SHAPE = js.denoise, 0.05, (28, 28)
SCHEDULE = js.noise.VE(0.1, 20.0)
BOX = np.ones(SHAPE, np.float32)
BOX[7:21, 7:21] = 0
OPS = {"inpainting": D.LinearOp.mask(BOX), "super-resolution": D.LinearOp.pool(SHAPE, (4, 4))}


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("task", OPS)
def test_moment_projection_is_stable_on_a_trained_network(task, covariance):
    """Predictions and samples of digits in [-1, 1] stay near it, and fit the measurement to its noise.

    Measured with the default: predictions up to 2.6 and 3.3, misfits 1.0 and 1.1; exact solves gave 63,000 and 600.
    """
    import digits_net

    with jax.numpy_rank_promotion("allow"):
        params = digits_net.load(digits_net.MODELS / "mnist_denoiser.npz")
        net = js.Denoiser(digits_net.Digits(params, jnp.int32(digits_net.NULL)), SCHEDULE, predicts="x0")
        with np.load(digits_net.MODELS / "mnist_test.npz") as file:
            truth = jnp.asarray(file["images"][0].astype(np.float32) / 127.5 - 1)
        op, plan = OPS[task], js.solve.dpmpp(SCHEDULE, js.noise.karras_grid(SCHEDULE, 20))
        y = op(truth)
        seen = BOX if task == "inpainting" else jnp.ones_like(y)
        y = (y + NOISE * jax.random.normal(jax.random.key(1), y.shape)) * seen
        guided = D.TMPD(net, op, y, noise=NOISE, covariance=covariance)
        start = SCHEDULE.prior(jax.random.key(0), SHAPE)
        result = js.sample(None, guided, start, plan, keep=lambda x, p: jnp.max(jnp.abs(p.x0)))
    misfit = jnp.sqrt(jnp.sum((op(result.x) - y) ** 2) / jnp.sum(seen)) / NOISE
    assert jnp.max(jnp.abs(result.x)) < 2
    if covariance == "full":
        assert jnp.max(result.info.kept) < 8
        assert misfit < 1.5
    else:
        assert misfit < 4
