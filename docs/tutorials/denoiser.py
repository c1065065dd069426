"""A denoiser.

You have a network that removes noise, and want samples in few evaluations.
"""

# A schedule says how much noise there is at time t: x_t = alpha(t) x0 + sigma(t) eps. A model is any callable (x, t);
# here it is an exact one, for points on a ring of eight blobs, so that everything below can be checked.
import jax
import jax.numpy as jnp

import jsamp as js

schedule = js.noise.VP()
angle = jnp.arange(8) * jnp.pi / 4
means = 2.0 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
exact = js.denoise.GaussianMixture(schedule, weights=jnp.ones(8), means=means, stds=jnp.full(8, 0.15))
model = lambda x, t: exact(x, t).eps  # a network that predicts the noise, as most do

# Say what the model predicts, and it becomes a denoiser: a tree whose weights are leaves.
denoiser = js.Denoiser(model, schedule, predicts="eps")

# A grid is a plain array of decreasing times, and a plan is a table with one row for each evaluation of the network.
# Any grid goes with any solver.
grid = js.noise.logsnr_grid(schedule, 10)
plan = js.solve.dpmpp(schedule, grid, order=2)
print(plan.nfe, "evaluations")
# > 10 evaluations

# One sample is a function of one key and one start; many are a `vmap`. The ring has radius 2: ten evaluations of this
# solver end a little outside.
draw = lambda key, x: js.sample(key, denoiser, x, plan).x
starts = schedule.prior(jax.random.key(0), (500, 2))
x = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 500), starts)
radius = jnp.linalg.norm(x, axis=1)
print(f"radius {radius.mean():.2f}, spread {radius.std():.2f}")
# > radius 2.13, spread 0.13

# Another solver is another table: the network is not compiled again. Here three of them run in one call, and are
# compared with a thousand steps from the same noise.
plans = {"DDIM": js.solve.ddim(schedule, grid), "2M": plan, "DEIS": js.solve.deis(schedule, grid, order=3)}
run = jax.jit(lambda plan: jax.vmap(lambda x: js.sample(None, denoiser, x, plan).x)(starts))
truth = run(js.solve.deis(schedule, js.noise.logsnr_grid(schedule, 1000), order=3))
for name, one in plans.items():
    print(f"{name}: {jnp.sqrt(jnp.mean((run(one) - truth) ** 2)):.2f}")
# > DDIM: 0.11
# > 2M: 0.09
# > DEIS: 0.04

# Guidance is a denoiser made of denoisers. Towards points with a large first coordinate, by a reward on the predicted
# x0:
rewarded = js.denoise.Energy(denoiser, lambda x0: -x0[0], scale=1.0)
pushed = jax.jit(jax.vmap(lambda x: js.sample(None, rewarded, x, plan).x))(starts)
print(f"mean of x[0]: {x[:, 0].mean():.1f} becomes {pushed[:, 0].mean():.1f}")
# > mean of x[0]: 0.1 becomes 1.5
