"""Options of kernels at values that matter, each against its recursion or closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import mcmc

KEY = jax.random.key(0)


def gaussian(x):
    return -jnp.sum(x**2) / 2


def test_denoising_gibbs_sets_sigma_by_the_norm_of_the_score():
    # sigma' = sigma^2 |s| / sqrt(d) at the moved x: the move is the one of posterior="exact" with the same key.
    d, spread = 8, 0.7
    score = lambda x, sigma: -x / (spread**2 + sigma**2)
    levels = jnp.geomspace(0.05, 20.0, 50)
    kernel = mcmc.DenoisingLangevinGibbs(score, levels, posterior="norm", skip=1, x_move="ula", step_size=0.3)
    start = mcmc.Noised(jax.random.normal(jax.random.key(1), (d,)), jnp.float32(1.5))
    state, info = kernel.step(KEY, kernel.init(start))
    x = np.asarray(state.position.x, np.float64)
    want = 1.5**2 * np.linalg.norm(x / (spread**2 + 1.5**2)) / np.sqrt(d)
    assert np.isclose(float(state.position.sigma), want, rtol=1e-5)
    assert int(info.nfe) == 2
    # It stays between the levels.
    low = mcmc.DenoisingLangevinGibbs(score, jnp.array([1.4, 1.6]), posterior="norm", skip=1, x_move="ula")
    assert float(low.step(KEY, low.init(start))[0].position.sigma) > 1.3999


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_sghmc_pays_for_the_noise_it_is_told_of(noise):
    # v' = (1 - a) v - h x + sqrt(2 (a - b) h) xi, x' = x + v': the stationary covariance solves a Lyapunov equation.
    a, h, count, steps = 0.2, 1e-2, 20_000, 120
    kernel = mcmc.SGHMC(lambda x, batch: -x, jnp.zeros(1), step_size=h, friction=a, noise=noise)
    x = jax.random.normal(KEY, (count,))
    y = jax.vmap(lambda k, x: mcmc.chain(k, kernel, x, 1, thin=steps).x[-1])(jax.random.split(KEY, count), x)
    step = np.array([[1 - h, 1 - a], [-h, 1 - a]])
    force = np.ones((2, 2)) * 2 * (a - noise) * h
    want = np.linalg.solve(np.eye(4) - np.kron(step, step), force.ravel()).reshape(2, 2)
    left = np.linalg.matrix_power(step, steps)
    want = want + left @ (np.diag([1.0, 0.0]) - want) @ left.T
    assert abs(np.var(y) / want[0, 0] - 1) < 5 * np.sqrt(2 / count)


def test_psgld_remembers_squared_gradients_by_rate_and_num_data():
    rate, n, h, floor = 0.8, 10.0, 0.05, 0.1
    kernel = mcmc.pSGLD(
        lambda x, batch: -x, jnp.zeros(1), step_size=h, temperature=0.0, rate=rate, num_data=n, floor=floor, decay=0.4
    )
    got = mcmc.chain(KEY, kernel, jnp.float32(2.0), 20).x
    x, v = 2.0, 0.0
    for t in range(20):
        g = -x
        v = rate * v + (1 - rate) * (g / n) ** 2
        x = x + h * (1 + t) ** -0.4 * g / (floor + np.sqrt(v))
        assert np.isclose(float(got[t]), x, rtol=1e-4), t


@pytest.mark.parametrize("cls", [mcmc.SGLD, mcmc.SGHMC])
def test_steps_shrink_by_decay(cls):
    h, decay = 0.1, 0.6
    options = {"friction": 0.3} if cls is mcmc.SGHMC else {}
    kernel = cls(lambda x, batch: -x, jnp.zeros(1), step_size=h, temperature=0.0, decay=decay, **options)
    got = mcmc.chain(KEY, kernel, jnp.float32(1.0), 15).x
    x, v = 1.0, 0.0
    for t in range(15):
        size = h * (1 + t) ** -decay
        v = (0.7 * v if options else 0.0) - size * x
        x = x + v
        assert np.isclose(float(got[t]), x, rtol=1e-5), t


def test_the_direction_of_mclmc_decorrelates_over_its_length():
    # On a flat target only the refreshment turns u: E u'.u = E (1 + nu z) / |u + nu xi| with nu^2 = expm1(2 h / L) / d,
    # so that E u_k.u_0 = exp(-k h / L) for many dimensions.
    d, h, length, steps = 400, 0.5, 2.0, 4
    kernel = mcmc.MCLMC(lambda x: 0.0 * jnp.sum(x), step_size=h, length=length)

    def run(key):
        first = kernel.init(jnp.zeros(d), jax.random.fold_in(key, 99))
        state = first
        for i in range(steps):
            state, _ = kernel.step(jax.random.fold_in(key, i), state)
        return jnp.sum(state.memory * first.memory)

    overlap = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, 400)))
    assert abs(overlap.mean() - np.exp(-steps * h / length)) < 5 * overlap.std() / 20 + 2 / d


def test_tuning_recovers_a_small_scale():
    # Shrinkage goes towards 1e-3, not towards 1: a scale of .01 is seen.
    scale = jnp.array([0.01, 1.0, 3.0])
    kernel, _ = mcmc.tune(
        KEY, mcmc.HMC(lambda x: -jnp.sum((x / scale) ** 2) / 2, step_size=0.01), jnp.zeros((8, 3)), 600, chains=8
    )
    np.testing.assert_allclose(jnp.sqrt(kernel.metric) / scale, 1, atol=0.15)


@pytest.mark.parametrize(
    ("cls", "target"), [(mcmc.RandomWalk, 0.234), (mcmc.Barker, 0.5), (mcmc.NUTS, 0.8), (mcmc.GHMC, 0.9)]
)
def test_tuning_aims_at_each_kernels_own_acceptance(cls, target):
    starts = jnp.zeros((16, 5))
    options = {"max_depth": 4} if cls is mcmc.NUTS else {}
    kernel, x = mcmc.tune(KEY, cls(gaussian, **options), starts, 400, chains=16, metric=None)
    accept = jax.vmap(lambda k, x: mcmc.chain(k, kernel, x, 200).info.accept)(jax.random.split(KEY, 16), x)
    assert abs(float(jnp.mean(accept)) - target) < 0.06
    other, x = mcmc.tune(KEY, cls(gaussian, **options), starts, 400, chains=16, metric=None, target=target - 0.15)
    accept = jax.vmap(lambda k, x: mcmc.chain(k, other, x, 200).info.accept)(jax.random.split(KEY, 16), x)
    assert abs(float(jnp.mean(accept)) - target + 0.15) < 0.08


def test_replicas_step_by_their_temperatures():
    # A step size that is a time goes with 1 / beta, one that is a distance with 1 / sqrt(beta), in composites too.
    from jsamp.mcmc._protocol import cooled

    walk, langevin = mcmc.RandomWalk(gaussian, step_size=0.4), mcmc.MALA(gaussian, step_size=0.4)
    assert np.isclose(cooled(walk, 0.25).step_size, 0.8)
    assert np.isclose(cooled(langevin, 0.25).step_size, 1.6)
    both = cooled(mcmc.repeat(mcmc.compose(walk, langevin), 2), 0.25)
    assert np.allclose([k.step_size for k in both.kernel.kernels], [0.8, 1.6])
    fixed = mcmc.ParallelTempering(walk, [1.0, 0.25], step_sizes=[0.3, 5.0])
    free = mcmc.ParallelTempering(walk, [1.0, 0.25])
    moved = [mcmc.chain(KEY, kernel, jnp.zeros((2, 2)), 1, keep=lambda s, i: s.position).x for kernel in (fixed, free)]
    assert not np.array_equal(moved[0], moved[1])


def test_the_gradient_sees_the_weights_of_a_mixture():
    kernel = mcmc.mixture([0.25, 0.75], [mcmc.RandomWalk(gaussian), mcmc.MALA(gaussian)])
    index = mcmc.chain(KEY, kernel, jnp.zeros(2), 4000, keep=lambda s, i: i.aux).x
    assert abs(float(jnp.mean(index)) - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 4000)
    turns = mcmc.chain(KEY, mcmc.cycle(*kernel.kernels), jnp.zeros(2), 6, keep=lambda s, i: i.aux).x
    assert turns.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_thermostat_finds_the_noise_of_its_gradients():
    # On N(0, T I) with gradients of an unknown noise V: xi settles where the velocity has variance h T, which for small
    # h is a + h V / (2 T), and x keeps the variance that goes with it; SGHMC, told of no noise, is hotter. For many
    # dimensions xi is nearly constant, and the chain an AR(2) whose covariance solves a Lyapunov equation.
    h, a, temperature, spread, d = 0.01, 0.05, 0.5, 4.0, 30
    rows = spread * jax.random.rademacher(jax.random.key(1), (64, d), jnp.float32)
    rows = rows - rows.mean(0)[None]
    noise = float(jnp.mean(rows**2))
    score = lambda x, batch: -x + batch[0]
    options = {"step_size": h, "friction": a, "temperature": temperature, "batch": 1}

    def run(kernel, keep):
        one = lambda key: mcmc.chain(key, kernel, jnp.zeros(d), 600, burn=600, keep=keep).x
        return jax.vmap(one)(jax.random.split(KEY, 60))

    square, xi = run(mcmc.SGNHT(score, rows, **options), lambda s, i: (jnp.mean(s.position**2), s.memory[1]))
    square, xi = np.asarray(square).mean(1), np.asarray(xi).mean(1)
    error = square.std(ddof=1) / np.sqrt(60)
    assert error < 0.02

    def stationary(xi):
        step = np.array([[1 - h, 1 - xi], [-h, 1 - xi]])
        force = np.ones(4) * (2 * a * h * temperature + h**2 * noise)
        return np.linalg.solve(np.eye(4) - np.kron(step, step), force)

    grid = np.linspace(0.02, 0.9, 20_000)
    want = grid[np.argmin([abs(stationary(xi)[3] - h * temperature) for xi in grid])]
    assert abs(want / (a + h * noise / 2 / temperature) - 1) < 0.3
    assert abs(xi.mean() / want - 1) < 0.03
    assert abs(square.mean() / stationary(want)[0] - 1) < 5 * error / temperature + 0.02
    assert abs(stationary(want)[0] - temperature) < 0.15 * temperature
    hot = np.asarray(run(mcmc.SGHMC(score, rows, **options), lambda s, i: jnp.mean(s.position**2))).mean()
    assert hot > 2 * temperature


def test_stretches_are_affine_invariant_and_leave_the_target_alone():
    # The walkers of a transformed target are the transformed walkers, draw by draw.
    mix, shift = np.array([[3.0, -2.0], [0.5, 0.01]]), np.array([5.0, -1.0])
    inverse, origin = jnp.asarray(np.linalg.inv(mix), jnp.float32), jnp.asarray(shift, jnp.float32)
    plain = lambda x: -jnp.sum(x**4) / 4
    warped = lambda y: plain(jnp.sum(inverse * (y - origin)[None], axis=1))
    walkers = np.random.default_rng(1).normal(size=(10, 2))
    a = mcmc.chain(KEY, mcmc.Stretch(plain), walkers.astype(np.float32), 12).x
    b = mcmc.chain(KEY, mcmc.Stretch(warped), (walkers @ mix.T + shift).astype(np.float32), 12).x
    assert np.any(a[-1] != a[0])
    np.testing.assert_allclose(b, np.asarray(a, np.float64) @ mix.T + shift, rtol=1e-3, atol=1e-3)
    # Independent ensembles that start in the law of a skewed target stay in it: x1 ~ Gamma(3), x2 | x1 ~ N(x1, 1).
    rng, count = np.random.default_rng(0), 3000
    first = rng.gamma(3.0, size=(count, 6))
    start = np.stack([first, first + rng.normal(size=(count, 6))], axis=-1).astype(np.float32)

    def skewed(x):
        inside = jnp.maximum(x[0], 1e-30)
        return jnp.where(x[0] > 0, 2 * jnp.log(inside) - inside - (x[1] - x[0]) ** 2 / 2, -jnp.inf)

    kernel = mcmc.Stretch(skewed, scale=3.0)
    end = jax.vmap(lambda k, x: mcmc.chain(k, kernel, x, 1, thin=4).x[-1])(jax.random.split(KEY, count), start)
    end = np.asarray(end, np.float64)
    assert np.mean(np.any(end != start, axis=-1)) > 0.5
    for moment, want in ((end[..., 0], 3.0), (end[..., 0] ** 2, 12.0), (end[..., 1], 3.0), (end[..., 1] ** 2, 13.0)):
        means = moment.mean(1)  # of an ensemble
        assert abs(means.mean() - want) < 5 * means.std(ddof=1) / np.sqrt(count)


def test_a_tuned_walk_accepts_as_asked():
    # One acceptance is near 0 or 1; the size of an undamped walk follows it, and its mean accepts .14 and less.
    @jax.vmap
    def accepts(key):
        kernel, x = mcmc.tune(key, mcmc.RandomWalk(lambda x: -jnp.sum(x**2) / 2), jnp.zeros(10), 200)
        return mcmc.chain(jax.random.fold_in(key, 1), kernel, x, 400).info.accept

    found = jax.jit(accepts)(jax.random.split(jax.random.key(0), 60))
    assert abs(float(found.mean()) - 0.234) < 0.05  # five errors
    assert float(jnp.quantile(found, 0.1)) > 0.12
