"""Cases of the laws for the surrogates of jsamp.fit and what optimises with them."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case

import jsamp as js

KEY = jax.random.key(0)
ROWS = np.asarray(jax.random.uniform(jax.random.key(2), (8, 2)))
VALUES = ROWS.sum(1)
TINY = js.fit.Network(1, 4)
GIVEN = js.fit.GP(js.fit.Matern(0.5), noise=0.1, fitted=False, capacity=8).fit(None, ROWS, VALUES)
WEIGHTS = jax.vmap(lambda key: TINY.init(key, 2))(jax.random.split(KEY, 3))
DRAWN = js.fit.NetworkPosterior(TINY, WEIGHTS, jnp.float32(0.5), jnp.float32(2.0))
QUICK = {"budget": 6, "initial": 4, "raw": 8, "restarts": 1, "steps": 2}


def posterior(thing, key, X):
    return thing.fit(key, X, X.sum(1)).mean_var(X)


def learner(build, stochastic=True, refusals=()):
    surrogate = lambda: build(capacity=8)
    doors = [
        (lambda: surrogate().fit(KEY, ROWS + 1, VALUES), "unit cube"),
        (lambda: surrogate().fit(KEY, ROWS, VALUES * np.nan), "y must be finite"),
        (lambda: surrogate().fit(KEY, ROWS, VALUES[:5]), "y must have 8 rows"),
        (lambda: surrogate().fit(KEY, np.tile(ROWS, (2, 1)), np.tile(VALUES, 2)), "exceed the capacity of 8"),
        (lambda: surrogate().fit(KEY, ROWS[:, 0], VALUES), "an array with 2 axes"),
        (lambda: surrogate().fit(KEY, ROWS, VALUES).mean_var(ROWS[:, :1]), "Xq must have 2 columns"),
        *refusals,
    ]
    return Case(surrogate, (ROWS,), posterior, stochastic=stochastic, host=True, dtypes=None, refusals=doors)


def kernel(thing, key, X):
    return thing(X, X), thing.diag(X)


def optimum(thing, key, X):
    return js.fit.optimise(key, lambda x: float(x.sum()), (np.zeros(2), np.ones(2)), js.fit.GP(steps=1), **QUICK).x


def unwanted(match, bounds=(np.zeros(2), np.ones(2)), surrogate=None, objective=lambda x: 0.0, key=KEY, **options):
    return lambda: js.fit.optimise(key, objective, bounds, surrogate, **{**QUICK, **options}), match


def _record(kind, *values):
    return Case(lambda: lambda x: kind(x, *values), (jnp.asarray(ROWS),), returns=kind)


UNITS = js.fit.random_features(KEY, 5, 2, limit=2.0)
SURROGATES = {
    "RandomFeatures": Case(
        lambda: UNITS,
        (jnp.asarray(ROWS),),
        smooth=True,
        dtypes=None,
        refusals=[
            (lambda: UNITS(ROWS[:, 0]), "RandomFeatures: X must be"),
            (lambda: js.fit.RandomFeatures(ROWS, ROWS[0], "sin"), "kind must be one of"),
        ],
    ),
    "random_features": Case(
        lambda: lambda key, X: js.fit.random_features(key, 4, 2, limit=3.0, kind="gauss")(X),
        (jnp.asarray(ROWS),),
        stochastic=True,
        dtypes=None,
        refusals=[
            (lambda: js.fit.random_features(KEY, 0), "num must be"),
            (lambda: js.fit.random_features(KEY, 3, limit=0.0), "limit"),
            (lambda: js.fit.random_features(KEY, 3, dtype=int), "dtype must be a floating"),
            (lambda: js.fit.random_features(KEY, 3, kind="sin"), "kind must be one of"),
        ],
    ),
    "readout": Case(
        lambda: lambda X: js.fit.readout(X, X[:, 0], ridge=0.1),
        (jnp.asarray(ROWS),),
        dtypes=None,
        smooth=True,
        tolerance=2e-4,
        refusals=[
            (lambda: js.fit.readout(ROWS, VALUES[:3]), "readout: y must have 8 rows"),
            (lambda: js.fit.readout(ROWS, VALUES, ridge=-1.0), "readout: ridge"),
            (lambda: js.fit.readout(ROWS, VALUES, rcond=2.0), "readout: rcond"),
        ],
    ),
    "bandlimit_multiplier": Case(
        lambda: lambda x: js.fit.bandlimit_multiplier(x, 2.0),
        (jnp.asarray(ROWS),),
        smooth=True,
        dtypes=None,
        refusals=[(lambda: js.fit.bandlimit_multiplier(1.0, 0.0), "limit must be")],
    ),
    "ridgelet": Case(
        lambda: lambda a, b: js.fit.ridgelet(jnp.cos, a, b, nodes=31),
        (jnp.asarray(ROWS[0]), jnp.asarray(ROWS[1])),
        dtypes=None,
        smooth=True,
        refusals=[
            (lambda: js.fit.ridgelet(3, ROWS[0], ROWS[1]), "f must be callable"),
            (lambda: js.fit.ridgelet(jnp.sum, ROWS[0], ROWS[1]), "f must return"),
            (lambda: js.fit.ridgelet(jnp.cos, ROWS[0], ROWS[:, 0]), "b must have 2"),
        ],
    ),
    "Surrogate": Case(lambda: lambda x: x, (jnp.asarray(ROWS),)),
    "Matern": Case(
        lambda: js.fit.Matern(np.array([0.5, 0.7], np.float32), 2.0),
        (jnp.asarray(ROWS),),
        kernel,
        smooth=True,
        refusals=[(lambda: js.fit.Matern(-1.0), "Matern: lengths must be")],
    ),
    "NNGPKernel": (
        Case(
            lambda: js.fit.NNGPKernel(2, "relu"),
            (jnp.asarray(ROWS),),
            kernel,
            smooth=True,
            dtypes=None,
            refusals=[
                (lambda: js.fit.NNGPKernel(2, "tanh"), "kind must be one of"),
                (lambda: js.fit.NNGPKernel(-1), "depth must be"),
                (lambda: js.fit.NNGPKernel(weight_var=0.0), "weight_var"),
            ],
        ),
        Case(lambda: js.fit.NNGPKernel(2, "erf"), (jnp.asarray(ROWS),), kernel, smooth=True, dtypes=None),
    ),
    "Network": Case(
        lambda: TINY,
        (jnp.asarray(ROWS),),
        lambda net, key, X: net(net.init(key, 2), X),
        stochastic=True,
        dtypes=None,
        smooth=True,
        refusals=[
            (lambda: js.fit.Network(width=0), "width must be"),
            (lambda: js.fit.Network(kind="gelu"), "kind must be one of"),
        ],
    ),
    "GPPosterior": (
        Case(lambda: GIVEN, (jnp.asarray(ROWS),), lambda p, key, X: p.mean_var(X), dtypes=None, tolerance=2e-4),
        Case(
            lambda: GIVEN,
            (jnp.asarray(ROWS[:3]),),
            lambda p, key, X: p.sample(key, X, 2),
            dtypes=None,
            stochastic=True,
            tolerance=2e-3,
        ),
    ),
    "NetworkPosterior": (
        Case(lambda: DRAWN, (jnp.asarray(ROWS),), lambda p, key, X: p.mean_var(X), dtypes=None, smooth=True),
        Case(lambda: DRAWN, (jnp.asarray(ROWS),), lambda p, key, X: p.sample(key, X, 2), dtypes=None, stochastic=True),
    ),
    "GP": learner(
        lambda **o: js.fit.GP(steps=2, **o),
        stochastic=False,
        refusals=[
            (lambda: js.fit.GP(lambda X, X2: X), "must have diag"),
            (lambda: js.fit.GP(noise=-1.0), "noise must be"),
            (lambda: js.fit.GP(noise=0.0, capacity=8).fit(None, ROWS[[0, 0]], VALUES[:2]), "equal rows"),
            (lambda: js.fit.GP(capacity=8).fit(None, ROWS, 1e-30 * VALUES), "y spreads by .* Divide y by .*e-30"),
            (lambda: js.fit.GP(noise=1e30, capacity=8).fit(None, ROWS, VALUES), "noise must be between 0 and"),
            (lambda: js.fit.Matern([1.0] * 5)(ROWS, ROWS), r"Matern: lengths must be a number or \[\d\], got \(5,\)"),
        ],
    ),
    "nngp": learner(js.fit.nngp, stochastic=False),
    "DeepKernel": learner(
        lambda **o: js.fit.DeepKernel(TINY, pretrain=2, steps=2, **o),
        refusals=[
            (lambda: js.fit.DeepKernel(js.fit.Network(0)), "hidden layer"),
            (lambda: js.fit.DeepKernel(3), "network must be"),
        ],
    ),
    "Ensemble": learner(
        lambda **o: js.fit.Ensemble(TINY, members=2, steps=2, **o),
        refusals=[
            (lambda: js.fit.Ensemble(share=0.0), "share must be"),
            (lambda: js.fit.Ensemble(noise=0.0, capacity=8).fit(KEY, ROWS, VALUES), "noise must be between 1e-06 and"),
        ],
    ),
    "HMCNetwork": learner(
        lambda **o: js.fit.HMCNetwork(TINY, num=2, warm=2, pretrain=2, max_steps=2, **o),
        refusals=[(lambda: js.fit.HMCNetwork(length=0.0), "length must be")],
    ),
    "SGHMCNetwork": learner(
        lambda **o: js.fit.SGHMCNetwork(TINY, num=2, thin=1, burn=1, pretrain=2, **o),
        refusals=[(lambda: js.fit.SGHMCNetwork(friction=2.0), "friction must be")],
    ),
    "LaplaceNetwork": learner(
        lambda **o: js.fit.LaplaceNetwork(TINY, steps=2, **o),
        refusals=[(lambda: js.fit.LaplaceNetwork(rate=0.0), "rate must be")],
    ),
    "ei": Case(
        lambda: js.fit.ei,
        (jnp.array([0.1, 0.5]), jnp.array([0.2, 0.3]), jnp.float32(0.3)),
        smooth=True,
        dtypes=None,
        refusals=[
            (lambda: js.fit.ei(0.0, -1.0, 0.0), "ei: std must be"),
            (lambda: js.fit.ei(np.nan, 1.0, 0.0), "ei: mean"),
        ],
    ),
    "log_ei": Case(
        lambda: js.fit.log_ei,
        (jnp.array([0.1, 9.0]), jnp.array([0.2, 0.3]), jnp.float32(0.3)),
        smooth=True,
        dtypes=None,
        refusals=[(lambda: js.fit.log_ei(np.zeros(2), np.ones(3), 0.0), "must broadcast")],
    ),
    "qei": Case(
        lambda: lambda samples: js.fit.qei(samples, 0.3),
        (jnp.asarray(ROWS),),
        dtypes=None,
        smooth=True,
        refusals=[(lambda: js.fit.qei(np.zeros((2, 2, 2)), 0.0), "samples must be")],
    ),
    "maximise_acquisition": Case(
        lambda: ROWS,
        (ROWS,),
        lambda thing, key, X: js.fit.maximise_acquisition(None, jnp.sum, X, steps=2).x,
        host=True,
        dtypes=None,
        refusals=[
            (lambda: js.fit.maximise_acquisition(None, jnp.sum, ROWS * 3), "points must be"),
            (lambda: js.fit.maximise_acquisition(None, lambda x: x, ROWS), "return a scalar"),
        ],
    ),
    "optimise": Case(
        lambda: ROWS,
        (ROWS,),
        optimum,
        stochastic=True,
        host=True,
        dtypes=None,
        refusals=[
            unwanted("must be below upper ones", bounds=(np.ones(2), np.zeros(2))),
            unwanted("bounds must be", bounds="cube"),
            unwanted("upper bounds must be finite", bounds=(0.0, np.inf)),
            unwanted("surrogate must have fit", surrogate=js.fit.GP),
            unwanted("must return one number", objective=lambda x: x),
            unwanted("none of 6 evaluations was finite", objective=lambda x: np.nan),
            unwanted("objective must return one number, got 'text'", objective=lambda x: "text"),
            unwanted("key must be", key=3),
            unwanted("budget of 6 exceeds", surrogate=js.fit.GP(capacity=4)),
            unwanted("acquisition must be", acquisition="ucb"),
            unwanted("Take 'qei'", batch=2, acquisition="ei"),
            unwanted("state must be", state=3),
            unwanted("holds 9 evaluations", state=js.fit.OptimiseState(np.zeros((9, 2)), np.zeros(9))),
        ],
    ),
    "OptimiseState": _record(js.fit.OptimiseState, None),
    "OptimiseInfo": _record(js.fit.OptimiseInfo, None, None, None),
}
