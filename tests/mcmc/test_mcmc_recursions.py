"""What runs inside the kernels against the sums and recursions that define it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jsamp import mcmc
from jsamp.mcmc import _kernel
from jsamp.mcmc._dual import average, averaging, mean_accept
from jsamp.mcmc._nuts import _coins, words


def test_dual_averaging_is_the_sum_it_telescopes_to():
    # (m + 10) drift_m = (m + 9) drift_(m-1) + miss_m, so drift_m is the sum of misses over m + 10; Hoffman and Gelman.
    accept, target = np.linspace(0.2, 1.0, 7), 0.65
    m = np.arange(1, 8)
    log_step = np.log(10 * 0.3) - np.sqrt(m) / 0.05 * np.cumsum(target - accept) / (m + 10)
    share = m**-0.75
    kept = np.cumprod(np.append(1 - share[1:], 1.0)[::-1])[::-1]  # of what came in at m, by the end
    state = averaging(jnp.log(jnp.float32(0.3)), 0.05)
    for value, want in zip(accept, log_step, strict=True):
        state = average(state, jnp.float32(value), target)
        np.testing.assert_allclose(state.log_step, want, rtol=1e-5)
    assert np.isclose(np.sum(share * kept), 1)
    np.testing.assert_allclose(state.log_mean, np.sum(share * kept * log_step), rtol=1e-5)


def test_the_acceptance_is_averaged_over_chains_inside_the_support():
    def mean(accept, log_density, axis):
        state = SimpleNamespace(position=jnp.zeros(1), logdensity=log_density)
        kernel = SimpleNamespace(accept_statistic=lambda info, x: info)
        return mean_accept(kernel, state, accept, 0.8, axis, jnp.float32)

    accept = jnp.array([0.5, 0.9, 0.1, 0.3])
    chains = jax.jit(jax.vmap(lambda a, held: mean(a, held, "chains"), axis_name="chains"))
    for out, want in (((), 0.45), ((2,), 1.7 / 3), ((0, 1, 3), 0.1), ((0, 1, 2, 3), 0.8)):
        held = jnp.where(np.isin(np.arange(4), out), -jnp.inf, 0.0)
        np.testing.assert_allclose(chains(accept, held), [want] * 4, rtol=1e-6)
    one = jax.vmap(lambda a, held: mean(a, held, None))(accept, held.at[0].set(0))
    np.testing.assert_allclose(one, [0.5, 0.8, 0.8, 0.8], rtol=1e-6)


def doubled(x, r, sides, step, precision):
    """Leapfrog steps of the recursive sampler on a Gaussian: every subtree is refused whose ends turn."""

    def turning(left, right, total):
        middle = total - (left + right) / 2
        return left @ middle <= 0 or right @ middle <= 0

    def grow(x, r, depth, sign):
        # (leaves, x and r at the outer end, whether it is good, the momenta in order of time)
        if depth == 0:
            r = r - sign * step / 2 * precision * x
            x = x + sign * step * r
            r = r - sign * step / 2 * precision * x
            return 1, x, r, True, [r]
        one, x, r, good, first = grow(x, r, depth - 1, sign)
        if not good:
            return one, x, r, False, first
        two, x, r, good, second = grow(x, r, depth - 1, sign)
        all_of_it = first + second if sign > 0 else second + first
        good = good and not turning(all_of_it[0], all_of_it[-1], sum(all_of_it))
        return one + two, x, r, good, all_of_it

    ends, momenta, total = {1: (x, r), -1: (x, r)}, [r], 0
    for depth, forward in enumerate(sides):
        sign = 1 if forward else -1
        count, *end, good, more = grow(*ends[sign], depth, sign)
        total, ends[sign] = total + count, end
        momenta = momenta + more if forward else more + momenta
        if not good or turning(momenta[0], momenta[-1], sum(momenta)):
            break
    return total


def test_nuts_walks_the_trees_of_the_recursion():
    precision, num = np.array([1.0, 0.09, 0.3]), 300
    keys, starts = jax.random.split(jax.random.key(0), num), jax.random.normal(jax.random.key(1), (num, 3))
    steps = np.where(np.arange(num) == 7, 1e-5, 0.2)  # one that never turns

    @jax.jit
    @jax.vmap
    def run(key, x, step):
        kernel = mcmc.NUTS(lambda x: -jnp.sum(precision.astype(np.float32) * x**2) / 2, step_size=step)
        sides, _ = jax.vmap(_coins, (None, 0))(words(key).reshape(-1)[:2], jnp.arange(10))
        return kernel.step(key, kernel.init(x))[1].nfe, _kernel.noise(key, x)[0], sides

    found, *drawn = map(np.asarray, run(keys, starts, steps.astype(np.float32)))
    want = [doubled(x, r, s, h, precision) for x, r, s, h in zip(np.float64(starts), *drawn, steps, strict=True)]
    assert len(set(want)) > 10  # of them many that stopped inside a subtree
    assert want[7] == 1023
    np.testing.assert_array_equal(found, want)


def test_nuts_draws_leaves_by_their_weights():
    # Near the largest stable step, 2, energies differ by much along a trajectory: draws by anything else leave the law.
    kernel = mcmc.NUTS(lambda x: -jnp.sum(x**2) / 2, step_size=1.6, max_depth=4)
    starts = jax.random.normal(jax.random.key(2), (40_000, 2))
    step = jax.jit(jax.vmap(lambda key, x: kernel.step(key, kernel.init(x))[0].position))
    after = step(jax.random.split(jax.random.key(3), 40_000), starts)
    for power in (2, 4):
        gain = np.float64(after) ** power - np.float64(starts) ** power
        assert abs(gain.mean()) < 5 * gain.mean(1).std() / 200, power
