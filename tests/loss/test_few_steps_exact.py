"""Consistency, trajectory, discrepancy and GAN losses at their exact answers on Gaussian data."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadrature import check_minimum, expected, normal_nodes

import jsamp as js

pytestmark = pytest.mark.usefixtures("x64")
L = js.loss
VE = js.noise.VE()
STD, T, U = 0.8, 2.0, 1.2
LAW = js.denoise.GaussianMixture(VE, weights=[1.0], means=[[0.0]], stds=[STD])
GRID = js.noise.karras_grid(VE, 18)[:-1]


def gain(sigma):
    """The exact map of the probability flow to sigma = 0."""
    return STD / jnp.sqrt(STD**2 + sigma**2)


def drawn_at(t, u, num=20):
    z, w = normal_nodes(2, num)
    full = lambda v: jnp.full(len(w), v)
    keys = jax.random.split(jax.random.key(0), len(w))
    return L.ConsistencyDrawn(jnp.asarray(STD * z[:, :1]), None, full(t), full(u), jnp.asarray(z[:, 1:]), keys), w


def players(c):
    """Student c x above, exact target below."""
    return (lambda x, t: c * x, lambda x, t: gain(t) * x)


@pytest.mark.parametrize("teacher", [None, L.Teacher(LAW, js.solve.ddim)], ids=["CT", "CD"])
def test_training_equals_distillation_by_euler(teacher):
    """The best coefficient is c_u (s^2 + u t) / (s^2 + t^2) for both, on any grid."""
    drawn, w = drawn_at(T, U)
    best = float(gain(U)) * (STD**2 + U * T) / (STD**2 + T**2)
    loss = L.Consistency([T, U], teacher)
    check_minimum(lambda c: expected(loss, drawn, w, players(c)), best)
    huber = L.Consistency([T, U], teacher, distance="huber", weight=lambda t, u: 1 / (t - u))
    value = expected(huber, drawn, w, players(0.2))
    x = drawn.x0 + T * drawn.eps
    below = drawn.x0 + U * drawn.eps if teacher is None else x * (STD**2 + U * T) / (STD**2 + T**2)
    gap = np.asarray(0.2 * x - gain(U) * below)[:, 0]
    np.testing.assert_allclose(value, np.sum(w * (np.sqrt(gap**2 + 0.00054**2) - 0.00054)) / (T - U), rtol=1e-9)


def test_one_player_is_its_own_target_and_nothing_flows_through_the_target():
    drawn, w = drawn_at(T, U)
    loss = L.Consistency([T, U])
    alone = jax.grad(lambda c: expected(loss, drawn, w, lambda x, t: c * x))(0.4)
    pair = jax.grad(lambda c: expected(loss, drawn, w, (lambda x, t: c * x, lambda x, t: 0.4 * x)))(0.4)
    np.testing.assert_allclose(alone, pair, rtol=1e-12)
    slope = jax.grad(lambda c: expected(loss, drawn, w, (lambda x, t: 0.4 * x, lambda x, t: c * x)))(0.4)
    assert slope == 0


def test_progressive_distillation_lands_on_the_teachers_two_steps():
    drawn, w = drawn_at(T, U)
    teacher = L.Teacher(LAW, js.solve.ddim, steps=2)
    below = jax.vmap(teacher)(drawn.keys, drawn.x0 + T * drawn.eps, drawn.t, drawn.u, None)
    x = drawn.x0 + T * drawn.eps
    ratio = float((below / x)[0, 0])
    best = (T * ratio - U) / (T - U)  # x0 from which an Euler step from T reaches ratio x at U
    loss = L.Consistency([T, U], teacher, target="teacher")
    check_minimum(lambda c: expected(loss, drawn, w, lambda x, t: c * x), best, 0.0)
    middle = (0.5 * (T ** (1 / 7) + U ** (1 / 7))) ** 7
    euler = lambda t, u: (STD**2 + u * t) / (STD**2 + t**2)
    np.testing.assert_allclose(ratio, euler(T, middle) * euler(middle, U), rtol=1e-9)


@pytest.mark.parametrize("teacher", [None, L.Teacher(LAW, js.solve.heun)], ids=["CT", "CD"])
def test_the_tangent_vanishes_on_the_exact_map(teacher):
    """E[df / dt | x_t] = 0 for the exact student: the gradient of the pseudo-loss is zero, and not elsewhere."""
    drawn, w = drawn_at(T, U)
    loss = L.Consistency([T, U], teacher, target="tangent")
    slope = lambda scale: jax.grad(
        lambda c: expected(loss, drawn, w, lambda x, t: c * jnp.sqrt(STD**2 + scale * t**2) ** -1 * x)
    )(STD)
    assert abs(slope(1.0)) < 1e-9 and abs(slope(0.5)) > 1e-2


def test_a_stochastic_teacher_makes_the_student_lose_variance():
    """One-step variance ratios c^2 (s^2 + sigma_max^2) / s^2 of the published table: eta 0, .1, .2, .3, 1 at N = 18."""
    table = {0.0: 0.739, 0.1: 0.697, 0.2: 0.585, 0.3: 0.433}
    law = js.denoise.GaussianMixture(VE, weights=[1.0], means=[[0.0]], stds=[1.0])
    grid = np.asarray(GRID, float)
    for eta, ratio in table.items():
        teacher = L.Teacher(law, functools.partial(js.solve.ddim, eta=eta))
        means = jax.vmap(lambda t, u, teacher=teacher: _mean_ratio(teacher, t, u))(grid[:-1], grid[1:])
        c = float(jnp.prod(means))
        np.testing.assert_allclose(c**2 * (1 + grid[0] ** 2), ratio, atol=6e-4)
        limit = (1 / (1 + grid[0] ** 2)) ** (eta**2)
        assert (eta < 0.25) == (ratio < limit - 0.01) or eta == 0.3


def _mean_ratio(teacher, t, u):
    """x_u / x_t without the teacher's noise, which is symmetric: the mean of two antithetic starts."""
    key = jax.random.key(0)
    up, down = (teacher(key, jnp.array([sign]), t, u) for sign in (1e3, -1e3))
    return ((up - down) / 2e3)[0]


