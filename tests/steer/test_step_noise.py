"""Noise of one's own, log-probabilities of steps, learned variances: exact on Gaussians and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import denoiser, mixture

import jsamp as js

S, T = js.solve, js.steer
VP = js.noise.VP()
GRID = js.noise.time_grid(VP, 5)
KEY = jax.random.key(3)
MODEL = denoiser(VP, "x0")
X = np.array([0.9, -0.4, 0.2])
Z = np.random.default_rng(0).normal(size=(5, 3))
BUILD = {"ddpm": S.ddpm, "dpmpp(tau)": lambda s, g: S.dpmpp(s, g, tau=1.0), "er_sde": S.er_sde}


@pytest.mark.parametrize("name", BUILD)
def test_own_noise_stands_where_the_plan_draws(name, x64):
    """The numbers that the plan itself would draw give its own sample; others are added row by row, by hand."""
    plan = BUILD[name](VP, GRID)
    drawn = jnp.stack([jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, r), 0), (3,)) for r in range(5)])
    own = js.sample(KEY, MODEL, jnp.asarray(X), plan, steer=T.OwnNoise(drawn)).x
    np.testing.assert_allclose(own, js.sample(KEY, MODEL, jnp.asarray(X), plan).x, rtol=1e-10)
    other = js.sample(KEY, MODEL, jnp.asarray(X), plan, steer=T.OwnNoise(Z))
    again = js.sample(
        jax.random.key(4), MODEL, jnp.asarray(X), plan, steer=T.OwnNoise(lambda info: jnp.asarray(Z)[info.index])
    )
    np.testing.assert_allclose(other.x, again.x, rtol=1e-9)
    if name == "ddpm":
        x = X
        for r in range(5):
            m = MODEL(jnp.asarray(x), plan.t[r]).x0
            x = plan.state_coef[r] * x + plan.weights[r, 0] * np.asarray(m) + plan.noise_std[r] * Z[r]
        np.testing.assert_allclose(other.x, x, rtol=1e-10)


def test_one_brownian_path_under_two_grids(x64):
    """As the grid is refined the samples of one path converge to each other: the error halves at least."""
    knots = np.linspace(0, 1, 4097)
    path = np.concatenate([[0], np.cumsum(np.random.default_rng(1).normal(size=4096)) / 64])
    W = lambda t: jnp.interp(t, knots, jnp.asarray(path))
    z = lambda info: jnp.full(2, (W(info.t_next) - W(info.t)) / jnp.sqrt(jnp.abs(info.t_next - info.t)))
    draw = lambda n: (
        js.sample(KEY, mixture(VP), jnp.ones(2), S.ddpm(VP, js.noise.time_grid(VP, n)), steer=T.OwnNoise(z)).x
    )
    fine = draw(2048)
    errors = [float(jnp.abs(draw(n) - fine).max()) for n in (32, 128, 512)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def gaussian_log_density(x, mean, std):
    return np.sum(-0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi))


def test_log_probabilities_of_steps_by_hand(x64):
    """Against the transition densities of the table; along a recorded path too, whose run it follows."""
    plan = S.ddpm(VP, GRID)
    for path in (None, Z):
        result = js.sample(KEY, MODEL, jnp.asarray(X), plan, steer=T.LogProb(path), keep=lambda x, p: x)
        states = np.asarray(result.info.kept)
        x = X
        for r in range(5):
            mean = plan.state_coef[r] * x + plan.weights[r, 0] * np.asarray(MODEL(jnp.asarray(x), plan.t[r]).x0)
            wanted = gaussian_log_density(states[r], mean, plan.noise_std[r])
            np.testing.assert_allclose(result.info.report[r], wanted, rtol=1e-8)
            x = states[r]
        if path is not None:
            np.testing.assert_array_equal(states, path)
    batch = js.sample(KEY, MODEL, jnp.asarray(Z), plan, steer=T.LogProb(event_ndim=1)).info.report
    assert batch.shape == (5, 5)
    zero = S.ddpm(VP, js.noise.time_grid(VP, 5, final="zero"))
    assert js.sample(KEY, MODEL, jnp.asarray(X), zero, steer=T.LogProb()).info.report[-1] == 0


class Swap(T.Hooks):
    """Reorders the particles at one row."""

    def __init__(self, row, index):
        self.row, self.index = jnp.int32(row), jnp.asarray(index)

    def mid(self, key, g, x, prediction, info):
        order = jnp.where(info.index == self.row, self.index, jnp.arange(self.index.shape[0]))
        return g, x[order], jax.tree.map(lambda v: v[order], prediction), order


def test_log_probabilities_follow_reordered_particles(x64):
    """A particle's report up to the row that redraws it is that of its ancestor; from there on its own."""
    plan, index = S.ddpm(VP, GRID), np.array([2, 2, 0, 1])
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    alone = js.sample(KEY, MODEL, x, plan, steer=T.LogProb(event_ndim=1)).info.report
    for steers, place in (
        ((T.LogProb(event_ndim=1), Swap(2, index)), 0),
        ((Swap(2, index), T.LogProb(event_ndim=1)), 1),
    ):
        found = js.sample(KEY, MODEL, x, plan, steer=T.chain(*steers)).info.report[place]
        np.testing.assert_allclose(found[:2], alone[:2, index], rtol=1e-10)
        # From there on by what the rows draw: z is that of the place, not of the ancestor.
        np.testing.assert_allclose(found[2:], alone[2:], rtol=1e-10)


