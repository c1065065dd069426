"""One kind of case for every law suite, and the laws that hold in every room.

A suite is a registry with one line for each public name, and one test:

    REGISTRY = {
        "Moving": Case(lambda: room.Moving(0.3), inputs=(X,), smooth=True, mechanism="moving",
                       refusals=[(lambda: room.Moving(-1.0), "Moving: rate must be")]),
        "draw": Case(lambda: room.draw, inputs=(SCORES,), stochastic=True, dtypes="raised"),
        "Record": Case(lambda: room.Record, inputs=(X,), returns=room.Record),
    }

    @pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
    def test_laws(law, case):
        law(case)

Laws about shapes, dtypes, traces and refusals run on every case by `jax.eval_shape` and `.trace()`. Values are compiled
for the first case of each `mechanism` (a name for the code that cases share), where they show the shapes of a batch as
well; a case without one is its own mechanism.

The arithmetic of the laws is numpy's: an operation of JAX outside jit is a program for each shape.
"""

import dataclasses
import functools
import pathlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp

OURS = (pathlib.Path(jsamp.__file__).parent, pathlib.Path(__file__).resolve().parents[1])
KEY = jax.random.key(20)

# What a call makes of the dtype of its floating inputs: bfloat16, float32, float64 (the last two under x64 as well).
POLICIES: dict[str, dict[str, str]] = {
    "kept": {"bfloat16": "bfloat16", "float32": "float32", "float64": "float64"},
    "raised": {"bfloat16": "float32", "float32": "float32", "float64": "float64"},
    "refused": {"bfloat16": "", "float32": "float32", "float64": "float64"},
    "wide": {"float32": "float32", "float64": "float64"},  # says nothing about half precision
    "float32": {"bfloat16": "float32", "float32": "float32", "float64": "float32"},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """How to build a thing, how to call it, and what holds for it.

    Args:
        build: makes the thing: a tree that is callable, any tree when `call` is given, or a function. Built once.
        inputs: arrays or trees of the call, each for one sample: the laws batch and shard them.
        call: (thing, key, *inputs) -> tree of arrays. By default thing(key, *inputs), without the key unless
            `stochastic`.
        other: makes another thing of the same structure; by default the floating leaves of the thing times 0.97.
        mechanism: name of the code that cases share; values are compiled for the first case of each.
        smooth: gradients in the thing's numbers and the inputs are finite.
        stochastic: another key gives another draw.
        dtypes: a row of `POLICIES`, or None where the inputs hold no floating array.
        returns: the exact type of the result, or None.
        refusals: pairs (call without arguments, what the message matches), each a ValueError or TypeError of our own;
            or triples with the type of the error in the middle.
        check_vma: of `jax.shard_map`; False where a function of JAX itself fails under it (betainc does).
        host: runs on the host: takes no tracer, so that only repetition, types and refusals are checked.
        tolerance: of comparisons between programs, relative and absolute.
    """

    build: Callable[[], Any]
    inputs: tuple = ()
    call: Callable | None = None
    other: Callable[[], Any] | None = None
    mechanism: str = ""
    smooth: bool = False
    stochastic: bool = False
    dtypes: str | None = "kept"
    returns: type | None = None
    refusals: Sequence[tuple] = ()
    check_vma: bool = True
    host: bool = False
    tolerance: float = 2e-5

    @functools.cached_property
    def thing(self):
        """The thing as a tree: functions and classes become structure."""
        return as_tree(self.build())

    @functools.cached_property
    def moved(self):
        """Another thing of the same structure."""
        return moved(self.thing) if self.other is None else as_tree(self.other())

    def run(self, thing, key, *inputs):
        """Call the thing as a user would."""
        if self.call is not None:
            return self.call(thing, key, *inputs)
        return thing(key, *inputs) if self.stochastic else thing(*inputs)

    @functools.cached_property
    def eager(self):
        """The result outside jit."""
        return self.run(self.thing, KEY, *self.inputs)

    @functools.cached_property
    def traces(self):
        """One entry for each time that `program` was traced."""
        return []

    @functools.cached_property
    def program(self):
        """The call under jit: one trace and one program that all laws share."""

        def run(*arguments):
            self.traces.append(1)
            return self.run(*arguments)

        return jax.jit(run)


def as_tree(thing):
    """Wrap a function or class, so that it passes through jit as structure."""
    leaf = jax.tree_util.all_leaves([thing])
    return jax.tree_util.Partial(thing) if leaf and callable(thing) and not hasattr(thing, "dtype") else thing


def is_floating(leaf):
    """Whether a leaf is a floating number or array."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def moved(tree, factor=0.97):
    """Scale the floating leaves of a tree and keep their types: a Python number stays one."""

    def scale(leaf):
        if not is_floating(leaf):
            return leaf
        if isinstance(leaf, float):
            return leaf * factor
        if not isinstance(leaf, jax.Array) or leaf.weak_type:
            return (leaf * factor).astype(leaf.dtype)
        return jnp.asarray((np.asarray(leaf) * factor).astype(leaf.dtype))

    return jax.tree.map(scale, tree)


def close(a, b, tolerance=2e-5):
    """Both trees have one structure and agree to the tolerance; NaN is equal to nothing."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        one, other = (np.asarray(v, np.float64 if is_floating(v) else None) for v in (one, other))
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=False)


