"""Trees: leaves and structure, checks at construction alone, classes derived from trees."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js


def positive(name, value):
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}.")


@js.pytree
class Scale:
    by: float = js.field(check=positive, convert=lambda name, value: 2 * value)
    name: str = js.static(default="scale", convert=lambda name, value: value.upper())
    total: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "total", self.by + self.total)


class Plain(Scale):
    def double(self):
        return 2 * self.by


@js.pytree
class More(Scale):
    extra: float = js.field(default=1.0, convert=lambda name, value: value + 1)


def test_fields_are_checked_and_converted_once_before_post_init():
    for made in (Scale(1.0), Plain(1.0), More(1.0)):
        assert (made.by, made.name, made.total) == (2.0, "SCALE", 2.0)
        again = jax.jit(lambda tree: tree)(made)
        assert type(again) is type(made)
        assert (float(again.by), again.name, float(again.total)) == (2.0, "SCALE", 2.0)
    assert More(1.0).extra == 2.0
    for cls in (Scale, Plain, More):
        with pytest.raises(ValueError, match=f"{cls.__name__}: by must be positive, got -1"):
            cls(-1.0)


def test_leaves_have_their_names_and_static_fields_are_structure():
    paths, _ = jax.tree_util.tree_flatten_with_path(More(1.0))
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [".by", ".total", ".extra"]
    assert jax.tree.structure(Scale(1.0, "a")) != jax.tree.structure(Scale(1.0, "b"))
    assert jax.vmap(lambda s: s.by)(jax.tree.map(lambda a: jnp.full(3, a), Plain(1.0))).shape == (3,)


def test_large_arrays_are_printed_as_dtype_and_shape():
    @js.pytree
    class Pair:
        first: Any
        second: Any = js.static(default="name")

    assert repr(Pair(np.arange(3))) == f"{Pair.__qualname__}(first=array([0, 1, 2]), second='name')"
    assert repr(Pair(Pair([jnp.zeros((4, 5))]))) == (
        f"{Pair.__qualname__}(first={Pair.__qualname__}(first=[float32[4, 5]], second='name'), second='name')"
    )
    denoiser = js.Denoiser(jax.tree_util.Partial(jnp.multiply, np.ones(1000)), js.noise.VP(), predicts="eps")
    assert len(repr(denoiser)) < 300
