"""Losses of denoising diffusion GANs: a critic and a generator of one reverse step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._mesh import sharded_like
from jsamp._core._pytree import field, pytree, static
from jsamp._core._tree import lincomb, normal_like
from jsamp.loss import _protocol as p
from jsamp.loss._times import as_grid, quantiles
from jsamp.noise._protocol import check_schedule, check_times


class GANDrawn(NamedTuple):
    """Hold what `GANCritic` and `GANGenerator` draw.

    Args:
        real: rows at the lower level [n, ...].
        noised: the same rows at the upper level.
        upper: times of the upper level [n].
        lower: times of the lower level [n].
        z: latents of the generator [n, latent].
        eps: noise of the generated row at the lower level.

    Example:
        >>> import jsamp as js
        >>> js.loss.GANDrawn(real=1.0, noised=1.0, upper=1.0, lower=0.5, z=0.0, eps=0.0).lower
        0.5
    """

    real: Any
    noised: Any
    upper: Any
    lower: Any
    z: Any
    eps: Any


def _draw(who, loss, key, batch):
    """A lower and an upper level for each row, and the row at both."""
    _checks.check_key(key, who)
    num = p.check_batch(f"{who}: batch", batch)
    x0 = jax.tree.map(jnp.asarray, batch)
    dtype = jnp.result_type(*jax.tree.leaves(x0))
    k_level, k_low, k_high, k_latent, k_made = jax.random.split(key, 5)
    count = np.shape(loss.grid)[0] - 1
    index = jnp.minimum((quantiles(k_level, num, jnp.float32, True) * count).astype(jnp.int32), count - 1)
    grid = jnp.asarray(loss.grid, jnp.promote_types(dtype, jnp.float32))
    upper, lower = sharded_like((grid[index], grid[index + 1]), x0)
    noises = [sharded_like(normal_like(k, x0), x0) for k in (k_low, k_high, k_made)]
    real = jax.vmap(lambda t, *trees: lincomb((loss.schedule.alpha(t), loss.schedule.sigma(t)), trees))(
        lower, x0, noises[0]
    )
    keep, spread = jax.vmap(lambda t, u: _transition(loss.schedule, t, u))(upper, lower)
    noised = jax.vmap(lambda a, s, *trees: lincomb((a, s), trees))(keep, spread, real, noises[1])
    z = jax.random.normal(k_latent, (num, loss.latent), dtype)
    return GANDrawn(real, noised, upper, lower, z, noises[2])


def _transition(schedule, upper, lower):
    """Coefficient and spread of the noising from the lower to the upper level."""
    keep = schedule.alpha(upper) / schedule.alpha(lower)
    variance = schedule.sigma(upper) ** 2 - (keep * schedule.sigma(lower)) ** 2
    return keep, jnp.sqrt(jnp.maximum(variance, 0))


def _generated(who, loss, generator, drawn):
    """Rows at the lower level, from the Gaussian posterior around what the generator says."""
    made = p.call_like(f"{who}: generator", generator, loss.batched, drawn.noised, drawn.upper, drawn.z)

    def row(x0, x, upper, lower, eps):
        keep, spread = _transition(loss.schedule, upper, lower)
        alpha, sigma, total = loss.schedule.alpha(lower), loss.schedule.sigma(lower), loss.schedule.sigma(upper)
        first, second = alpha * (spread / total) ** 2, keep * (sigma / total) ** 2
        return lincomb((first, second, sigma * spread / total), (x0, x, eps))

    return jax.vmap(row)(made, drawn.noised, drawn.upper, drawn.lower, drawn.eps)


def _judge(who, loss, critic, x, drawn):
    found = p.call(f"{who}: critic", critic, loss.batched, x, drawn.upper, drawn.noised)
    return p.each_number(f"{who}: critic", found)


@pytree
class GANCritic(p.Called):
    """Train the critic of a denoising diffusion GAN.

    For a level drawn from the grid, x_u noised data at the lower and x_t at the upper level: the mean over rows of
    softplus(-critic(x_u, t, x_t)) + softplus(critic(x', t, x_t)) + r1 / 2 |grad critic at x_u|^2, with x' drawn from
    q(x_u | x0 = generator(x_t, t, z), x_t). At the optimum of both it is 2 log 2. The penalty takes rows one by one: a
    critic that mixes its batch must not be `batched`.

    Args:
        schedule: the noise schedule.
        grid: decreasing times [T + 1] that end at zero noise: `np.linspace(1, 0, 5)` on `js.noise.VP()`.
        latent: length of the generator's latent (static).
        r1: weight of the gradient penalty, >= 0.
        batched: as in `Match`, for both networks (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)` with the penalty in `parts`. model: (generator, critic),
        callable trees generator(x_t, t, z) -> x0 and critic(x_u, t, x_t) -> scalar. batch: rows [n, ...]. Pair it with
        `GANGenerator` in `js.fit.minimise`.

    Raises:
        TypeError: for a model that is not such a pair, or a critic that does not return a number.
        ValueError: for a grid that does not decrease, a negative r1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> loss = js.loss.GANCritic(schedule, [1.0, 0.5, 0.0], latent=1)
        >>> players = (lambda x, t, z: x, lambda x, t, above: 0.0 * x.sum())
        >>> round(float(loss(jax.random.key(0), players, jnp.ones((4, 2)))[0]), 4)  # 2 log 2
        1.3863

    Cost:
        One call of the generator, two of the critic, and the second derivative of one.

    References:
        Xiao, Kreis and Vahdat, "Tackling the Generative Learning Trilemma with Denoising Diffusion GANs", 2022,
        arXiv:2112.07804.
    """

    schedule: Any
    grid: Any = field(convert=as_grid)
    latent: int = static(convert=_fields.count())
    r1: Any = 0.05
    batched: bool = static(default=False)
    player = 1

    def __post_init__(self):
        check_schedule("GANCritic: schedule", self.schedule)
        check_times("GANCritic: grid", self.schedule, self.grid, end=True)
        _checks.check_scalar("GANCritic: r1", self.r1, low=0)

    def draw(self, key, batch):
        """Draw levels, noise and latents."""
        return _draw("GANCritic", self, key, batch)

    def value(self, model, drawn):
        """Return the critic's loss."""
        generator, critic = p.players("GANCritic", model, "generator", "critic")
        made = jax.lax.stop_gradient(_generated("GANCritic", self, generator, drawn))
        judge = lambda x: _judge("GANCritic", self, critic, x, drawn)
        real, pull = jax.vjp(judge, drawn.real)
        (slope,) = pull(jnp.ones_like(real))
        penalty = jax.vmap(lambda g: sum(jnp.sum(v * v) for v in jax.tree.leaves(g)))(slope)
        each = jax.nn.softplus(-real) + jax.nn.softplus(judge(made)) + jnp.asarray(self.r1, real.dtype) / 2 * penalty
        return p.finish(each, penalty=jnp.mean(penalty))


@pytree
class GANGenerator(p.Called):
    """Train the generator of a denoising diffusion GAN: the mean over rows of softplus(-critic(x', t, x_t)).

    The same levels and posterior as `GANCritic`, with draws of its own. At the optimum of both it is log 2.

    Args:
        schedule: the noise schedule.
        grid: decreasing times [T + 1] that end at zero noise.
        latent: length of the latent (static).
        batched: as in `Match`, for both networks (static).

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: (generator, critic); see `GANCritic`. Sample with
        `js.denoise.Latent(generator, schedule, latent)` on `js.solve.ddpm(schedule, grid)`.

    Raises:
        TypeError: for a model that is not such a pair.
        ValueError: for a grid that does not decrease.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> loss = js.loss.GANGenerator(schedule, [1.0, 0.5, 0.0], latent=1)
        >>> players = (lambda x, t, z: x, lambda x, t, above: 0.0 * x.sum())
        >>> round(float(loss(jax.random.key(0), players, jnp.ones((4, 2)))[0]), 4)  # log 2
        0.6931

    Cost:
        One call of each network.

    References:
        Xiao, Kreis and Vahdat, "Tackling the Generative Learning Trilemma with Denoising Diffusion GANs", 2022,
        arXiv:2112.07804.
    """

    schedule: Any
    grid: Any = field(convert=as_grid)
    latent: int = static(convert=_fields.count())
    batched: bool = static(default=False)
    player = 0

    def __post_init__(self):
        check_schedule("GANGenerator: schedule", self.schedule)
        check_times("GANGenerator: grid", self.schedule, self.grid, end=True)

    def draw(self, key, batch):
        """Draw levels, noise and latents."""
        return _draw("GANGenerator", self, key, batch)

    def value(self, model, drawn):
        """Return how little the critic is fooled."""
        generator, critic = p.players("GANGenerator", model, "generator", "critic")
        made = _generated("GANGenerator", self, generator, drawn)
        return p.finish(jax.nn.softplus(-_judge("GANGenerator", self, p.frozen(critic), made, drawn)))