def test_the_loss_with_a_stochastic_teacher_has_its_minimum_at_the_mean():
    """Gradient at c_u times the mean ratio, over the teacher's own noise: zero within its standard error."""
    num = 20_000
    key = jax.random.key(1)
    teacher = L.Teacher(LAW, functools.partial(js.solve.ddim, eta=0.5))
    ratio = float(_mean_ratio(teacher, T, U))
    full = lambda v: jnp.full(num, v)
    x0 = STD * jax.random.normal(key, (num, 1))
    eps = jax.random.normal(jax.random.fold_in(key, 1), (num, 1))
    drawn = L.ConsistencyDrawn(x0, None, full(T), full(U), eps, jax.random.split(key, num))
    loss = L.Consistency([T, U], teacher)
    each = lambda c: loss.value(players(c), drawn)[1].each
    slopes = np.asarray(jax.jacfwd(each)(float(gain(U)) * ratio))
    assert abs(slopes.mean()) < 4.5 * slopes.std() / np.sqrt(num)
    assert abs(np.asarray(jax.jacfwd(each)(float(gain(T)))).mean()) > 20 * slopes.std() / np.sqrt(num)


def test_the_boundary_is_exact_and_levels_follow_their_weights():
    student = js.denoise.EDM(lambda x, c: jnp.cos(x), STD, float(GRID[-1]))
    x = jnp.array([0.3, -2.0])
    np.testing.assert_array_equal(student(x, GRID[-1]), x)
    sigma = 3.0
    above, total = sigma - GRID[-1], np.sqrt(sigma**2 + STD**2)
    wanted = STD**2 / (above**2 + STD**2) * x + above * STD / total * jnp.cos(x / total)
    np.testing.assert_allclose(student(x, sigma), wanted, rtol=1e-12)
    with jax.enable_x64(False):
        single = js.denoise.EDM(lambda x, c: jnp.cos(x), STD, float(GRID[-1]))
        grid = jnp.asarray(L.Consistency(GRID).grid, jnp.float32)
        np.testing.assert_array_equal(single(x.astype(jnp.float32), grid[-1]), x.astype(jnp.float32))
    loss = L.Consistency([4.0, 3.0, 2.0, 1.0], probabilities=[0.0, 3.0, 1.0])
    drawn = loss.draw(jax.random.key(0), jnp.zeros((400, 1)))
    counts = [int(jnp.sum(drawn.t == t)) for t in (4.0, 3.0, 2.0)]
    assert counts[0] == 0 and abs(counts[1] - 300) <= 1
    np.testing.assert_array_equal(drawn.u, drawn.t - 1)


