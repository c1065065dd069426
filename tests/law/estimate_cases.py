"""The registry of jsamp.estimate beside its diagnostics: how to call each object, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case

import jsamp as js
from jsamp import estimate

KEY = jax.random.key(0)
NORMAL = jax.random.normal(jax.random.key(1), (64, 3))
OTHER = 0.5 + 0.8 * jax.random.normal(jax.random.key(2), (48, 3))
UNIFORM = jax.random.uniform(jax.random.key(3), (64, 3))
NAN = jnp.full(64, jnp.nan)
ONES = jnp.ones(64)


def function(call, *inputs, refuses=(), **options):
    """A function of arrays; `refuses` are pairs (arrays, words of the message)."""
    refusals = [(lambda a=arrays: call(*a), match) for arrays, match in refuses]
    options = {"dtypes": "raised", "tolerance": 2e-4, **options}
    return Case(lambda: call, inputs, refusals=refusals, **options)


def record(kind, num):
    return Case(lambda: lambda x: kind(*[x] * num), (NORMAL[0],), returns=kind)


def drawing(call, refuses=()):
    """A function of a key alone."""
    return Case(lambda: call, (), stochastic=True, dtypes=None, refusals=list(refuses))


def log_ratios(scale=0.7):
    x = scale * NORMAL.reshape(-1)
    return -(x**2) / 2 + x**2 / (2 * scale**2)


def normal_density(x):
    return -0.5 * jnp.sum(x**2) - 0.9189385 * x.size


METHOD = estimate.AdaptiveImportance(
    normal_density, lambda x: jnp.stack([x[0] ** 2, x[0] ** 4]), lambda key, num: jax.random.normal(key, (num, 1)),
    weight=jnp.array([1.0, 2.0]), batch=32,
)  # fmt: skip


def adapt(method, key):
    keys = jax.random.split(key, 3)
    state, info = method.step(keys[1], method.init(keys[0]))
    return method.finish(keys[2], state, 64), info


def adaptive(key):
    return estimate.adaptive_importance(key, METHOD.logdensity, METHOD.values, METHOD.draw, 200)


def adaptive_indices(key):
    draw = lambda key, num: jax.random.normal(key, (num, 2))
    return estimate.sobol_importance(key, normal_density, lambda x: 9 + 2 * x[0] + x[1], draw, 200)


def values_of(x):
    return jnp.sin(3 * x[..., 0]) + x[..., 1] ** 2 + x[..., 0] * x[..., 2]


DESIGN = jax.tree.map(values_of, estimate.saltelli(3, 16, key=KEY, second=True))

IMPORTANCE = {
    "Interval": record(estimate.Interval, 4),
    "Significance": record(estimate.Significance, 2),
    "Smoothed": record(estimate.Smoothed, 2),
    "snis": function(
        estimate.snis, log_ratios(), NORMAL.reshape(-1), smooth=True, returns=estimate.Estimate,
        refuses=[
            ((NAN, NAN), "NaN or inf"), ((jnp.full(4, -jnp.inf), jnp.ones(4)), "not all -inf"), ((ONES, jnp.ones(3)), "values must be"),
            (("abc", ONES), "array of real numbers"), ((np.zeros(0), np.zeros(0)), "at least 1"), ((jnp.full(4, jnp.inf), jnp.ones(4)), "< inf"),
            ((KEY, ONES), "real numbers"), ((ONES * 1j, ONES), "real numbers"), (([[1.0], [1.0, 2.0]], ONES), "array of numbers"),
        ],
    ),
    "psis": function(
        estimate.psis, log_ratios(),
        refuses=[((jnp.ones(24),), "at least 25"), ((NAN,), "NaN"), ((NORMAL,), r"must be \[n\]"), ((None,), "real numbers")],
    ),
    "bridge": function(
        estimate.bridge, log_ratios(), log_ratios(1.1), log_ratios(1.2), log_ratios(0.9), returns=estimate.Estimate,
        refuses=[
            ((ONES, jnp.ones(4), ONES, ONES), "must agree"), ((ONES, ONES, jnp.ones(4), ONES), "must agree"),
            ((ONES - jnp.inf, ONES, ONES, ONES), "finite positive density"), ((jnp.ones(1), ONES, ONES, ONES), "at least 2"),
        ],
    ),
    "Controlled": record(estimate.Controlled, 3),
    "control_variate": function(
        estimate.control_variate, NORMAL[:, 0] + UNIFORM[:, 0], NORMAL,
        refuses=[
            ((jnp.ones(4), jnp.ones((4, 3))), "at least 5"), ((jnp.ones(4), jnp.ones((5, 1))), "must agree"),
            ((jnp.ones(4), jnp.ones(4)), r"\[n, c\]"), ((ONES, NORMAL, jnp.ones(2)), "means must be"),
        ],
    ),
    "antithetic": drawing(lambda key: estimate.antithetic(key, 8, 2)),
    "stratified_pairs": drawing(lambda key: estimate.stratified_pairs(key, 3, 2)),
    "paired": [
        function(
            lambda v: estimate.paired(v, "antithetic"), NORMAL[:, :2],
            refuses=[((NORMAL,), "must be .n, 2"), ((jnp.ones((1, 2)),), "at least 2")],
        ),
        function(lambda v: estimate.paired(v, "stratified"), NORMAL[:, :2], refuses=[((NORMAL[:, 0],), "must be .n, 2")]),
    ],
    "multiple_importance": function(
        lambda a, b, c: estimate.multiple_importance(a, b, c, jnp.full(3, 1 / 3, a.dtype), jnp.ones(3, a.dtype)), NORMAL, UNIFORM, NORMAL * 0.5,
        refuses=[((NORMAL[:5], UNIFORM, NORMAL), "does not fit"), ((NORMAL, UNIFORM * np.nan, NORMAL), "finite")],
    ),
    "AdaptiveImportance": Case(
        lambda: METHOD, (), call=adapt, stochastic=True, dtypes=None, tolerance=2e-2, check_vma=False,
        refusals=[
            (lambda: estimate.AdaptiveImportance(3, METHOD.values, METHOD.draw), "logdensity must be callable"),
            (lambda: estimate.AdaptiveImportance(normal_density, METHOD.values, METHOD.draw, batch=2), "batch"),
            (lambda: estimate.AdaptiveImportance(normal_density, METHOD.values, METHOD.draw, stages=1), "stages"),
            (lambda: estimate.AdaptiveImportance(normal_density, METHOD.values, METHOD.draw, weight=0.0), "weight"),
            (lambda: estimate.AdaptiveImportance(normal_density, METHOD.values, METHOD.draw, signed="no"), "signed"),
            (lambda: METHOD.init(None), "key is None"),
        ],
    ),
    "AdaptiveState": Case(lambda: METHOD, (), call=lambda m, key: tuple(m.init(key))[:9], stochastic=True, dtypes=None, tolerance=2e-2, check_vma=False),
    "AdaptiveInfo": record(estimate.AdaptiveInfo, 3),
    "adaptive_importance": Case(lambda: adaptive, (), stochastic=True, dtypes=None, host=True),
    "sobol_importance": Case(lambda: adaptive_indices, (), stochastic=True, dtypes=None, host=True),
}  # fmt: skip

SENSITIVITY = {
    "sobol_points": drawing(
        lambda key: estimate.sobol_points(3, 5, key=key),
        [(lambda: estimate.sobol_points(0, 4), "dim"), (lambda: estimate.sobol_points(2, 2**30, start=1), "beyond"), (lambda: estimate.sobol_points(2, 4, key=3), "key")],
    ),
    "latin_hypercube": drawing(lambda key: estimate.latin_hypercube(key, 3, 5), [(lambda: estimate.latin_hypercube(None, 2, 4), "key is None")]),
    "halton": drawing(lambda key: estimate.halton(3, 5, key=key), [(lambda: estimate.halton(101, 4), "dim")]),
    "Design": record(estimate.Design, 4),
    "Sobol": record(estimate.Sobol, 3),
    "saltelli": drawing(
        lambda key: estimate.saltelli(2, 4, key=key).AB,
        [
            (lambda: estimate.saltelli(2, 1, key=KEY), "num"), (lambda: estimate.saltelli(2, 4, key=KEY, points="grid"), "must be one of"),
            (lambda: estimate.saltelli(2, 4, key=KEY, second="yes"), "second"),
        ],
    ),
    "sobol": [
        function(
            lambda *d: estimate.sobol(estimate.Design(*d), resamples=4), *DESIGN,
            refuses=[
                ((jnp.ones(4), jnp.ones(4), jnp.ones((2, 4)), jnp.ones((2, 4))), "no variance"), ((jnp.arange(4.0), jnp.ones(3), jnp.ones((2, 4)), jnp.ones((2, 4))), "want A"),
                ((NAN, NAN, jnp.ones((2, 64)), jnp.ones((2, 64))), "finite"), ((jnp.ones(1),) * 4, "at least 2"),
            ],
        ),
        function(lambda *d: estimate.sobol((*d, None), estimator="jansen", resamples=4), *DESIGN[:3]),
    ],
    "sobol_rank": function(
        estimate.sobol_rank, NORMAL, NORMAL[:, 0] + UNIFORM[:, 0],
        refuses=[((jnp.ones((5, 2)), jnp.ones(5)), "at least 10"), ((NORMAL, ONES), "no variance"), ((NORMAL, jnp.ones(63)), "must agree")],
    ),
}  # fmt: skip

RIGHT = (jnp.array([[0.2, 0.3, 0.5]]) < UNIFORM).astype(jnp.float32)
DIFFERENCES = 0.1 * NORMAL[:10, 0].reshape(5, 2)
TARGET = NORMAL[:20] @ jnp.array([1.0, -1.0, 0.5]) + UNIFORM[:20, 0]
FOLDS = estimate.kfold_masks(KEY, 4, 20)


def ridge(key, X, y, weight, strength=0.1):
    gram = (X * weight[:, None]).T @ X + strength * jnp.eye(X.shape[1], dtype=X.dtype)
    return X @ jnp.linalg.solve(gram, X.T @ (weight * y))


def validated(call, stochastic=False, **options):
    """A judge of learners, as a function of a key and the data; float32 weights meet the data's own precision."""
    options = {"call": lambda f, key, X, y: f(key, X, y), **options}
    return Case(lambda: call, (NORMAL[:20], TARGET), stochastic=stochastic, dtypes=None, tolerance=2e-4, **options)