def test_noise_has_one_owner_in_a_chain():
    """Steers are told of the noise that the row drew: beside one that changes it the others would be wrong."""
    twisted = T.SMC(None, lambda x0: x0[:, 0])
    for steers, match in [
        ((T.OwnNoise(Z), T.LogProb()), "OwnNoise and LogProb: each acts on the noise"),
        ((T.LogProb(), T.OwnNoise(Z)), "LogProb and OwnNoise"), ((T.OwnNoise(Z), T.LearnedVariance(1.0)), "OwnNoise and"),
        ((T.LearnedVariance(1.0), T.chain(T.Hooks(), T.LogProb())), "LearnedVariance and Chain"),
        ((twisted, T.OwnNoise(Z)), "SMC and OwnNoise"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            T.chain(*steers)
    assert T.chain(T.LogProb(), twisted).on_noise == "reads"
    assert T.chain(T.SMC(lambda x, p, info: x[:, 0], lambda x0: x0[:, 0]), T.OwnNoise(Z)).on_noise == "changes"


def test_the_gradient_is_the_score_function(x64):
    """d report / d gain with states held fixed: central differences of the density of the path that was drawn."""
    plan = S.ddpm(VP, GRID)

    def total(gain, path):
        model = denoiser(VP, "x0", {"gain": gain, "bend": 0.4})
        result = js.sample(KEY, model, jnp.asarray(X), plan, steer=T.LogProb(path), keep=lambda x, p: x)
        return jnp.sum(result.info.report), result.info.kept

    slope, kept = jax.grad(total, has_aux=True)(0.7, None)
    h = 1e-5
    wanted = (total(0.7 + h, kept)[0] - total(0.7 - h, kept)[0]) / (2 * h)
    np.testing.assert_allclose(slope, wanted, rtol=1e-6)


@pytest.mark.parametrize("value", [1.0, -1.0, 0.3, None])
def test_variances_between_small_and_large(value, x64):
    """The published interpolation, in betas: log var = f log beta + (1 - f) log beta~, f = (v + 1) / 2."""
    schedule = js.noise.Discrete.ddpm_linear()
    plan = S.ddpm(schedule, js.noise.index_grid(schedule, 6, "leading"))
    said = np.array([0.3, -0.8, 1.0])
    both = lambda x, t: jnp.concatenate([0.1 * x, jnp.asarray(said)], axis=-1)
    model = js.Denoiser(both, schedule, variance="range")
    v = said if value is None else value
    keep = lambda x, p: x
    states = js.sample(KEY, model, jnp.asarray(X), plan, steer=T.LearnedVariance(value), keep=keep).info.kept
    x = X
    for r in range(6):
        z = jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, r), 0), (3,))
        before, after = plan.alpha[r] ** 2, plan.alpha_next[r] ** 2
        beta = 1 - before / after
        small = beta * (1 - after) / (1 - before)
        f = (v + 1) / 2
        std = np.exp(0.5 * (f * np.log(beta) + (1 - f) * np.log(np.maximum(small, 1e-300)))) if small > 0 else 0.0
        x0 = (x - plan.sigma[r] * 0.1 * x) / plan.alpha[r]
        mean = np.sqrt(after) * beta / (1 - before) * x0 + np.sqrt(before / after) * (1 - after) / (1 - before) * x
        x = mean + std * np.asarray(z)
        np.testing.assert_allclose(states[r], x, rtol=1e-7)
        x = np.asarray(states[r])