def test_the_critic_enters_and_learns():
    drawn, w = drawn_at(T, U)
    critic = lambda x, t: jnp.sum(0.3 * x) + t
    plain = expected(L.Consistency([T, U]), drawn, w, players(0.3))
    both = expected(L.Consistency([T, U], critic_weight=0.5), drawn, w, (*players(0.3), critic))
    x = drawn.x0 + T * drawn.eps
    np.testing.assert_allclose(both, plain - 0.5 * np.sum(w * np.asarray(0.3 * 0.3 * x[:, 0] + T)), rtol=1e-9)
    hinge = L.ConsistencyCritic(L.Consistency([T, U]))
    judge = lambda x, t: 0.5 * jnp.sum(x)
    wanted = np.maximum(0, 1 - 0.5 * drawn.x0[:, 0]) + np.maximum(0, 1 + 0.5 * 0.3 * x[:, 0])
    np.testing.assert_allclose(expected(hinge, drawn, w, (*players(0.3), judge)), np.sum(w * wanted), rtol=1e-9)
    slope = jax.grad(lambda c: expected(hinge, drawn, w, (*players(c), judge)))(0.3)
    assert slope == 0  # the student is fixed


def exact_jump(x, t, s):
    """g of the exact trajectory map of N(0, s^2)."""
    ratio = jnp.sqrt((STD**2 + s**2) / (STD**2 + t**2))
    share = s / t
    near = share > 1 - 1e-9
    return jnp.where(near, STD**2 / (STD**2 + t**2), (ratio - share) / jnp.where(near, 1, 1 - share)) * x


def test_trajectory_consistency():
    x = jnp.array([0.7])
    jump = functools.partial(L.jump, exact_jump)
    np.testing.assert_allclose(jump(jump(x, 2.0, 1.0), 1.0, 0.3), jump(x, 2.0, 0.3), rtol=1e-12)  # semigroup
    np.testing.assert_array_equal(jump(x, 2.0, 2.0), x)
    np.testing.assert_allclose(exact_jump(x, 2.0, 2.0 - 1e-6), LAW(x, 2.0).x0, rtol=1e-5)
    z, w = normal_nodes(2, 6)
    full = lambda v: jnp.full(len(w), v)
    keys = jax.random.split(jax.random.key(0), len(w))
    at = lambda t, u, s: L.TrajectoryDrawn(
        jnp.asarray(STD * z[:, :1]), None, full(t), full(u), full(s), jnp.asarray(z[:, 1:]), keys, full(0.9)
    )
    loss = L.TrajectoryConsistency([T, U, 0.5, 0.01], L.Teacher(LAW, js.solve.heun, 24), weight=3.0, denoising=0.5)
    info = loss.value((exact_jump, exact_jump), at(T, U, 0.5))[1]
    assert info.parts["trajectory"] < 1e-9
    term = float(jnp.sum(jnp.asarray(w) * info.each))
    np.testing.assert_allclose(term, 1.5 * STD**2 * 0.81 / (STD**2 + 0.81), rtol=1e-5)
    # A student that is wrong by a factor is pulled back; the gradient flows through the fixed target.
    student = lambda c: jax.tree_util.Partial(lambda c, x, t, s: c * exact_jump(x, t, s), c)
    drawn = at(T, U, 0.5)
    share = lambda c: jnp.sum(jnp.asarray(w) * loss.value((student(c), exact_jump), drawn)[1].each)
    assert jax.grad(share)(1.2) > 0.1 and jax.grad(share)(0.8) < -0.1
    through = jax.grad(lambda c: jnp.sum(loss.value((exact_jump, student(c)), drawn)[1].each))(1.1)
    assert through == 0


def test_levels_of_trajectories_are_ordered_and_reach_as_far_as_allowed():
    loss = L.TrajectoryConsistency([5.0, 4.0, 3.0, 2.0, 1.0], L.Teacher(LAW), reach=2)
    drawn = loss.draw(jax.random.key(0), jnp.zeros((500, 1)))
    assert np.all((drawn.s <= drawn.u) & (drawn.u < drawn.t) & (drawn.t - drawn.u <= 2))
    assert set(np.asarray(drawn.t - drawn.u)) == {1.0, 2.0} and set(np.asarray(drawn.s)) == {4.0, 3.0, 2.0, 1.0}
    free = L.TrajectoryConsistency([5.0, 4.0, 3.0, 2.0, 1.0], L.Teacher(LAW))
    assert float(jnp.max(free.draw(jax.random.key(0), jnp.zeros((500, 1))).t - 1)) == 4.0