def cv(**options):
    arguments = {"key": KEY, "fit_predict": ridge, "X": NORMAL[:20], "y": TARGET, "masks": FOLDS, **options}
    return lambda: estimate.cross_validate(**arguments)


EVALUATION = {
    "Bootstrapped": record(estimate.Bootstrapped, 3),
    "bootstrap_weights": drawing(lambda key: estimate.bootstrap_weights(key, 3, 7), [(lambda: estimate.bootstrap_weights(KEY, 0, 3), "num")]),
    "bootstrap": Case(
        lambda: lambda key, x: estimate.bootstrap(key, jnp.mean, x, 20)[:2], (NORMAL[:, 0],), stochastic=True, dtypes="raised", tolerance=2e-3,
        refusals=[
            (lambda: estimate.bootstrap(KEY, 3, ONES), "statistic must be callable"), (lambda: estimate.bootstrap(KEY, jnp.mean, NAN), "finite"),
            (lambda: estimate.bootstrap(KEY, jnp.mean, jnp.ones(1)), "at least 2"), (lambda: estimate.bootstrap(KEY, jnp.mean, ONES, method="t"), "must be one of"),
            (lambda: estimate.bootstrap(KEY, jnp.mean, ONES, level=1.0), "level"), (lambda: estimate.bootstrap(KEY, jnp.mean, (ONES, ONES[:3])), "one n"),
        ],
    ),
    "CrossValidated": record(estimate.CrossValidated, 5),
    "kfold_masks": drawing(
        lambda key: estimate.kfold_masks(key, 3, 20, repeats=2),
        [(lambda: estimate.kfold_masks(KEY, 21, 20), "k must be"), (lambda: estimate.kfold_masks(KEY, 2, 20, strata=ONES), "strata")],
    ),
    "cross_validate": validated(
        lambda key, X, y: estimate.cross_validate(key, ridge, X, y, FOLDS)[:4], mechanism="learner",
        refusals=[
            (cv(masks=FOLDS.astype(float)), "masks must be bool"), (cv(masks=jnp.zeros((2, 20), bool)), "test rows and training rows"), (cv(y=TARGET[:3]), "y must have"),
            (cv(fit_predict=None), "must be callable"), (cv(X=NORMAL[:20] * np.nan), "finite"), (cv(key=None), "key is None"),
        ],
    ),
    "leave_one_out": validated(lambda key, X, y: estimate.leave_one_out(key, ridge, X, y)[:4], mechanism="learner"),
    "nested": validated(
        lambda key, X, y: estimate.nested(key, ridge, X, y, FOLDS, jnp.array([0.1, 10.0]), k=3)[:4], mechanism="learner",
        refusals=[(lambda: estimate.nested(KEY, ridge, NORMAL[:20], TARGET, FOLDS, jnp.ones(())), "grid must be")],
    ),
    "from_sklearn": Case(
        lambda: lambda x: 1.0 * callable(estimate.from_sklearn(_Fits())), (NORMAL,), host=True, dtypes=None,
        refusals=[(lambda: estimate.from_sklearn(3), "fit and predict")],
    ),
    "PredictionError": record(estimate.PredictionError, 6),
    "err632": validated(
        lambda key, X, y: estimate.err632(key, ridge, X, y, 20)[:3], stochastic=True, mechanism="bag",
        refusals=[(lambda: estimate.err632(KEY, ridge, NORMAL[:9], TARGET[:9]), "at least 10"), (lambda: estimate.err632(KEY, ridge, NORMAL[:20], TARGET, 5), "num")],
    ),
    "err632plus": validated(lambda key, X, y: estimate.err632plus(key, ridge, X, y, 20), stochastic=True, mechanism="bag"),
    "paired_t": function(
        lambda a, b: estimate.paired_t(a, b, test_ratio=0.5), NORMAL[:, 0], UNIFORM[:, 0], mechanism="test", check_vma=False,
        refuses=[((ONES, ONES[:3]), "must agree"), ((ONES[:1], ONES[:1]), "at least 2")],
    ),
    "t_5x2cv": function(estimate.t_5x2cv, DIFFERENCES, mechanism="test", check_vma=False, refuses=[((ONES,), r"\[r, f\]"), ((NORMAL,), r"\[5, 2\]")]),
    "f_5x2cv": function(estimate.f_5x2cv, DIFFERENCES, mechanism="test", check_vma=False, refuses=[((NORMAL,), r"\[5, 2\]")]),
    "mcnemar": Case(
        lambda: lambda s: jax.tree.map(lambda v: v * s, estimate.mcnemar(RIGHT[:, 0], RIGHT[:, 1])), (jnp.ones(()),), dtypes=None, mechanism="test", check_vma=False,
        refusals=[(lambda: estimate.mcnemar(ONES, ONES * 0.5), "booleans"), (lambda: estimate.mcnemar(ONES, ONES, method="x"), "must be one of")],
    ),
    "cochran_q": Case(
        lambda: lambda s: jax.tree.map(lambda v: v * s, estimate.cochran_q(RIGHT)), (jnp.ones(()),), dtypes=None, mechanism="test", check_vma=False,
        refusals=[(lambda: estimate.cochran_q(RIGHT[:, :1]), "two or more"), (lambda: estimate.cochran_q(NORMAL), "booleans")],
    ),
    "f_test": Case(
        lambda: lambda s: jax.tree.map(lambda v: v * s, estimate.f_test(RIGHT)), (jnp.ones(()),), dtypes=None, mechanism="test", check_vma=False,
        refusals=[(lambda: estimate.f_test(NORMAL), "booleans")],
    ),
    "permutation_test": [
        Case(
            lambda: lambda key, a, b: estimate.permutation_test(key, a, b, num=50), (NORMAL[:, 0], UNIFORM[:, 0]), dtypes="raised",
            refusals=[(lambda: estimate.permutation_test(None, ONES, ONES, exact=True), "n <= 20"), (lambda: estimate.permutation_test(None, ONES, ONES), "key is None")],
            call=lambda f, key, a, b: f(key, a, b), tolerance=0.2,
        ),
    ],
    "bonferroni": function(lambda p: estimate.bonferroni(p), UNIFORM[:, 0], refuses=[((2 * ONES,), "pvalues")]),
    "holm": function(lambda p: estimate.holm(p), UNIFORM[:, 0], refuses=[((-ONES,), "pvalues")]),
}  # fmt: skip


