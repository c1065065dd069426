"""The noise of a plan: your own in its place, its log-probability, and variances that a network has learned."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._like import match
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree, static
from jsamp._core._sample_axes import batch_ndim, check_event_ndim, sample_axes
from jsamp._core._types import Tree
from jsamp.denoise import _fields
from jsamp.denoise._protocol import aux_of
from jsamp.solve._plan import check_plan
from jsamp.steer._protocol import Hooks


def noisy_steps(who: str, plan: Any) -> None:
    """Refuse plans whose rows are not transitions with one Gaussian noise each."""
    check_plan(who, plan)
    found = plan.having("take", "churn_std", "relative")
    if found or plan.noise_std is None:
        raise ValueError(
            f"{who} needs a plan whose rows each add Gaussian noise at their end; this one has "
            f"{', '.join(found) or 'none'}. Use js.solve.ddpm, ddim(eta=1.0), dpmpp(tau=1.0), er_sde, ..."
        )


def _check_noise(name: str, noise: Any) -> None:
    if not callable(noise):
        for leaf in jax.tree.leaves(noise):
            _fields.number()(name, leaf)


@pytree
class OwnNoise(Hooks):
    """Replace the standard normal numbers that a plan draws by your own.

    A row then ends with x <- mean + std z for the given z: noise that was recorded, that several runs share, that is
    antithetic, or the increments of one Brownian path W under grids of any fineness,
    `lambda info: (W(info.t_next) - W(info.t)) / jnp.sqrt(abs(info.t_next - info.t))`.

    Args:
        noise: [R, *x], numbers for each row; or a callable tree info -> z, like x, that is told the row by a
            `js.solve.StepInfo`. Rows count from the start of the plan at hand, also of one that was cut from a longer
            one. A callable with `begin(plan)` is replaced by what that returns, at the start of each run.

    Raises:
        ValueError: for numbers that are not finite or not one for each row, or a plan without noise, with noise before
            its rows, with stages or a corrector.
        TypeError: for a z that is not like x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> plan = js.solve.ddpm(schedule, js.noise.time_grid(schedule, 3))
        >>> z = jnp.array([[0.3], [-1.0], [0.5]])
        >>> run = lambda z: js.sample(jax.random.key(0), law, jnp.zeros(1), plan, steer=js.steer.OwnNoise(z)).x
        >>> bool(jnp.allclose(run(z), -run(-z)))
        True

    Cost:
        The plan's own draws, which are not used.
    """

    noise: Any = field(check=_check_noise, convert=lambda name, value: _noise(name, value))
    on_noise = "changes"

    def init(self, key, x, plan):
        """Refuse plans without noise, and numbers for another number of rows."""
        noisy_steps("OwnNoise", plan)
        if hasattr(self.noise, "begin"):
            return self.noise.begin(plan)
        if not callable(self.noise):
            rows = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(self.noise)}
            if rows != {(plan.nfe,)}:
                raise ValueError(f"OwnNoise: noise must be [{plan.nfe}, ...], one for each row; got {sorted(rows)}.")
        return ()

    def post(self, key, g, x, info):
        """Put the given noise in place of the drawn one."""
        row = lambda leaf: jnp.asarray(leaf)[info.index]
        noise = g if hasattr(self.noise, "begin") else self.noise
        z = noise(info) if callable(noise) else jax.tree.map(row, noise)
        z = match("OwnNoise: noise", z, x)
        swap = lambda x, drawn, z: (x - drawn) + jnp.asarray(info.noise_std, x.dtype) * z
        return g, jax.tree.map(swap, x, info.noise, z), True


def _noise(name: str, value: Any) -> Any:
    return _fields.callable_as("noise(info)")(name, value) if callable(value) else value


@pytree
class LogProb(Hooks):
    """Report the log-probability of each step, whose gradient is that of the policy-gradient (REINFORCE) estimator.

    report[i] = log N(x_(i+1); mean(x_i), std_i^2 I), summed over the numbers of a sample; 0 for rows without noise. The
    states are held fixed in it, so d report / d weights is the score function of the step. With `path` the steps of a
    recorded trajectory are scored instead, and the run follows it: exp of the difference of two reports is the
    importance ratio of two denoisers.

    Args:
        path: None, or [R, *x] the states after each row of another run, from `keep=lambda x, prediction: x`.
        event_ndim: how many trailing axes make one sample; None means all of x is one sample (static).

    Returns:
        In `info.report`: [R, *batch] log-probabilities.

    Raises:
        ValueError: for a plan without noise, with noise before its rows, with stages or a corrector, or a path of
            another number of rows.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> network = lambda gain: js.Denoiser(lambda x, t: gain * x, schedule, predicts="x0")
        >>> plan = js.solve.ddpm(schedule, js.noise.time_grid(schedule, 4))
        >>> run = lambda gain, steer: js.sample(
        ...     jax.random.key(0), network(gain), jnp.ones(2), plan, steer=steer, keep=lambda x, p: x)
        >>> first = run(0.5, js.steer.LogProb())
        >>> again = run(0.5, js.steer.LogProb(path=first.info.kept))
        >>> bool(jnp.allclose(first.info.report, again.info.report, rtol=1e-4))
        True

    Cost:
        One reduction over x for each row.

    References:
        Black et al., "Training Diffusion Models with Reinforcement Learning", 2023, arXiv:2305.13301.
        Fan et al., "DPOK: Reinforcement Learning for Fine-tuning Text-to-Image Diffusion Models", 2023,
        arXiv:2305.16381.
    """

    path: Tree = field(default=None, check=_fields.finite("Record the states of a finished run."))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)
    on_noise = "reads"

    def init(self, key, x, plan):
        """Start with zeros for each row."""
        noisy_steps("LogProb", plan)
        if self.path is not None and {np.shape(v)[:1] for v in jax.tree.leaves(self.path)} != {(plan.nfe,)}:
            raise ValueError(f"LogProb: path must be [{plan.nfe}, ...], the state after each row.")
        batch_ndim("LogProb", x, self.event_ndim)
        one = self._log_density(x, x, jnp.ones((), jax.tree.leaves(x)[0].dtype))
        return jnp.broadcast_to(jnp.zeros_like(one)[None], (plan.nfe, *one.shape))

    def _log_density(self, x, mean, std):
        """Log N(x; mean, std^2 I) of each sample."""

        def total(a, b):
            terms = -0.5 * ((a - b) / std) ** 2 - jnp.log(std) - 0.5 * np.log(2 * np.pi)
            return jnp.sum(terms, axis=sample_axes(a, self.event_ndim))

        return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(total, x, mean)))

    def post(self, key, g, x, info):
        """Score the step, and go on from a state that carries no gradient."""
        mean = jax.tree.map(jnp.subtract, x, info.noise)
        if self.path is not None:
            x = vary(match("LogProb: path", jax.tree.map(lambda v: jnp.asarray(v)[info.index], self.path), x), x)
        x = jax.lax.stop_gradient(x)
        noisy = info.noise_std > 0
        found = self._log_density(x, mean, jnp.where(noisy, info.noise_std, 1).astype(g.dtype))
        return g.at[info.index].set(jnp.where(noisy, found, 0)), x, True

    def reorder(self, g, index):
        """Follow particles that another steer reordered: their steps so far were those of their ancestors."""
        return g if g.ndim == 1 else g[:, index]

    def final(self, g, x):
        """Report the log-probability of each step."""
        return x, g


class _Told(NamedTuple):
    value: Any  # what the network said of the row's variance, like x


@pytree
class LearnedVariance(Hooks):
    """Draw the noise of an ancestral plan with the variance that the network has learned, or with a larger fixed one.

    Between the two extremes of a DDPM step, the posterior variance small = std^2 of the plan and the forward variance
    large = sigma^2 - (alpha / alpha_next)^2 sigma_next^2, the log-variance is interpolated by (v + 1) / 2, v the output
    of the network: v = 1 is "fixed large", v = -1 "fixed small". The denoiser is a `js.Denoiser` with variance="range".

    Args:
        value: None reads the network's v; a number in [-1, 1] stands for it, 1 for "fixed large".

    Raises:
        ValueError: for a plan without noise, with noise before its rows, with stages or a corrector.
        TypeError: when value is None and the denoiser brings no variance.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.Discrete.ddpm_linear()
        >>> both = lambda x, t: jnp.concatenate([0.1 * x, jnp.ones_like(x)], axis=-1)
        >>> network = js.Denoiser(both, schedule, variance="range")
        >>> plan = js.solve.ddpm(schedule, js.noise.index_grid(schedule, 10))
        >>> run = lambda steer: js.sample(jax.random.key(0), network, jnp.ones(3), plan, steer=steer).x
        >>> bool(jnp.allclose(run(js.steer.LearnedVariance()), run(js.steer.LearnedVariance(1.0))))
        True

    Cost:
        One state of memory.

    References:
        Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, arXiv:2102.09672.
    """

    value: Any = field(default=None, check=_fields.number(-1, 1, optional=True))
    on_noise = "changes"

    def init(self, key, x, plan):
        """Make room for the row's variance."""
        noisy_steps("LearnedVariance", plan)
        return _Told(_tree.zeros_like(x))

    def mid(self, key, g, x, prediction, info):
        """Remember what the network says."""
        if self.value is not None:
            told = jax.tree.map(lambda leaf: jnp.full_like(leaf, self.value), x)
        elif (aux := aux_of(prediction)) is None:
            raise TypeError(
                "LearnedVariance: the denoiser brings no variance. Use js.Denoiser(network, schedule, "
                "variance='range'), or give a value such as 1.0 for the fixed large variance."
            )
        else:
            told = match("LearnedVariance: the variance", aux, x)
        return _Told(told), x, prediction, None

    def post(self, key, g, x, info):
        """Stretch the noise that the row drew."""
        small = jnp.where(info.noise_std > 0, info.noise_std, 1) ** 2
        large = info.sigma**2 - (info.alpha / info.alpha_next * info.sigma_next) ** 2
        gap = jnp.where(info.noise_std > 0, jnp.log(large) - jnp.log(small), 0)
        stretch = lambda x, z, v: x + jnp.expm1(0.25 * (v + 1) * gap.astype(x.dtype)) * z
        return g, jax.tree.map(stretch, x, info.noise, g.value), True

    def reorder(self, g, index):
        """Follow particles that another steer reordered."""
        return _Told(_tree.take([g.value], index, [0])[0])
