"""Callables as trees: captured arrays are leaves and are seen when they change; constants and code are structure."""

import enum
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp._core._callable import Bound, as_tree
from jsamp._core._checks import check_callable

TABLE = jnp.array([1.0, 2.0])
X = jnp.array([3.0, 5.0])


def tree(function):
    return as_tree("test: function", function, "function(x)")


def global_reader(x):
    return x * TABLE


def helper(x):
    return global_reader(x) + 1


@pytest.mark.parametrize("body", [
    lambda x: float(x[0]), lambda x: np.square(np.asarray(x)), lambda x: x if x[0] > 0 else -x, lambda x: range(x[0])
])  # fmt: skip
def test_a_function_that_needs_numbers_is_refused_by_name_inside_a_program(body):
    with pytest.raises(TypeError, match=r"<lambda> reads the value of a number by float\(\), if, numpy or scipy"):
        jax.eval_shape(tree(body), jnp.array([3, 5]))


class Plain:
    def __init__(self, w):
        self.w, self.calls = w, 0

    def __call__(self, x):
        self.calls += 1
        return self.w * x

    def method(self, x):
        return self(x)


def closure(w):
    return lambda x: w * x


FORMS = {
    "closure": closure,
    "partial": lambda w: functools.partial(jnp.multiply, w),
    "partial of closure": lambda w: functools.partial(lambda a, x: a + closure(w)(x) - a, 1.0),
    "jax partial of closure": lambda w: jax.tree_util.Partial(closure(w)),
    "default": lambda w: lambda x, w=w: w * x,
    "keyword default": lambda w: lambda x, *, w=w: w * x,
    "object": Plain,
    "method": lambda w: Plain(w).method,
    "jitted closure": lambda w: jax.jit(closure(w)),
    "closure of closure": lambda w: (lambda inner: lambda x: inner(x))(closure(w)),
    "dictionary": lambda w: (lambda weights: lambda x: weights["w"] * x)({"w": w, "name": "layer"}),
    "comprehension": lambda w: lambda x: sum(w * x for _ in range(1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_captured_arrays_are_leaves(form):
    traces = []

    @jax.jit
    def run(f, x):
        traces.append(1)
        return f(x)

    for w in (2.0, 7.0):
        bound = tree(FORMS[form](jnp.float32(w)))
        assert [float(leaf) for leaf in jax.tree.leaves(bound)] == [w]
        np.testing.assert_allclose(run(bound, X), w * X)
        leaves, structure = jax.tree.flatten(bound)
        assert jax.tree.structure(jax.tree.unflatten(structure, leaves)) == structure
    # An object is known by its identity: its other attributes may differ.
    assert len(traces) == (2 if form in ("object", "method") else 1)


OTHER_LEAVES = {
    "flag": lambda leaf: True,
    "axis": lambda leaf: 0,
    "shape": lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)),
    "host array": lambda leaf: np.asarray(leaf),
    "name": lambda leaf: "weight",
}


@pytest.mark.parametrize("other", OTHER_LEAVES)
@pytest.mark.parametrize("form", [*FORMS, "equinox"])
def test_a_tree_of_flags_axes_or_shapes_keeps_its_places(form, other):
    """What `eval_shape`, an optimiser's mask and `in_axes` put in the places of arrays are leaves too."""
    if form == "equinox":
        eqx = pytest.importorskip("equinox")
        layers = [eqx.nn.Linear(1, 1, key=jax.random.key(0)), eqx.nn.Lambda(closure(jnp.float32(2)))]
        model = tree(eqx.nn.Sequential(layers))
    else:
        model = tree(FORMS[form](jnp.float32(2)))
    leaves, structure = jax.tree.flatten(model)
    filled = jax.tree.map(OTHER_LEAVES[other], model)
    assert jax.tree.leaves(filled) == list(map(OTHER_LEAVES[other], leaves))
    assert jax.tree.structure(filled) == structure
    assert jax.tree.structure(jax.tree.map(lambda _, leaf: leaf, filled, model)) == structure


def test_a_name_that_is_bound_anew_is_seen():
    global TABLE
    run = jax.jit(lambda f, x: f(x))
    for function in (global_reader, helper, lambda x: helper(x)):
        bound = tree(function)
        before = run(bound, X)
        TABLE = TABLE + 1
        np.testing.assert_allclose(run(bound, X) - before, X)


def test_a_closed_over_name_that_is_bound_anew_is_seen():
    w, scale = jnp.float32(2.0), 1.0
    bound = tree(lambda x: scale * w * x)
    run = jax.jit(lambda f, x: f(x))
    np.testing.assert_allclose(run(bound, X), 2 * X)
    w = jnp.float32(3.0)
    np.testing.assert_allclose(run(bound, X), 3 * X)
    scale = 2.0
    np.testing.assert_allclose(run(bound, X), 6 * X)


def test_weights_changed_in_place_are_seen():
    nnx = pytest.importorskip("flax.nnx")
    net = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    run = jax.jit(lambda f, x: f(x))
    for function in (lambda x: net(x), functools.partial(lambda n, x: n(x), net), net.__call__, net):
        bound = tree(function)
        before = run(bound, X)
        net.kernel[...] = net.kernel[...] * 2
        np.testing.assert_allclose(run(bound, X), 2 * before, rtol=1e-6)


def holder(**held):
    return types.SimpleNamespace(**held)


class Book:
    """An object that is no callable, read by its methods and by an operator."""

    def __init__(self, w):
        self.pages = [{3: w, "name": "w"}]

    def __getitem__(self, place):
        return self.pages[place][3]

    @property
    def first(self):
        return self[0]


# How a function can reach a number, and how that is changed in place.
REACHED = {
    "namespace": lambda h: lambda x: h.w * x,
    "namespace in a list": lambda h: (lambda hs: lambda x: hs[0].w * x)([h]),
    "method of a captured object": lambda h: lambda x: h.net.method(x),
    "object by its operator": lambda h: lambda x: h.book[0] * x,
    "object by its property": lambda h: lambda x: h.book.first * x,
    "mapped": lambda h: jax.vmap(lambda x: h.w * x),
    "mapped twice": lambda h: jax.vmap(lambda x: jax.vmap(jax.vmap(lambda y: h.w * y))(x[None, None])[0, 0]),
    "checkpointed": lambda h: jax.checkpoint(lambda x: h.w * x),
    "differentiated": lambda h: jax.vmap(jax.grad(lambda x: h.w * x**2 / 2)),
    "layers of one code": lambda h: (lambda layer: layer(lambda: 1.0, layer(lambda: h.w, lambda x: x)))(
        lambda w, inner: lambda x: w() * inner(x)
    ),
    "itself": lambda h: times(h),
    "unsorted dictionary": lambda h: lambda x: h.book.pages[0][3] * x,
    "jax partial": lambda h: jax.tree_util.Partial(lambda _, x: h.w * x, 1.0),
}


def times(h):
    def power(x, n=1):
        return x if n == 0 else (h.w * power(x, n - 1) if n == 1 else power(x, n - 1))

    return lambda x: power(x, 3)


def held(w):
    return holder(w=w, net=Plain(w), book=Book(w))


def change(h, w):
    h.w = h.net.w = w
    h.book.pages[0][3] = w


@pytest.mark.parametrize("kind", [jnp.float32, np.float32, float, int], ids=["array", "numpy", "float", "int"])
@pytest.mark.parametrize("form", REACHED)
def test_what_is_changed_out_of_sight_is_seen(form, kind):
    run, h = jax.jit(lambda f, x: f(x)), held(kind(2))
    bound = tree(REACHED[form](h))
    np.testing.assert_allclose(run(bound, X), 2 * X)
    change(h, kind(3))
    np.testing.assert_allclose(run(bound, X), 3 * X)
    assert run._cache_size() == (1 if kind is jnp.float32 else 2)  # pyright: ignore[reportAttributeAccessIssue]
    leaves, structure = jax.tree.flatten(bound)
    assert jax.tree.structure(jax.tree.unflatten(structure, leaves)) == structure
    assert jax.tree.structure(jax.tree.map(lambda leaf: True, bound)) == structure


class Shared:
    """A class that holds what its objects share."""

    w: Any = None
    parts: Any = None
    calls = 0

    class Inner:
        w: Any = None

    @staticmethod
    def static(x):
        return Shared.w * x

    @classmethod
    def of_class(cls, x):
        return cls.helper() * x

    @classmethod
    def helper(cls):
        return cls.w

    def by_name(self, x):
        return Shared.w * x

    def __call__(self, x):
        Shared.calls += 1
        return type(self).w * x


class Heir(Shared):
    def __call__(self, x):
        return super().w * x  # pyright: ignore[reportAttributeAccessIssue]


# How a function can reach a number of a class.
SHARED = {
    "static method": Shared.static, "static method of an object": Shared().static, "class method": Shared.of_class,
    "class method of an heir": Heir().of_class, "method": Shared().by_name, "type of an object": Shared(),
    "parent of an object": Heir(), "function": lambda x: Shared.w * x, "class in a class": lambda x: Shared.Inner.w * x,
    "local name": (lambda local: lambda x: local.w * x)(Shared), "function in a function": jax.vmap(lambda x: Shared.w * x),
    "list": lambda x: Shared.parts[0] * x,
}  # fmt: skip


@pytest.mark.parametrize("kind", [jnp.float32, float], ids=["array", "float"])
@pytest.mark.parametrize("form", SHARED)
def test_what_a_class_holds_is_a_constant_whose_change_is_seen(form, kind):
    """The class itself cannot be another one within a program: a change compiles it anew."""
    run, bound, three = jax.jit(lambda f, x: f(x)), tree(SHARED[form]), kind(3)
    for w in (kind(2), three, three):
        Shared.w, Shared.Inner.w, Shared.parts = w, w, [w]
        np.testing.assert_allclose(run(bound, X), w * X)
    assert run._cache_size() == 2  # pyright: ignore[reportAttributeAccessIssue]


def test_counters_and_lists_stay_what_they_are():
    seen, count = [], 0

    def counting(x):
        nonlocal count
        count += 1
        seen.append(1)
        return TABLE * x

    bound = tree(counting)
    run = jax.jit(lambda f, x: f(x))
    for _ in range(3):
        run(bound, X)
    assert count == len(seen) == 1


def test_small_numpy_arrays_are_constants_and_large_ones_leaves():
    small, large = np.array([0, 1]), np.ones(5000, np.float32)
    bound = tree(lambda x: x[small] * large.sum())
    assert [leaf.shape for leaf in jax.tree.leaves(bound)] == [(5000,)]
    run = jax.jit(lambda f, x: f(x))
    np.testing.assert_allclose(run(bound, X), 5000 * X)
    small[:] = [1, 0]
    np.testing.assert_allclose(run(bound, X), 5000 * X[::-1])


def test_a_function_without_arrays_has_no_leaves_and_a_gradient_passes():
    assert jax.tree.leaves(tree(jnp.tanh)) == []
    w = jnp.float32(2.0)
    slope = jax.grad(lambda f: jnp.sum(f(X)))(tree(lambda x: w * x))
    assert [float(leaf) for leaf in jax.tree.leaves(slope)] == [8.0]


def test_recursion_and_no_leak():
    w = jnp.float32(2.0)

    def power(x, n=2):
        return x if n == 0 else w * power(x, n - 1)

    with jax.checking_leaks():
        out = jax.jit(lambda f, x: jax.jit(lambda f, x: f(x))(f, x))(tree(power), X)
    np.testing.assert_allclose(out, 4 * X)


class Mode(enum.IntEnum):
    PLAIN = 1


def test_what_is_no_number_becomes_structure():
    eqx = pytest.importorskip("equinox")

    class Cast(eqx.Module):
        kind: Any = jnp.float32
        mode: Any = Mode.PLAIN

        def __call__(self, x, key=None):
            return x.astype(self.kind) * self.mode

    net = eqx.nn.Sequential(
        [
            eqx.nn.MLP(2, 2, 4, 1, activation=jax.nn.gelu, key=jax.random.key(0)),
            eqx.nn.Lambda(closure(jnp.float32(2))),
            eqx.nn.Dropout(0.5, inference=True),
            Cast(),
        ]
    )
    bound = tree(net)
    assert all(hasattr(leaf, "dtype") or isinstance(leaf, float) for leaf in jax.tree.leaves(bound))
    np.testing.assert_allclose(jax.jit(lambda f, x: f(x))(bound, X), net(X), rtol=1e-4)
    assert bound.layers[2].inference is True

    applied = tree(
        jax.tree_util.Partial(lambda model, x, mode: model(x) * (2 if mode == "twice" else 1), net, mode="twice")
    )
    assert all(hasattr(leaf, "dtype") or isinstance(leaf, float) for leaf in jax.tree.leaves(applied))
    np.testing.assert_allclose(jax.jit(lambda f, x: f(x))(applied, X), 2 * net(X), rtol=1e-4)
    counts = tree(jax.tree_util.Partial(lambda n, flag, x: x * n * flag, 3, True))
    assert jax.tree.leaves(counts) == [3, True]  # numbers of the user's own stay leaves


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"test: function must be callable as function\(x\), got int"):
        tree(3)
    assert isinstance(tree(jnp.sin), Bound)