class _Fits:
    def fit(self, X, y):
        self.mean = y.mean()

    def predict(self, X):
        return 0 * X[:, 0] + self.mean


def distance(call, **options):
    refuses = [
        ((NORMAL, OTHER[:, :2]), "same features"),
        ((NAN[:, None], OTHER[:, :1]), "finite"),
        ((NORMAL[:1], OTHER), "at least"),
    ]
    return function(call, NORMAL, OTHER, refuses=refuses, **options)


DISTANCES = {
    "mmd": [
        distance(estimate.mmd, smooth=True, mechanism="pairs"),
        distance(lambda x, y: estimate.mmd(x, y, kernel=lambda a, b: jnp.sum(a * b) ** 2), mechanism="pairs"),
        distance(lambda x, y: estimate.mmd(x, y, bandwidth=2.0), mechanism="pairs"),
    ],
    "kid": distance(estimate.kid, mechanism="pairs"),
    "energy": distance(estimate.energy, mechanism="pairs"),
    "frechet": distance(estimate.frechet, tolerance=2e-3),
    "sliced_wasserstein": distance(lambda x, y: estimate.sliced_wasserstein(x, y, num=8), tolerance=2e-3),
    "PrecisionRecall": record(estimate.PrecisionRecall, 2),
    "DensityCoverage": record(estimate.DensityCoverage, 2),
    "precision_recall": distance(estimate.precision_recall, mechanism="support", dtypes=None),
    "density_coverage": distance(estimate.density_coverage, mechanism="support", dtypes=None),
    "nearest_ratio": function(estimate.nearest_ratio, NORMAL, OTHER, NORMAL[:30] * 1.1, mechanism="support", refuses=[((NORMAL, OTHER[:, :2], OTHER), "same features")]),
}  # fmt: skip


