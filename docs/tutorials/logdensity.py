"""A log-density.

You have a function that says how probable a point is, up to a constant, and want draws that come with their error.
"""

# A log-density is any function of one position, an array or a tree. This banana has known moments: x[0] is N(0, 1),
# so that the mean of x[1] is 1.
import jax
import jax.numpy as jnp

import jsamp as js


def logdensity(x):
    return -(x[0] ** 2) / 2 - (x[1] - x[0] ** 2) ** 2 / 2


# A kernel is a tree: step size and metric are leaves, so tuning them changes numbers and compiles nothing. `tune`
# finds both, for four chains together, and carries the chains to where they should start.
starts = jax.random.normal(jax.random.key(0), (4, 2))
kernel, starts = js.mcmc.tune(jax.random.key(1), js.mcmc.NUTS(logdensity), starts, 500, chains=4)

# `chains` runs them: draws are [chains, draws, ...], the axes that every diagnostic takes.
draws = js.chains(jax.random.key(2), kernel, starts, 2000).x
print(draws.shape)
# > (4, 2000, 2)

# Estimates know their error. R-hat compares the chains; the effective sample size says what the draws are worth.
mean = js.estimate.mean(draws)
inside = jnp.abs(mean.value - jnp.array([0.0, 1.0])) < 4 * mean.stderr
print("within four errors of the truth:", inside.tolist())
print("R-hat below 1.05:", (js.estimate.rhat(draws) < 1.05).tolist())
# > within four errors of the truth: [True, True]
# > R-hat below 1.05: [True, True]

# Kernels compose: a random-walk step for every two of NUTS is a kernel too. `tempered`, `ensemble` and `Gibbs` nest
# in the same way.
walk = js.mcmc.RandomWalk(logdensity, 0.5)
both = js.mcmc.compose(js.mcmc.repeat(kernel, 2), walk)
print(js.chain(jax.random.key(3), both, starts[0], 100).x.shape)
# > (100, 2)

# Long runs go through `stream`: chunks in bounded memory, a progress bar, and a state from which the run goes on bit
# for bit.
total = 0
for chunk in js.stream(jax.random.key(4), kernel, starts[0], 3000, chunk=1000):
    total += len(chunk.x)
print(total, "draws")
# > 3000 draws

# `js.plot.chains(draws)` draws traces, histograms and pairs; `js.mcmc.to_arviz` hands the draws on.