def test_the_discrepancy_is_unbiased_and_has_its_closed_form():
    s1, s2, shift = 1.0, 1.5, 0.7
    loss = L.MMDFinetune(lambda key, m: m + s1 * jax.random.normal(key, (1,)), kernel="gaussian")
    value = lambda key: loss(key, jnp.zeros(1), shift + s2 * jax.random.normal(jax.random.fold_in(key, 1), (64, 1)))[0]
    values = np.asarray(jax.vmap(value)(jax.random.split(jax.random.key(0), 400)))
    mean = lambda var, gap: np.exp(-(gap**2) / (1 + 2 * var)) / np.sqrt(1 + 2 * var)
    exact = mean(2 * s1**2, 0) + mean(2 * s2**2, 0) - 2 * mean(s1**2 + s2**2, shift)
    assert abs(values.mean() - exact) < 4.5 * values.std() / 20
    assert exact > 10 * values.std() / 20


def test_the_polynomial_kernel_and_its_gradient():
    """Against the definition written with loops, and central differences through the sampler."""
    sampler = lambda key, m: m * jax.random.normal(key, (3,))
    features = lambda x: jnp.concatenate([x, x**2])
    loss = L.MMDFinetune(sampler, features)
    real = jax.random.normal(jax.random.key(5), (4, 3))
    drawn = loss.draw(jax.random.key(0), real)
    made = np.stack([np.asarray(features(sampler(k, 1.3))) for k in drawn.keys])
    true = np.stack([np.asarray(features(x)) for x in real])
    k = lambda a, b: (a @ b / 6 + 1) ** 3
    own = np.mean([k(made[i], made[j]) for i in range(4) for j in range(4) if i != j])
    other = np.mean([k(true[i], true[j]) for i in range(4) for j in range(4) if i != j])
    cross = np.mean([k(a, b) for a in made for b in true])
    np.testing.assert_allclose(loss.value(1.3, drawn)[0], own + other - 2 * cross, rtol=1e-10)
    f = lambda m: loss.value(m, drawn)[0]
    np.testing.assert_allclose(jax.grad(f)(1.3), (f(1.3 + 1e-5) - f(1.3 - 1e-5)) / 2e-5, rtol=1e-6)


SCHEDULE = js.noise.VP()
TIMES = np.linspace(1, 0, 4)


def posterior(x, t, z):
    """The exact law of x0 given x_t, for data N(0, STD^2)."""
    a, s = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    total = (a * STD) ** 2 + s**2
    return a * STD**2 / total * x + jnp.sqrt(STD**2 * s**2 / total) * z


def test_the_true_generator_is_a_fixed_point():
    """At an undecided critic 2 log 2 and log 2; and no linear critic can tell: its gradient vanishes at zero."""
    critic = L.GANCritic(SCHEDULE, TIMES, 1, r1=0.3)
    make = L.GANGenerator(SCHEDULE, TIMES, 1)
    z, w = normal_nodes(5, 4)
    column = lambda k: jnp.asarray(z[:, k : k + 1])
    full = lambda v: jnp.full(len(w), v)
    for upper, lower in itertools.pairwise(TIMES):
        a, s = float(SCHEDULE.alpha(lower)), float(SCHEDULE.sigma(lower))
        keep = float(SCHEDULE.alpha(upper)) / a
        spread = np.sqrt(float(SCHEDULE.sigma(upper)) ** 2 - (keep * s) ** 2)
        real = a * STD * column(0) + s * column(1)
        drawn = L.GANDrawn(real, keep * real + spread * column(2), full(upper), full(lower), column(3), column(4))

        def judge(c):
            features = lambda x, above: jnp.array([1.0, x[0], above[0], x[0] ** 2, x[0] * above[0], above[0] ** 2])
            return lambda x, t, above: jnp.dot(c, features(x, above))

        loss = lambda c: expected(critic, drawn, w, (posterior, judge(c)))
        np.testing.assert_allclose(loss(jnp.zeros(6)), 2 * np.log(2), rtol=1e-9)
        np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(6)), 0, atol=1e-9)
        np.testing.assert_allclose(expected(make, drawn, w, (posterior, judge(jnp.zeros(6)))), np.log(2), rtol=1e-9)
        # The mean instead of a draw is found out, by the variance.
        mean = lambda x, t, z: posterior(x, t, 0 * z)
        found = jax.grad(lambda c: expected(critic, drawn, w, (mean, judge(c))))(jnp.zeros(6))
        assert abs(found[3]) > (1e-2 if lower == 0 else 1e-6)
    # The penalty of a linear critic is the square of its slope.
    info = critic.value((posterior, lambda x, t, above: 2.0 * x[0]), drawn)[1]
    np.testing.assert_allclose(info.parts["penalty"], 4.0, rtol=1e-12)
    base = L.GANCritic(SCHEDULE, TIMES, 1, r1=0.0)
    linear = (posterior, lambda x, t, above: 2.0 * x[0])
    np.testing.assert_allclose(critic.value(linear, drawn)[0] - base.value(linear, drawn)[0], 0.6, rtol=1e-9)