def epsilon(**counts):
    return lambda: estimate.dp_epsilon({"tp": 80, "tn": 70, "fp": 30, "fn": 20, **counts}, 1e-5)


REUSE = estimate.Thresholdout(threshold=0.1, sigma=0.02, budget=2)
QUERIES = estimate.SQ(scale=0.1, budget=1, noise="laplace")
WEIGHTS = estimate.PrivateMultiplicativeWeights(jnp.array([0.5, 0.2, 0.2, 0.1]), threshold=0.1, sigma=0.01)

PRIVACY = {
    "Counts": record(estimate.Counts, 4),
    "dp_epsilon": [
        Case(
            lambda: lambda d: estimate.dp_epsilon({"tp": 80, "tn": 70, "fp": 30, "fn": 20}, d)[:3], (jnp.float32(1e-5),), check_vma=False, dtypes=None, tolerance=1e-3,
            refusals=[
                (epsilon(tp=-1), "tp must be"), (epsilon(tp=1.5), "whole"), (epsilon(tp=0, fn=0), "no members"), (epsilon(tn=0, fp=0), "no others"), (epsilon(x=3), "keys"),
                (lambda: estimate.dp_epsilon([1, 2, 3, 4], 0.0), "must be a dict"), (lambda: estimate.dp_epsilon(estimate.Counts(1, 1, 1, 1), 1.0), "delta"),
                (lambda: estimate.dp_epsilon(estimate.Counts(1, 1, 1, 1), 0.0, 1.0), "level"), (lambda: estimate.dp_epsilon(estimate.Counts(1, 1, 1, 1), 0.0, method="x"), "must be one of"),
                (lambda: estimate.dp_epsilon(estimate.Counts(1, 1, 1, 1), 0.0, method="jeffreys", calibrate=True), "goes with"),
            ],
        ),
    ],
    "dp_epsilon_draws": drawing(lambda key: estimate.dp_epsilon_draws(key, estimate.Counts(8, 7, 3, 2), 1e-5, 5)),
    "Answer": record(estimate.Answer, 3),
    "ThresholdoutState": record(estimate.ThresholdoutState, 2),
    "SQState": record(estimate.SQState, 1),
    "WeightsState": record(estimate.WeightsState, 3),
    "Thresholdout": Case(
        lambda: REUSE, (UNIFORM[:, 0], 0.5 * UNIFORM[:, 1]), call=lambda m, key, a, b: m.answer(key, m.init(key), a, b)[1], stochastic=True, dtypes=None,
        refusals=[
            (lambda: estimate.Thresholdout(0.1, -1.0, 2), "sigma"), (lambda: estimate.Thresholdout(0.1, 0.1, 0), "budget"), (lambda: estimate.Thresholdout(0.1, 0.1, 1, noise="x"), "must be one of"),
            (lambda: REUSE.answer(KEY, REUSE.init(KEY), 2 * ONES, ONES), r"train must be"), (lambda: REUSE.answer(None, REUSE.init(KEY), ONES, ONES), "key is None"),
        ],
    ),
    "SQ": Case(
        lambda: QUERIES, (UNIFORM[:, 0],), call=lambda m, key, a: m.answer(key, m.init(), a)[1], stochastic=True, dtypes=None,
        refusals=[(lambda: estimate.SQ(-0.1, 3), "scale"), (lambda: QUERIES.answer(KEY, QUERIES.init(), -ONES), "values")],
    ),
    "PrivateMultiplicativeWeights": Case(
        lambda: WEIGHTS, (jnp.array([1.0, 0.0, 0.5, 0.0]),), call=lambda m, key, q: m.answer(key, m.init(key), q), stochastic=True, dtypes=None,
        refusals=[
            (lambda: estimate.PrivateMultiplicativeWeights(jnp.zeros(3), 0.1, 0.1), "no mass"), (lambda: estimate.PrivateMultiplicativeWeights(jnp.ones(3), 0.0, 0.1), "threshold"),
            (lambda: WEIGHTS.answer(KEY, WEIGHTS.init(KEY), jnp.ones(3)), "query must be"),
        ],
    ),
}  # fmt: skip