def same_bits(a, b):
    """Whether all arrays of two trees are equal, bit for bit."""
    both = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(_plain(x), _plain(y)) for x, y in both)


def _is_key(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _plain(leaf):
    """The numbers of a leaf, of a key too."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def wrong(function, *rows):
    """List refusals of one function from rows (arguments, match) or (arguments, error, match).

    Arguments are a tuple or, by name, a dict.
    """
    split = lambda given: ((), given) if isinstance(given, dict) else (given, {})
    calls = [(*split(given), rest) for given, *rest in rows]
    return [(functools.partial(function, *args, **options), *rest) for args, options, rest in calls]


def refused(call, match, error=(ValueError, TypeError)):
    """The call raises an error of this type and message, from our code and not from inside a library.

    JAX leaves its frames in tracebacks here (see `conftest`), so that the last one says who raised.
    """
    with pytest.raises(error, match=match) as caught:
        call()
    last = pathlib.Path(traceback.extract_tb(caught.value.__traceback__)[-1].filename)
    assert any(last.is_relative_to(folder) for folder in OURS), f"raised in {last}: {caught.value}"


# ---------------------------------------------------------------- laws of every case


def bad_input_is_refused(case):
    """Each refusal has its own message."""
    for call, *error, match in case.refusals:
        refused(call, match, *error)


def repeats_itself(case):
    """The same key gives the same bits, of the promised type, and finite; another key gives another draw."""
    again = case.run(case.thing, KEY, *case.inputs)
    assert same_bits(case.eager, again)
    assert case.returns is None or type(again) is case.returns
    for leaf in jax.tree.leaves(again):
        assert not is_floating(leaf) or np.all(np.isfinite(np.asarray(leaf)))
    if case.stochastic:
        assert not same_bits(again, case.run(case.thing, jax.random.key(21), *case.inputs))


# ---------------------------------------------------------------- laws of every case that may be traced


def round_trips_as_a_tree(case):
    """Flattening and unflattening changes nothing, and new numbers keep the structure."""
    leaves, structure = jax.tree.flatten(case.thing)
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(case.thing)
    assert jax.tree.structure(again) == structure == jax.tree.structure(case.moved)
    assert same_bits(leaves, jax.tree.leaves(again))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(case.thing)[0]]
    assert len(set(paths)) == len(leaves), "two leaves share a path"


def new_numbers_do_not_retrace(case):
    """Fresh numbers of the thing, fresh inputs and another key are traced once, together."""
    case.program.trace(case.thing, KEY, *case.inputs)
    traces = len(case.traces)
    assert traces > 0
    case.program.trace(case.moved, jax.random.key(21), *moved(case.inputs))
    assert len(case.traces) == traces


def keeps_dtypes(case):
    """Results have the dtypes of the policy, for half precision, for float32 (under x64 too) and for float64."""
    for given, wanted in POLICIES[case.dtypes].items():
        for x64 in {"float32": (False, True), "float64": (True,)}.get(given, (False,)):
            with jax.enable_x64(x64):
                inputs = jax.tree.map(
                    lambda v, d=jnp.dtype(given): np.asarray(v, d) if is_floating(v) else v, case.inputs
                )
                if not wanted:
                    with pytest.raises(TypeError, match="float32"):
                        case.program.eval_shape(case.thing, KEY, *inputs)
                    continue
                out = case.program.eval_shape(case.thing, KEY, *inputs)
            found = {str(leaf.dtype) for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.floating)}
            assert found <= {wanted}, f"{given} (x64 {'on' if x64 else 'off'}) became {found}, wanted {wanted}"


def has_the_shapes_of_a_batch(case):
    """A vmap over keys and inputs has the shapes of the single call, with an axis in front."""
    one = case.program.eval_shape(case.thing, KEY, *case.inputs)
    keys, inputs = _batch(case)
    many = jax.eval_shape(_mapped(case), case.thing, keys, *inputs)
    assert jax.tree.structure(one) == jax.tree.structure(many)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        assert (2, *a.shape) == b.shape
        assert a.dtype == b.dtype


def traces_inside_shard_map(case):
    """The call traces on a mesh, one sample a device: loops carry what varies over it."""

    def shard(thing, keys, *inputs):
        one = case.run(thing, keys[0], *jax.tree.map(lambda leaf: leaf[0], inputs))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one)

    keys, inputs = _batch(case)
    _on_mesh(case, shard).trace(case.thing, keys, *inputs)


def has_finite_gradients(case):
    """Gradients of a smooth function of the result, in all floating numbers of the thing and the inputs."""
    leaves, structure = jax.tree.flatten((case.thing, case.inputs))
    real = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]

    def loss(numbers):
        changed = dict(zip(real, numbers, strict=True))
        thing, inputs = jax.tree.unflatten(structure, [changed.get(i, leaf) for i, leaf in enumerate(leaves)])
        out = [leaf for leaf in jax.tree.leaves(case.run(thing, KEY, *inputs)) if is_floating(leaf)]
        return sum(jnp.sum(jnp.sin(leaf.astype(jnp.float32))) for leaf in out)

    slopes = jax.jit(jax.grad(loss))([jnp.asarray(leaves[i]) for i in real])
    assert real, "a smooth case has a number to differentiate in"
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    assert any(np.any(np.asarray(slope) != 0) for slope in slopes), "the result depends on no number at all"


# ---------------------------------------------------------------- laws whose values are compiled once for a mechanism


def jit_equals_eager(case):
    """The compiled program gives what the call gives outside jit."""
    close(case.program(case.thing, KEY, *case.inputs), case.eager, case.tolerance)


def batches_run_inside_shard_map(case):
    """Each device of a mesh takes a batch, and a sample is what a single call gives: one program for both laws."""
    keys, inputs = _batch(case, 4)
    _rows_equal_single_calls(case, _on_mesh(case, _mapped(case))(case.thing, keys, *inputs))


def _batch(case, rows=2):
    """As many keys as rows, and rows of each input along a new leading axis, each scaled anew."""
    scaled = [case.inputs]
    while len(scaled) < rows:
        scaled.append(moved(scaled[-1]))
    return jax.random.split(KEY, rows), jax.tree.map(_stack, *scaled)


def _stack(*leaves):
    """Rows of one array, of the dtype that JAX gives them."""
    if _is_key(leaves[0]):
        return jnp.stack(leaves)
    return np.stack([np.asarray(leaf, jnp.result_type(leaf)) for leaf in leaves])


def _mapped(case):
    return jax.vmap(case.run, in_axes=(None, 0, *(0 for _ in case.inputs)))


def _on_mesh(case, shard):
    """The function of (thing, keys, *inputs) on two devices, which divide the rows of keys and inputs."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    rows = jax.P("data")
    specs = (jax.P(), rows, *(rows for _ in case.inputs))
    return jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=case.check_vma))