def test_the_levels_that_are_drawn_have_the_law_of_the_schedule():
    loss = L.GANGenerator(SCHEDULE, TIMES, 2)
    drawn = loss.draw(jax.random.key(0), 2.0 * jnp.ones((9000, 1)))
    assert drawn.z.shape == (9000, 2)
    for upper, lower in itertools.pairwise(TIMES):
        rows = np.isclose(np.asarray(drawn.upper), upper)
        assert rows.sum() == 3000 and np.allclose(np.asarray(drawn.lower)[rows], lower)
        for x, t in ((drawn.real, lower), (drawn.noised, upper)):
            z = (np.asarray(x)[rows, 0] - 2 * float(SCHEDULE.alpha(t))) / max(float(SCHEDULE.sigma(t)), 1e-12)
            if t > 0:
                assert abs(z.mean()) < 4.5 / np.sqrt(3000) and abs(z.var() - 1) < 4.5 * np.sqrt(2 / 3000)
            else:
                np.testing.assert_array_equal(np.asarray(x)[rows, 0], 2.0)


@pytest.mark.parametrize("num", [1, 2, 4])
def test_the_true_generator_samples_exactly_in_any_number_of_steps(num):
    generator = js.denoise.Latent(posterior, SCHEDULE, latent=1)
    plan = js.solve.ddpm(SCHEDULE, np.linspace(1, 0, num + 1))
    keys = jax.random.split(jax.random.key(0), 20_000)
    total = jnp.sqrt(SCHEDULE.alpha(1.0) ** 2 * STD**2 + SCHEDULE.sigma(1.0) ** 2)
    draw = lambda key: js.sample(key, generator, total * jax.random.normal(jax.random.fold_in(key, 7), (1,)), plan).x
    x = np.asarray(jax.vmap(draw)(keys))[:, 0]
    assert abs(x.mean()) < 4.5 * STD / np.sqrt(len(x))
    assert abs(x.var() / STD**2 - 1) < 4.5 * np.sqrt(2 / len(x))


def test_curricula_of_levels():
    """The counts of both papers, and the lognormal weights by their own integral."""
    assert [L.consistency_levels(k, 100) for k in (0, 10, 25, 50, 100)] == [2, 48, 76, 107, 151]
    double = lambda k: L.consistency_levels(k, 800, first=10, last=1280, growth="double")
    assert [double(100 * k) for k in range(9)] == [11, 21, 41, 81, 161, 321, 641, 1281, 1281]
    assert double(99) == 11
    grid = np.geomspace(80.0, 0.002, 12)
    found = L.level_probabilities(grid, mean=-0.7, std=1.3)
    log = np.linspace(np.log(grid[4]), np.log(grid[3]), 20_001)
    inside = np.trapezoid(np.exp(-((log + 0.7) ** 2) / (2 * 1.3**2)) / (1.3 * np.sqrt(2 * np.pi)), log)
    whole = np.linspace(np.log(grid[-1]), np.log(grid[0]), 200_001)
    total = np.trapezoid(np.exp(-((whole + 0.7) ** 2) / (2 * 1.3**2)) / (1.3 * np.sqrt(2 * np.pi)), whole)
    np.testing.assert_allclose(found[3], inside / total, rtol=1e-7)
    np.testing.assert_allclose(found.sum(), 1.0)
    L.Consistency(grid, probabilities=found)
