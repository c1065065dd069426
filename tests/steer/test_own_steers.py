"""Steers that users write: plain classes, dataclasses, trees; and what is said of those that cannot run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import denoiser

import jsamp as js

T = js.steer
VP = js.noise.VP()
PLAN = js.solve.ddim(VP, js.noise.time_grid(VP, 3))
MODEL = denoiser(VP, "x0")
X = np.array([0.9, -0.4], np.float32)


class Plain(T.Hooks):
    def __init__(self, factor, name="plain"):
        self.factor, self.name, self.rule = factor, name, jnp.multiply

    def post(self, key, g, x, info):
        return g, self.rule(x, self.factor), True


@dataclasses.dataclass
class Data(T.Hooks):
    factor: float
    name: str = "data"

    def post(self, key, g, x, info):
        return g, x * self.factor, True


@dataclasses.dataclass(frozen=True)
class Frozen(T.Hooks):
    factor: float
    name: str = "frozen"

    def post(self, key, g, x, info):
        return g, x * self.factor, True


@js.pytree
class Tree(T.Hooks):
    factor: float
    name: str = js.static(default="tree")

    def post(self, key, g, x, info):
        return g, x * self.factor, True


class Derived(Tree):
    """Adds no field."""


def by_hand(factor):
    x = X
    for r in range(PLAN.nfe):
        x = factor * np.asarray(js.sample(None, MODEL, x, PLAN[r : r + 1]).x)
    return x


@pytest.mark.parametrize("kind", [Plain, Data, Frozen, Tree, Derived])
def test_every_way_to_write_a_class_runs(kind):
    """As an argument of `sample` and of `jit`; numbers are leaves and never retrace; strings are structure."""
    count = []

    @jax.jit
    def run(steer, x):
        count.append(1)
        return js.sample(None, MODEL, x, PLAN, steer=steer).x

    for factor in (0.5, 0.25):
        np.testing.assert_allclose(run(kind(factor), X), by_hand(factor), rtol=1e-5)
        np.testing.assert_allclose(js.sample(None, MODEL, X, PLAN, steer=kind(factor)).x, by_hand(factor), rtol=1e-5)
    assert len(count) == 1
    both = T.chain(kind(0.5), T.TrajectoryVariance(2))
    np.testing.assert_allclose(js.sample(None, MODEL, X, PLAN, steer=both).x, by_hand(0.5), rtol=1e-5)


def test_what_is_no_steer_is_named():
    @dataclasses.dataclass(frozen=True)
    class Alone:
        init = time = mid = post = final = lambda self, *arguments: None

    class Partly:
        def mid(self, key, g, x, prediction, info):
            return g, x, prediction, None

    for wrong, match in [
        (3, r"int lacks the hooks init, time, mid, post, final.*js\.steer\.Hooks"),
        (T.Brownian(jax.random.key(0)), r"Brownian is a function, but no steer.* goes into js\.steer\.OwnNoise"),
        (T.Hooks, "got the class Hooks. Pass an instance"),
        (Partly(), "Partly lacks the hooks init, time, post, final"),
        (Alone(), r"Alone is not a JAX tree.*@js\.pytree"),
    ]:
        with pytest.raises(TypeError, match=f"sample: steer.*{match}"):
            js.sample(None, MODEL, X, PLAN, steer=wrong)
        with pytest.raises(TypeError, match=match):
            T.chain(T.Hooks(), wrong)


def test_a_hook_that_draws_without_a_key_is_explained():
    class Draws(T.Hooks):
        def mid(self, key, g, x, prediction, info):
            return g, x + jax.random.normal(key, x.shape), prediction, None

    with pytest.raises(ValueError, match=r"key is None, but a hook of Draws draws.*stochastic = True"):
        js.sample(None, MODEL, X, PLAN, steer=Draws())

    class Says(Draws):
        stochastic = True

    with pytest.raises(ValueError, match="key is None"):
        js.sample(None, MODEL, X, PLAN, steer=Says())
    assert js.sample(jax.random.key(0), MODEL, X, PLAN, steer=Says()).info.ok

    class Fails(T.Hooks):
        def mid(self, key, g, x, prediction, info):
            raise TypeError("my own")

    with pytest.raises(TypeError, match=r"^my own"):
        js.sample(None, MODEL, X, PLAN, steer=Fails())


RETURNED = {
    "post": (lambda key, g, x, info: x, "post must return"),  # three numbers would pass for (g, x, keep_history)
    "final": (lambda g, x: x, "final must return"),
    "mid": (lambda key, g, x, prediction, info: (g, x, prediction), "mid must return .* got 3 values"),
    "mid array": (lambda key, g, x, prediction, info: (g, x, prediction.x0, None), "mid.*Prediction"),
    "shape": (lambda key, g, x, info: (g, x[:1], True), "the x of post must have the shape of x"),
    "none": (lambda key, g, x, info: (g, x, None), "post must return True or False"),
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_a_hook_must_not_return_is_named(name):
    hook, match = RETURNED[name]
    kind = {"shape": "post", "none": "post", "mid array": "mid"}.get(name, name)
    steer = type("Mine", (T.Hooks,), {kind: lambda self, *args: hook(*args)})()
    plan = js.solve.ddim(js.noise.VP(), js.noise.time_grid(js.noise.VP(), 3))
    denoiser = js.Denoiser(lambda x, t: 0.5 * x, js.noise.VP(), predicts="x0")
    x = jnp.ones(2 if name == "final" else 3)
    for one in (steer, T.chain(steer)):
        with pytest.raises(TypeError, match=rf"Mine.*{match}" if name in ("post", "final", "mid") else match):
            js.sample(jax.random.key(0), denoiser, x, plan, steer=one)
