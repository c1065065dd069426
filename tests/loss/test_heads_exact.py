"""Score distillation, energies and heads at their exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadrature import check_minimum, normal_nodes

import jsamp as js

pytestmark = pytest.mark.usefixtures("x64")
L = js.loss
SCHEDULE = js.noise.VP()


def gaussian(mean, std):
    return js.denoise.GaussianMixture(SCHEDULE, weights=[1.0], means=[[mean]], stds=[std])


def at(t):
    return L.UniformTimes(t, t + 1e-9)


def test_sds_and_vsd_are_the_differences_of_exact_scores():
    t, mean, std = 0.5, 1.0, 0.6
    a, s = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    x = jnp.full((50_000, 1), 0.3)
    direction = np.asarray(L.sds(jax.random.key(0), gaussian(mean, std), x, times=at(t), weight=2.0))
    total = (a * std) ** 2 + s**2
    wanted = 2.0 * s * a * (0.3 - mean) / total  # E over eps of eps_hat - eps
    assert abs(direction.mean() - wanted) < 4.5 * direction.std() / np.sqrt(len(x))
    scaled = L.sds(jax.random.key(0), gaussian(mean, std), x[:4], times=at(t))
    np.testing.assert_allclose(scaled, L.sds(
        jax.random.key(0), gaussian(mean, std), x[:4], times=at(t), weight=s**2), rtol=1e-6)  # fmt: skip
    # The score of a point mass at x is the noise itself: then vsd is sds, bit by bit of mathematics.
    point = gaussian(0.3, 1e-9)
    same = L.vsd(jax.random.key(0), gaussian(mean, std), point, x[:64], times=at(t))
    np.testing.assert_allclose(same, L.sds(jax.random.key(0), gaussian(mean, std), x[:64], times=at(t)), atol=1e-7)
    rest = L.vsd(jax.random.key(0), gaussian(mean, std), gaussian(mean, std), x[:64], times=at(t))
    np.testing.assert_array_equal(rest, 0)


def test_particle_step_is_a_vector_jacobian_product():
    render = lambda theta: jnp.sin(theta["w"])[:, None] * jnp.arange(1.0, 4.0)[None]
    theta = {"w": jnp.array([0.3, -0.7])}
    direction = lambda key, x: jnp.cos(x) + 0.0
    slope, x = L.particle_step(jax.random.key(0), render, theta, direction)
    jacobian = jax.jacfwd(render)(theta)["w"]
    np.testing.assert_allclose(slope["w"], jnp.einsum("nd,ndk->k", jnp.cos(x), jacobian) / 2, rtol=1e-12)
    np.testing.assert_allclose(x, render(theta))


STD_Q = 1.8
LOG_Q = lambda x: jax.scipy.stats.norm.logpdf(x, 0.0, STD_Q)
SAMPLE = lambda key: STD_Q * jax.random.normal(key)


def test_meco_has_the_gradient_of_the_likelihood():
    """f = exp(-x^2 / 2 + theta x): the gradient of the surrogate at the exact u is theta - mean of the data."""
    nodes, w = normal_nodes(1, 80)
    theta, data = 0.7, jnp.array([1.1, -0.2, 0.9])
    log_z = theta**2 / 2 + 0.5 * np.log(2 * np.pi)
    density = lambda theta: lambda x: -(x**2) / 2 + theta * x
    # Quadrature over the noise, by a batch whose rows are the nodes: the mean over z is taken by hand.
    z = jnp.asarray(STD_Q * nodes[:, 0])

    def surrogate(theta):
        loss = L.MECO(SAMPLE, LOG_Q, gamma=1e-12, log_u=log_z)
        single = lambda one: (
            loss.value(density(theta), L.EnergyDrawn(data, one[None]))[0] + jnp.mean(jax.vmap(density(theta))(data))
        )
        return -jnp.mean(jax.vmap(density(theta))(data)) + jnp.sum(jnp.asarray(w) * jax.vmap(single)(z))

    np.testing.assert_allclose(jax.grad(surrogate)(theta), theta - jnp.mean(data), rtol=1e-6)
    assert abs(jax.grad(surrogate)(float(jnp.mean(data)))) > 1e-3  # u belongs to theta: elsewhere it is another slope


def test_meco_tracks_its_average_in_logs():
    density = lambda x: -(x**2) / 2
    loss = L.MECO(SAMPLE, LOG_Q, gamma=0.3)
    batch = jnp.zeros(5)
    drawn = loss.draw(jax.random.key(0), batch)
    ratio = np.exp(np.asarray(density(drawn.z)) - np.asarray(LOG_Q(drawn.z)))
    _, info = loss.value(density, drawn)
    np.testing.assert_allclose(info.log_u, np.log(ratio.mean()), rtol=1e-12)  # the first batch alone
    loss = loss.remember(info)
    second = loss.draw(jax.random.key(1), batch)
    new = np.exp(np.asarray(density(second.z)) - np.asarray(LOG_Q(second.z)))
    value, info = loss.value(density, second)
    u = 0.7 * ratio.mean() + 0.3 * new.mean()
    np.testing.assert_allclose(info.log_u, np.log(u), rtol=1e-12)
    weight = new / u
    np.testing.assert_allclose(info.ess, weight.sum() ** 2 / (weight**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(info.max_weight, weight.max(), rtol=1e-12)
    np.testing.assert_allclose(info.loglikelihood, -np.log(u), rtol=1e-12)
    np.testing.assert_allclose(value, np.mean(weight * np.asarray(density(second.z))), rtol=1e-12)
    huge = L.MECO(SAMPLE, LOG_Q).value(lambda x: 5000.0 - x**2 / 2, drawn)[1]
    assert np.isfinite(huge.log_u) and np.isfinite(huge.max_weight)


def test_nce_has_its_minimum_at_the_normalised_density():
    mean = 0.5
    nodes, w = normal_nodes(1, 60)
    x, z = jnp.asarray(mean + nodes[:, 0]), jnp.asarray(STD_Q * nodes[:, 0])
    loss = L.NCE(SAMPLE, LOG_Q)

    def objective(c):
        model = (lambda x: -(x**2) / 2 + c[0] * x, c[1])
        return jnp.sum(jnp.asarray(w) * loss.value(model, L.EnergyDrawn(x, z))[1].each)

    check_minimum(objective, jnp.array([mean, mean**2 / 2 + 0.5 * np.log(2 * np.pi)]), None, 1e-6)


def test_nce_of_data_that_the_noise_cannot_reach_is_refused_or_nan():
    box = lambda x: jnp.where((x > -1) & (x < 1), -np.log(2), -jnp.inf)
    loss = L.NCE(lambda key: jax.random.uniform(key, (), minval=-1, maxval=1), box)
    model, key = (lambda x: -(x**2) / 2, jnp.zeros(())), jax.random.key(0)
    inside, outside = jnp.array([0.5, -0.5]), jnp.array([0.5, 2.0])
    assert np.isfinite(loss(key, model, inside)[0])
    with pytest.raises(ValueError, match=r"log_prob is -inf at row 1, .*covers the data"):
        loss(key, model, outside)
    each = jax.jit(lambda x: loss(key, model, x)[1].each)
    np.testing.assert_array_equal(np.isnan(each(outside)), [False, True])
    np.testing.assert_allclose(each(inside), loss(key, model, inside)[1].each, rtol=1e-6)


def agreement(r, num=1000, scale=40.0):
    """Unlabelled rows whose two features agree on a share r of them, balanced; one head a feature."""
    first = np.tile([1.0, -1.0], num // 2)
    second = first * np.where(np.arange(num) // 2 < r * num / 2, 1, -1)
    return jnp.asarray(np.stack([first, second], 1)), scale


@pytest.mark.parametrize("r", [0.0, 0.25, 0.5, 1.0])
def test_disagreement_has_its_closed_form(r):
    """DivDis: log 2 - H(r), least at r = 1/2; D-BAT: -r log 1e-7, least at r = 0."""
    u, scale = agreement(r)
    label = jnp.array([0, 1])
    x = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    heads = lambda x: scale * jnp.stack([jnp.array([v, -v]) for v in (x[0], x[1])])
    entropy = -sum(v * np.log(v) for v in (r, 1 - r) if v > 0)
    value, info = L.DivDis(weight=3.0)(None, heads, (x, label, u))
    np.testing.assert_allclose(info.parts["information"], np.log(2) - entropy, atol=1e-9)
    np.testing.assert_allclose(value, 3 * (np.log(2) - entropy), atol=1e-9)
    head = lambda k: lambda x: scale * jnp.array([x[k], -x[k]])
    value, info = L.DBAT(weight=2.0)(None, (head(1), head(0)), (x, label, u))
    np.testing.assert_allclose(info.parts["agreement"], -np.log(1e-7 + (1 - r) * 0) * r, atol=2e-6)
    np.testing.assert_allclose(value, 2 * info.parts["agreement"], rtol=1e-9)


def test_soft_heads_by_hand():
    """Against the definitions, with three heads and three classes, and two earlier models."""
    rng = np.random.default_rng(0)
    matrix, earlier = jnp.asarray(rng.normal(size=(3, 3, 2))), jnp.asarray(rng.normal(size=(2, 3, 2)))
    x, u, y = jnp.asarray(rng.normal(size=(4, 2))), jnp.asarray(rng.normal(size=(6, 2))), jnp.array([0, 2, 1, 2])
    model = lambda x: matrix @ x
    softmax = lambda m, rows: np.asarray(jax.nn.softmax(jnp.einsum("kd,nd->nk", m, rows), axis=-1))
    ce = sum(-np.log(softmax(m, x)[np.arange(4), y]).mean() for m in matrix)
    infos = []
    for g in range(3):
        for h in range(g):
            a, b = softmax(matrix[g], u), softmax(matrix[h], u)
            joint = np.mean(a[:, :, None] * b[:, None, :], axis=0)
            infos.append(np.sum(joint * (np.log(joint) - np.log(np.outer(a.mean(0), b.mean(0))))))
    value, _ = L.DivDis(weight=2.0)(None, model, (x, y, u))
    np.testing.assert_allclose(value, ce + 2 * np.mean(infos), rtol=1e-10)
    new = lambda x: matrix[0] @ x
    old = tuple(jax.tree_util.Partial(lambda m, x: m @ x, m) for m in earlier)
    terms = []
    for m in earlier:
        a, b = softmax(m, u), softmax(matrix[0], u)
        c = a.argmax(1)
        p, q = a[np.arange(6), c], b[np.arange(6), c]
        terms.append(np.mean(-np.log(p * (1 - q) + q * (1 - p) + 1e-7)))
    value, _ = L.DBAT(weight=0.5)(None, (new, *old), (x, y, u))
    first = -np.log(softmax(matrix[0], x)[np.arange(4), y]).mean()
    np.testing.assert_allclose(value, first + 0.5 * np.mean(terms), rtol=1e-10)
    slopes = jax.grad(lambda m: L.DBAT()(None, (new, *m), (x, y, u))[0])(old)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(slopes))


def test_samples_of_a_head_average_and_their_variance_falls():
    trunk, head = jnp.tanh, lambda z, mask: jnp.sum(z * mask)
    error = lambda out, y: (out - y) ** 2
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5))), jnp.array([0.3, -1.0, 0.2])
    loss = L.MultiSample(error, L.dropout(0.4, 5), num=6)
    drawn = loss.draw(jax.random.key(0), (x, y))
    wanted = np.mean([[error(head(trunk(x[i]), drawn.noise[i, m]), y[i]) for m in range(6)] for i in range(3)])
    np.testing.assert_allclose(loss.value((trunk, head), drawn)[0], wanted, rtol=1e-10)
    assert np.allclose(np.unique(np.asarray(drawn.noise)), [0.0, 1 / 0.6])
    share = np.mean(np.asarray(L.dropout(0.4, 40_000)(jax.random.key(1))) == 0)
    assert abs(share - 0.4) < 4.5 * np.sqrt(0.24 / 40_000)
    spread = lambda num: np.var([
        float(v) for v in jax.vmap(lambda k: L.MultiSample(error, L.dropout(0.4, 5), num=num)(k, (trunk, head), (x, y))[0])(
            jax.random.split(jax.random.key(2), 4000))
    ])  # fmt: skip
    # The ratio of two sample variances of 4000 draws each: a relative error of 4.5 sqrt(2 * kurtosis / 4000) < .25.
    assert abs(spread(1) / spread(8) / 8 - 1) < 0.3
    plain = L.MultiSample(error, L.dropout(0.0, 5), num=2)(jax.random.key(0), (trunk, head), (x, y))[0]
    np.testing.assert_allclose(plain, np.mean((np.sum(np.tanh(x), 1) - y) ** 2), rtol=1e-10)
