"""Discrete Langevin against transition matrices written out in float64, and a mixed target with known weights."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

KEY = jax.random.key(0)
COUPLING = np.array([[0.0, 0.5, -0.3], [0.5, 0.0, 0.8], [-0.3, 0.8, 0.0]])
FIELD = np.array([0.2, -0.7, 0.4])


def quadratic(x):
    return x @ jnp.asarray(COUPLING, x.dtype) @ x / 2 + x @ jnp.asarray(FIELD, x.dtype)


def naive(values, step_size, reach, informed=True):
    """All states, their probabilities, and the transition matrix, by loops."""
    states = [np.array(s, float) for s in itertools.product(values, repeat=3)]
    weight = np.array([np.exp(s @ COUPLING @ s / 2 + s @ FIELD) for s in states])

    def chance(x, y):
        total = 1.0
        grad = (COUPLING @ x + FIELD) * informed
        for i in range(3):
            allowed = [v for v in values if abs(v - x[i]) <= reach]
            if y[i] not in allowed:
                return 0.0
            term = lambda v, i=i: math.exp(grad[i] * (v - x[i]) / 2 - (v - x[i]) ** 2 / (2 * step_size))
            total *= term(y[i]) / sum(term(v) for v in allowed)
        return total

    matrix = np.zeros((len(states), len(states)))
    for a, x in enumerate(states):
        for b, y in enumerate(states):
            if a != b and chance(x, y) > 0:
                matrix[a, b] = chance(x, y) * min(1, weight[b] * chance(y, x) / (weight[a] * chance(x, y)))
        matrix[a, a] = 1 - matrix[a].sum()
    return np.array(states, int), weight / weight.sum(), matrix


@pytest.mark.parametrize(
    ("values", "step_size", "reach", "informed"),
    [((0, 1), 0.7, 1, True), ((0, 1), 0.7, 1, False), ((-1, 0, 1, 2), 1.5, 2, True)],
)
def test_transitions_are_those_of_the_matrix(values, step_size, reach, informed):
    states, law, matrix = naive(values, step_size, reach, informed)
    np.testing.assert_allclose(law @ matrix, law, atol=1e-12)  # the matrix is that of an exact sampler
    kernel = js.mcmc.DiscreteLangevin(quadratic, step_size, values[0], values[-1], reach=reach, informed=informed)
    num = 20_000
    starts = np.array([0, len(states) // 2, len(states) - 2])

    def many(x):
        state = kernel.init(x)
        return jax.vmap(lambda key: kernel.step(key, state)[0].position)(jax.random.split(KEY, num))

    ends = np.asarray(jax.jit(jax.vmap(many))(jnp.asarray(states[starts])))
    code = len(values) ** np.arange(2, -1, -1)
    for start, end in zip(starts, ends, strict=True):
        seen = np.bincount((end - values[0]) @ code, minlength=len(states)) / num
        assert np.all(abs(seen - matrix[start]) < 5 * np.sqrt(matrix[start] / num) + 5 / num)


def test_counts_without_an_upper_bound():
    """Poisson(3) and binomial-like trees: mean and variance of a long run of many chains."""
    target = lambda z: z["a"] * jnp.log(3.0) - jax.lax.lgamma(z["a"] + 1)
    kernel = js.mcmc.DiscreteLangevin(target, 4.0, low={"a": 0}, high={"a": jnp.inf}, reach=4)
    draws = jax.vmap(lambda key: js.chain(key, kernel, {"a": jnp.array(2)}, 1, thin=60).x["a"][-1])
    x = np.asarray(jax.jit(draws)(jax.random.split(KEY, 4000)), float)
    assert x.min() >= 0
    assert abs(x.mean() - 3) < 4.5 * math.sqrt(3 / 4000)
    assert abs(x.var() - 3) < 4.5 * math.sqrt((3 + 3 * 9 - 9 + 9) / 4000)  # fourth central moment 3 + 27


def test_mixed_moves_by_compose_and_on():
    """z is 0 or 1, theta given z normal: P(z = 1) and the mean of theta in closed form."""

    def joint(v):
        z, theta = v["z"], v["theta"]
        scale = 1.0 + z
        return 0.5 * z - (theta - 1.5 * z) ** 2 / (2 * scale**2)

    kernel = js.mcmc.compose(
        js.mcmc.on(js.mcmc.DiscreteLangevin(joint, 2.0), "z"), js.mcmc.on(js.mcmc.MALA(joint, 0.8), "theta")
    )
    start = {"z": jnp.array(0), "theta": jnp.array(0.0)}
    run = lambda key: jax.tree.map(lambda leaf: leaf[-1], js.chain(key, kernel, start, 1, thin=80).x)
    x = jax.jit(jax.vmap(run))(jax.random.split(KEY, 4000))
    one = 2 * math.exp(0.5) / (1 + 2 * math.exp(0.5))
    assert abs(float(jnp.mean(x["z"])) - one) < 4.5 * math.sqrt(one * (1 - one) / 4000)
    spread = math.sqrt(one * 4 + (1 - one) + 2.25 * one * (1 - one))
    assert abs(float(x["theta"].mean()) - 1.5 * one) < 4.5 * spread / math.sqrt(4000)


def test_a_gradient_that_is_not_finite_counts_as_none():
    """sqrt has an infinite slope at 0: the move stays a move."""
    kernel = js.mcmc.DiscreteLangevin(lambda x: jnp.sum(jnp.sqrt(x)), 1.0)
    draws, info = js.chain(KEY, kernel, jnp.zeros(4, int), 400)
    assert int(info.diverged) == 0
    exact = math.e / (1 + math.e)
    assert abs(float(draws[20:].mean()) - exact) < 0.08


def test_the_step_size_can_be_tuned_and_is_a_leaf():
    kernel = js.mcmc.DiscreteLangevin(quadratic, 0.05)
    tuned, _ = js.mcmc.tune(KEY, kernel, jnp.zeros((8, 3), int), 200, chains=8, target=0.8)
    assert abs(float(js.chains(KEY, tuned, jnp.zeros((8, 3), int), 300).info.accept.mean()) - 0.8) < 0.08
    step = jax.jit(lambda kernel, key, state: kernel.step(key, state))
    for size in (0.1, 0.2, 0.7):
        kernel = js.mcmc.DiscreteLangevin(quadratic, size)
        step(kernel, KEY, kernel.init(jnp.zeros(3, int)))
    assert step._cache_size() == 1