def test_fixed_variances_are_exact_for_the_two_extreme_laws(x64):
    """Large is exact for data N(0, I), small for a point at 0: the output's variance, by the affine recursion."""
    plan = S.ddpm(VP, js.noise.time_grid(VP, 8))
    for value, std in ((1.0, 1.0), (-1.0, 0.0)):
        var = plan.alpha[0] ** 2 * std**2 + plan.sigma[0] ** 2
        for r in range(8):
            a, s = plan.alpha[r], plan.sigma[r]
            gain = plan.state_coef[r] + plan.weights[r, 0] * a * std**2 / (a**2 * std**2 + s**2)
            small, large = plan.noise_std[r] ** 2, s**2 - (a / plan.alpha_next[r] * plan.sigma_next[r]) ** 2
            var = gain**2 * var + small ** ((1 - value) / 2) * large ** ((1 + value) / 2)
        wanted = plan.alpha_next[-1] ** 2 * std**2 + plan.sigma_next[-1] ** 2
        np.testing.assert_allclose(var, wanted, rtol=1e-9)


def test_refusals():
    run = lambda steer, plan: js.sample(KEY, MODEL, X.astype(np.float32), plan, steer=steer)
    ddpm = S.ddpm(VP, GRID)
    for steer in (T.OwnNoise(Z), T.LogProb(), T.LearnedVariance(1.0)):
        for plan, match in [(S.ddim(VP, GRID), "has none"), (S.sa_solver(VP, GRID), "has stages or a corrector")]:
            with pytest.raises(ValueError, match=f"{type(steer).__name__} needs a plan whose rows.*{match}"):
                run(steer, plan)
    for make, match in [
        (lambda: run(T.OwnNoise(Z[:3]), ddpm), r"OwnNoise: noise must be \[5, \.\.\.\]"),
        (lambda: T.OwnNoise(np.full((5, 3), np.nan)), "OwnNoise: noise must be finite"),
        (lambda: run(T.OwnNoise(Z[:, :2]), ddpm), "OwnNoise: noise must have the shape of x"),
        (lambda: run(T.LogProb(Z[:3]), ddpm), r"LogProb: path must be \[5"),
        (lambda: T.LearnedVariance(2.0), "LearnedVariance: value"),
        (lambda: run(T.LearnedVariance(), ddpm), "brings no variance"),
    ]:
        with pytest.raises((ValueError, TypeError), match=match):
            make()


class _Drawing(js.steer.Hooks):
    """Draws in both hooks."""

    stochastic = True

    def mid(self, key, g, x, prediction, info):
        return g, x + 0.1 * jax.random.normal(key, x.shape, x.dtype), prediction, None

    def post(self, key, g, x, info):
        return g, x + 0.1 * jax.random.normal(key, x.shape, x.dtype), True


GOING_UP = {
    "jumps": lambda s, g: S.jumps(S.ddpm(s, g), length=2, repeats=2),
    "restart": lambda s, g: S.restart(S.ddim(s, g), S.ddim(s, g[2:4]), repeats=2),
}


@pytest.mark.parametrize("steer", [_Drawing, js.steer.LogProb])
@pytest.mark.parametrize("name", GOING_UP)
def test_plans_that_go_back_up_run_in_pieces_under_steers(name, steer):
    """Each piece draws the numbers of its rows, in the plan and in the hooks; reports come in pieces, too."""
    plan, key, x = GOING_UP[name](VP, js.noise.time_grid(VP, 5)), jax.random.key(3), jnp.array([0.5, -1.0])
    network = js.Denoiser(lambda x, t: jnp.tanh(x), VP, predicts="x0")
    if name == "restart" and steer is js.steer.LogProb:
        with pytest.raises(ValueError, match=r"LogProb needs a plan .* noise before its rows"):
            js.sample(key, network, x, plan, steer=steer())
        return
    whole = js.sample(key, network, x, plan, steer=steer())
    for at in (3, 5):
        first = js.sample(key, network, x, plan[:at], steer=steer())
        last = js.sample(key, network, first.x, plan[at:], steer=steer())
        np.testing.assert_allclose(last.x, whole.x, rtol=1e-6, atol=1e-6)
        if whole.info.report is not None:
            report = np.concatenate([first.info.report, last.info.report])
            np.testing.assert_allclose(report, whole.info.report, rtol=1e-5, atol=1e-5)