def plane(t):
    return 1 / jnp.cosh(t / 2)


PERSISTENCE = {
    "slepian_survival": Case(
        lambda: lambda t: estimate.slepian_survival(plane, t), (jnp.array([0.1, 2.0]),), dtypes=None, check_vma=False,
        refusals=[
            (lambda: estimate.slepian_survival(3, 1.0), "must be callable"), (lambda: estimate.slepian_survival(plane, -1.0), "t must be"), (lambda: estimate.slepian_survival(lambda t: 2 * plane(t), 1.0), r"r\(0\) must be 1"),
            (lambda: estimate.slepian_survival(lambda t: jnp.exp(-t), 1.0), "rougher"), (lambda: estimate.slepian_survival(lambda t: jnp.exp(-(t**2) / 2) * jnp.cos(3 * t), 1.0), "monotone"),
            (lambda: estimate.slepian_exponent(lambda t: 1 / (1 + t**2)), "too slowly"),  # a power law
        ],
    ),
    "slepian_exponent": Case(lambda: lambda s: s * estimate.slepian_exponent(plane), (jnp.ones(()),), dtypes=None, mechanism="slepian", check_vma=False),
    "slepian_sample": Case(lambda: lambda key: estimate.slepian_sample(key, plane, 5), (), stochastic=True, dtypes=None, mechanism="slepian", check_vma=False),
    "gaussian_process": Case(
        lambda: lambda key: estimate.gaussian_process(key, plane, 200, 0.5), (), stochastic=True, dtypes=None, mechanism="slepian",
        refusals=[(lambda: estimate.gaussian_process(KEY, plane, 3, 0.1), "eigenvalue"), (lambda: estimate.gaussian_process(KEY, plane, 100, 0.0), "step")],
    ),
    "Excursions": record(estimate.Excursions, 2),
    "excursions": function(lambda p: estimate.excursions(p, 0.5), NORMAL[:, 0], refuses=[((ONES[:1],), "at least 2"), ((NAN,), "finite")]),
}  # fmt: skip