@pytest.mark.parametrize(
    "function",
    [lambda x: x, jax.jit(lambda x: x), jax.vmap(lambda x: x), functools.partial(lambda x, t: x, t=1.0)],
    ids=["plain", "jitted", "mapped", "partial"],
)
def test_a_function_of_too_few_arguments_is_refused_at_the_door(function):
    with pytest.raises(TypeError, match=r"model must be callable as model\(x, t\), got a callable of 1 positional"):
        check_callable("model", function, "model(x, t)")


@pytest.mark.parametrize("function", [lambda *args: 0, lambda x, t, label=None: x, jnp.add, {}.get, max])
def test_a_function_of_enough_arguments_passes_the_door(function):
    check_callable("model", function, "model(x, t)")


def test_the_arguments_of_a_partial_keep_their_places():
    weights = {"w": jnp.float32(2)}
    other = closure(jnp.float32(3))
    for network in (lambda p, x: p["w"] * x, lambda p, x: p["w"] * X * x, lambda p, x: p["w"] * other(x)):
        model = tree(jax.tree_util.Partial(network, weights))
        for seen in (model, jax.tree.map(jnp.negative, model)):
            assert isinstance(seen, jax.tree_util.Partial)
            assert seen.args[0].keys() == weights.keys()
    assert float(seen.args[0]["w"]) == -2


def test_what_an_object_says_about_itself_is_heard():
    class Model(Plain):
        excludes = (2,)

        def __call__(self, x):
            return x * self.w

        def block(self, x):
            return x + self.w

    bound = tree(Model(TABLE))
    assert bound.excludes == (2,) and not hasattr(bound, "schedule")
    np.testing.assert_array_equal(jax.jit(lambda f: f.block(X))(bound), X + TABLE)