def _rows_equal_single_calls(case, many):
    rows = len(jax.tree.leaves(many)[0])
    keys, inputs = _batch(case, rows)
    many = jax.device_get(many)
    for i in range(rows):
        alone = case.program(case.thing, keys[i], *jax.tree.map(lambda leaf, i=i: leaf[i], inputs))
        for row, one in zip(jax.tree.leaves(many), jax.tree.leaves(alone), strict=True):
            assert (row.shape, row.dtype) == ((rows, *one.shape), one.dtype)
        close(jax.tree.map(lambda leaf, i=i: leaf[i], many), alone, case.tolerance)


TRACED = (
    round_trips_as_a_tree, new_numbers_do_not_retrace, keeps_dtypes, has_the_shapes_of_a_batch,
    traces_inside_shard_map, has_finite_gradients,
)  # fmt: skip
COMPILED = (jit_equals_eager, batches_run_inside_shard_map)


def cases_of(registry):
    """Yield (label, case): an entry of a registry is a Case, or several of them, one for each kind of use."""
    for name, entry in registry.items():
        many = (entry,) if isinstance(entry, Case) else tuple(entry)
        yield from ((name if not i else f"{name}({i})", case) for i, case in enumerate(many))


def laws_of(case, first):
    """List the laws that concern a case; `first` says whether its mechanism is compiled here."""
    if case.refusals:
        yield bad_input_is_refused
    yield repeats_itself
    if case.host:
        return
    for law in TRACED:
        concerns = {keeps_dtypes: case.dtypes is not None, has_finite_gradients: case.smooth}.get(law, True)
        if concerns and not (first and law is has_the_shapes_of_a_batch):  # the values show them
            yield law
    if first:
        yield from COMPILED


def pairs(registry, without=()):
    """List (law, case) for `pytest.mark.parametrize`; `without` names laws that a suite has in another form."""
    seen, found = set(), []
    for label, case in cases_of(registry):
        first = not case.mechanism or case.mechanism not in seen
        seen.add(case.mechanism)
        laws = [law for law in laws_of(case, first) if law not in without]
        found += [pytest.param(law, case, id=f"{label}-{law.__name__}") for law in laws]
    return found
