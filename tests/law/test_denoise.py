"""Laws of every public object of `jsamp.denoise`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, batches_run_inside_shard_map, pairs, wrong
from denoise_cases import ALONE, CASES, COMPILED, DATA, DENOISERS, GOOD, NET, PLAN, TURN, VP, X
from laws import central

import jsamp as js

D = js.denoise
T = np.float32(0.4)
PATH = js.noise.Interpolant("linear")
LINEAR = js.Denoiser(
    jax.tree_util.Partial(lambda w, x, t: jnp.tanh(x) @ w * t, jnp.asarray([[0.4, 0.1], [-0.2, 0.3]])),
    VP,
    predicts="x0",
)
CALM = js.solve.ddim(VP, js.noise.time_grid(VP, 3))
RANGES = [D.calibrate(None, LINEAR, CALM, jnp.asarray(X), law=D.Normal(), bits=bits) for bits in (8, 4)]
GENERATOR = D.Latent(lambda x, t, z: jnp.tanh(x * t) + z, VP, latent=2)


def record(make):
    """A case of a record: built by the names of its fields, it keeps its type."""
    return Case(lambda: make, (X[0],), returns=type(make(0)), mechanism="record")


def bridged(weight):
    law = D.GaussianMixture(VP, weights=[weight], means=DATA[:1] * weight, stds=[0.5])
    return D.BridgeMixture(PATH, GOOD, law)


def quantised():
    """A case of a quantised denoiser; new bits keep its structure."""
    return Case(
        lambda: D.quantise(LINEAR, RANGES[0]), (X, T), other=lambda: D.quantise(LINEAR, RANGES[1]), mechanism="quantised",
    )  # fmt: skip


def potentials(x):
    return jnp.stack([x[0] ** 2, x[0] * x[1], jnp.sin(x[1])])


def part_of(want, points):
    """The part of a gradient field on its own potentials: the field itself."""
    return D.conservative_part(D.ConservativePart(potentials, want, 1.0), potentials, points)


FIELD = (jnp.array([0.5, -1.0, 2.0]), np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
REGISTRY = {
    **DENOISERS,
    "Bridge": Case(
        lambda: D.Bridge(PATH, jax.tree_util.Partial(lambda law, x, t: law(x, t).x0, bridged(1.0)), bridged(1.0).score), (X[0], T),
    ),
    "BridgeMixture": Case(lambda: bridged(1.0), (X[0], T), other=lambda: bridged(0.9)),
    "ConservativePart": Case(lambda: D.ConservativePart(potentials, FIELD[0], 1.0), (X[0],)),
    "DenoiserLike": Case(lambda: lambda x: x * isinstance(GOOD, D.DenoiserLike), (X[0],), mechanism="record"),
    "Guided": record(lambda x: D.Guided(x0=x, eps=x, kick=x, aux=x)),
    "Kick": record(lambda x: D.Kick(x=x, x0=x)),
    "Latent": Case(
        lambda: GENERATOR, (X[0], T), lambda thing, key, x, t: thing(x, t, key=key), stochastic=True,
        refusals=[
            *wrong(
                D.Latent,
                ({"model": 3, "schedule": VP, "latent": 1}, "Latent: .*model must be callable|Latent: model must be callable"),
                ({"model": lambda x, t, z: x, "schedule": VP, "latent": 0}, "Latent: latent must be"),
            ),
            (lambda: GENERATOR(X[0], 0.4), "Latent: .*key is None"),
            (lambda: D.Latent(lambda x, t, z: z[:1], VP, latent=2)(X[0], 0.4, key=jax.random.key(0)), "Latent: .*shape of x"),
        ],
    ),
    "LinearOp": Case(
        lambda: D.LinearOp.dense(np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]], np.float32)), (X[0],), mechanism="operator",
        refusals=[
            *wrong(
                D.LinearOp,
                *((bad, TypeError, r"LinearOp: (apply|adjoint|pinv|svd) must be")
                  for bad in ((3,), (jnp.sin, 3), (jnp.sin, None, 3), (jnp.sin, None, None, 3))),
            ),
            (lambda: D.LinearOp.mask(np.array([0.5, 1.0])), ValueError, "0 and 1 only"),
            (lambda: D.LinearOp.pool((4, 5), (2, 2)), ValueError, "factor for each axis that divides"),
            (lambda: D.LinearOp.pool((4,), (2, 2)), ValueError, "factor for each axis"),
            (lambda: D.LinearOp.pool((4,), (0,)), ValueError, "LinearOp.pool: factor"),
            (lambda: D.LinearOp.dense(np.ones(3)), ValueError, r"matrix must be \[m, n\]"),
            (lambda: D.LinearOp.dense(np.full((2, 2), np.nan)), ValueError, "LinearOp.dense: matrix"),
            (lambda: D.LinearOp.dense(np.ones((2, 4)), (3,)), ValueError, "does not hold the 4 numbers"),
            (lambda: D.LinearOp.dense(np.ones((2, 4)))(jnp.ones(3)), ValueError, "want shape"),
            (lambda: D.LinearOp.pool((4,), (2,))(jnp.ones(3)), ValueError, "x must have shape"),
            (lambda: D.LinearOp.pool((4,), (2,)).transpose(jnp.ones(3), jnp.ones(4)), ValueError, "y must have shape"),
        ],
    ),
    "LinearReward": Case(
        lambda: D.LinearReward([0.5, -1.0]), (X[0],), dtypes=None, mechanism="operator",
        refusals=[
            (lambda: D.LinearReward([np.nan]), ValueError, "LinearReward: weight"),
            *wrong(
                D.LinearReward.fit,
                *((bad, ValueError, r"LinearReward\.fit") for bad in [
                    (DATA, np.ones(5), 1.0), (DATA, np.ones(6), -1.0), (DATA * np.nan, np.ones(6), 1.0),
                    (np.ones((0, 2)), np.ones(0), 1.0),
                ]),
            ),
        ],
    ),
    "Normal": quantised(),
    "PerStep": Case(
        lambda: D.PerStep(PLAN, [4.0, 3.0, 2.0, 1.0]), (np.float32(PLAN.t[1]),), dtypes=None, mechanism="operator",
        refusals=wrong(D.PerStep, *(((PLAN, bad), ValueError, "PerStep") for bad in (2.0, [1.0, 2.0], [1.0, 2.0, 3.0, np.nan]))),
    ),
    "Prediction": record(lambda x: js.Prediction(x0=x, eps=x)),
    "Ranges": Case(
        lambda: RANGES[0], (), lambda ranges, key: jax.tree.leaves(ranges), other=lambda: RANGES[1], dtypes=None, mechanism="record",
    ),
    "SVD": Case(
        lambda: D.SVD([1.0, 0.5], jnp.ravel, jnp.ravel, jnp.ravel), (X[0],), lambda svd, key, x: svd.values * svd.vt(x),
        dtypes=None, mechanism="operator",
        refusals=[
            (lambda: D.SVD([-1.0], jnp.ravel, jnp.ravel, jnp.ravel), ValueError, "SVD: values"),
            (lambda: D.SVD([1.0], jnp.ravel, 3, jnp.ravel), TypeError, "SVD: vt"),
        ],
    ),
    "Twist": record(lambda x: D.Twist(*[x] * len(D.Twist._fields))),
    "add_gauge": Case(lambda: D.add_gauge(NET, TURN), (X, T), mechanism="shared"),
    "calibrate": quantised(),
    "conservative_part": Case(
        lambda: part_of, FIELD, dtypes="raised", tolerance=1e-3,
        refusals=wrong(
            D.conservative_part,
            ((3, potentials, X), "conservative_part: .*function"), ((jnp.sin, potentials, X[0]), "conservative_part: .*samples"),
            ((jnp.sin, jnp.sum, X), "conservative_part: .*potentials"),
            ((jnp.sin, potentials, X * np.nan), "conservative_part: .*x must"),
        ),
    ),
    "quantise": quantised(),
}  # fmt: skip


def batches_with_finite_slopes(case):
    """A batch is a vmap; gradients in x, t and every number of the denoiser are finite, by the same program."""
    leaves, structure = jax.tree.flatten(case.thing)
    real = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]

    def loss(numbers, x, t):
        changed = dict(zip(real, numbers, strict=True))
        out = jax.tree.unflatten(structure, [changed.get(i, leaf) for i, leaf in enumerate(leaves)])(x, t)
        return jnp.sum(out.x0**2) + jnp.sum(out.eps**2), (out.x0, out.eps)

    numbers, times = [jnp.asarray(leaves[i], jnp.float32) for i in real], np.array([0.2, 0.4, 0.7], np.float32)
    slope = jax.vmap(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), (None, 0, 0))
    slopes, batch = jax.jit(slope)(numbers, X, times)
    for i, t in enumerate(times):
        one = case.program(case.thing, jax.random.key(20), X[i], t)
        np.testing.assert_allclose(batch[0][i], one.x0, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(batch[1][i], one.eps, rtol=2e-5, atol=2e-6)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


# A batch of a denoiser is checked with its slopes; on a mesh one of each kind of code runs, all are traced.
ON_A_MESH = (
    *("Denoiser(v)", "GaussianMixture", "Empirical", "ClassifierFree(one)", "Threshold(dynamic)"),
    *("TMPD", "TMPD(iterations)", "PiGDM(mask)"),
)
OTHERS = {name: entry for name, entry in REGISTRY.items() if name not in DENOISERS}
LAWS = [
    *pairs(DENOISERS, without=(batches_run_inside_shard_map,)), *pairs(OTHERS),
    *(pytest.param(batches_with_finite_slopes, ALONE[label], id=f"{label}-batches_with_finite_slopes") for label in COMPILED),
    *(pytest.param(batches_run_inside_shard_map, ALONE[label], id=f"{label}-on_a_mesh") for label in ON_A_MESH),
]  # fmt: skip


@pytest.mark.parametrize(("law", "case"), LAWS)
def test_laws(law, case):
    law(case)


@pytest.mark.parametrize("name", CASES)
def test_predictions(name):
    """Float32 of the shape of x, with x = alpha x0 + sigma eps; other numbers give another result."""
    case = ALONE[name]
    assert isinstance(case.thing, D.DenoiserLike)
    assert case.thing.schedule.alpha(0.0) == 1
    out = case.eager
    assert isinstance(out, (js.Prediction, D.Guided))
    assert all((leaf.shape, leaf.dtype) == ((2,), jnp.float32) for leaf in (out.x0, out.eps))
    np.testing.assert_allclose(VP.alpha(0.4) * out.x0 + VP.sigma(0.4) * out.eps, X[0], rtol=1e-5, atol=1e-6)
    if case.other is not None:
        assert not np.array_equal(case.moved(X[0], 0.5).x0, out.x0)


@pytest.mark.parametrize("name", [n for n in COMPILED if "Threshold" not in n])
def test_slopes_in_time_and_state(name, x64):
    denoiser, x = CASES[name][0], X[0].astype(np.float64)
    way = np.array([0.6, -0.8])

    def along(h):
        out = denoiser(x + h * way, 0.4 + 0.1 * h)
        return jnp.stack([out.x0, out.eps])

    both = jax.jit(lambda h: jax.jvp(along, (h,), (1.0,)))
    slope = both(0.0)[1]
    assert slope.dtype == jnp.float64
    np.testing.assert_allclose(slope, central(lambda h: both(h)[0], 1e-3), rtol=1e-7, atol=1e-8)