GAUSSIAN = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0, 0.0]], stds=[[1.0, 0.5, 0.01]])
TURN = jnp.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.3], [0.0, 0.0, 2.0]])


def at_point(call, **options):
    return Case(lambda: call, (NORMAL[0],), dtypes=None, tolerance=1e-3, **options)


GEOMETRY = {
    "asymmetry": at_point(
        lambda x: (estimate.asymmetry(None, lambda x: jnp.sin(TURN @ x), x), estimate.asymmetry(KEY, lambda x: jnp.sin(TURN @ x), x, probes=4)[:2]),
        refusals=[(lambda: estimate.asymmetry(None, lambda x: x[:1], ONES), "shape of x"), (lambda: estimate.asymmetry(KEY, jnp.sin, ONES, probes=1), "probes"), (lambda: estimate.asymmetry(None, 3, ONES), "callable")],
    ),
    "gauge_residual": at_point(
        lambda x: estimate.gauge_residual(KEY, jnp.sin, jnp.cos, x, probes=4), refusals=[(lambda: estimate.gauge_residual(None, jnp.sin, lambda x: x[0], ONES), "shape of x")],
    ),
    "flipd": at_point(
        lambda x: estimate.flipd(KEY, GAUSSIAN, x, 0.1, probes=4),
        refusals=[(lambda: estimate.flipd(None, lambda x, t: x, ONES, 0.1), "schedule"), (lambda: estimate.flipd(None, GAUSSIAN, ONES[:3], 0.0), "must be positive")],
    ),
    "normal_dimension": Case(
        lambda: lambda key, x: estimate.normal_dimension(key, GAUSSIAN, x, 0.1), (0 * NORMAL[0],), call=lambda f, key, x: f(key, x), dtypes=None,
        refusals=[(lambda: estimate.normal_dimension(KEY, GAUSSIAN, ONES[:3], 0.1, num=2), "num"), (lambda: estimate.normal_dimension(KEY, GAUSSIAN, ONES[:1], 0.1), "single number")],
    ),
    "flow_singular_values": at_point(
        lambda x: estimate.flow_singular_values(lambda x: jnp.sin(TURN @ x), x), refusals=[(lambda: estimate.flow_singular_values(jnp.sum, ONES), "shape of x")],
    ),
}  # fmt: skip

REGISTRY = {**IMPORTANCE, **SENSITIVITY, **EVALUATION, **DISTANCES, **PRIVACY, **PERSISTENCE, **GEOMETRY}
