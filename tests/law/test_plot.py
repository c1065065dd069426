"""The laws of the house for jsamp.plot: pictures repeat themselves, and what cannot be drawn is refused."""

import jax
import numpy as np
import pytest
from cases import Case, pairs

import jsamp as js

pytest.importorskip("matplotlib", reason="the pictures need it")
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
VP = js.noise.VP()
GRID = js.noise.logsnr_grid(VP, 4)
PLAN = js.solve.dpmpp(VP, GRID)
SUBSET = js.select.draw(jax.random.key(0), np.ones(12, np.float32), 4, scheme="systematic")
ERRORS = {"DDIM": {5: 0.2, 10: 0.1}}


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


def drawn(axes):
    """What lies on axes: the numbers of images, lines and points."""
    images = [np.ma.filled(one.get_array(), -9) for one in axes.get_images()]
    lines = [np.asarray(line.get_xydata()) for line in axes.get_lines()]
    return images + lines + [np.asarray(one.get_offsets()) for one in axes.collections]


def traced(f):
    return lambda: jax.eval_shape(lambda x: f(x) and None, jax.ShapeDtypeStruct((4, 4, 4), np.float32))


def picture(f, *inputs, refusals):
    call = lambda f, key, *x: [part for one in np.ravel(np.asarray(f(*x), object)) for part in drawn(one)]
    return Case(lambda: f, inputs, call=call, dtypes=None, host=True, refusals=refusals)


p = js.plot
REGISTRY = {
    "images": picture(p.images, X.reshape(2, 3, 6), refusals=[
        (lambda: p.images(X), r"must be \[n, h, w\]"), (lambda: p.images(X.reshape(2, 3, 3, 2)), "1 or 3"),
        (lambda: p.images(X.reshape(2, 3, 6), low=1.0), "low must be below high"),
        (lambda: p.images(X.reshape(2, 3, 6), columns=0), "columns"),
        (lambda: p.images(X.reshape(2, 3, 6), labels=["a", "b"]), "list of 1 texts"),
        (lambda: p.images("digits"), "array of real numbers"), (traced(p.images), "is traced"),
        (lambda: p.images(X.reshape(2, 3, 6), axes=3), "axes must be one matplotlib axes"),
    ]),
    "chains": picture(p.chains, X.reshape(2, 6, 3), refusals=[
        (lambda: p.chains(X[0]), "draws must be"), (lambda: p.chains(np.zeros((2, 3, 9))), "Choose some"),
        (lambda: p.chains(X.reshape(2, 6, 3), ["a"]), "list of 3 texts"), (traced(p.chains), "is traced"),
        (lambda: p.chains(X.reshape(2, 6, 3), axes=np.zeros((2, 2))), r"an array \(3, 4\) of matplotlib axes"),
    ]),
    "plan": picture(p.plan, PLAN, refusals=[
        (lambda: p.plan(GRID), "must be a js.Plan"), (lambda: p.plan(js.solve.stack([PLAN, PLAN])), "a stack"),
        (lambda: jax.eval_shape(lambda plan: p.plan(plan) and None, PLAN), "is traced"),
    ]),
    "subset": picture(p.subset, X[:, :2], SUBSET, refusals=[
        (lambda: p.subset(X, SUBSET), r"must be \[n, 2\]"), (lambda: p.subset(X[:3, :2], SUBSET), "outside 0..2"),
        (lambda: p.subset(X[:, :2], [1, 2]), "must be a js.select.Subset"),
    ]),
    "work_precision": picture(p.work_precision, ERRORS, refusals=[
        (lambda: p.work_precision([0.1, 0.2]), "dict of dicts"), (lambda: p.work_precision({"a": {5: 0.0}}), "numbers > 0"),
        (lambda: p.work_precision({"a": {5: "x"}}), "real numbers"), (lambda: p.work_precision({}), "dict of dicts"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)
