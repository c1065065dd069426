"""Meshes: rows sharded over an explicit axis, and values that vary over mesh axes inside `shard_map`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import is_traced


def mesh_axis(rows: Any) -> Any:
    """The axis of an explicit mesh over which these rows are sharded, or None."""
    sharding = jax.typeof(rows).sharding
    axis = sharding.spec[0] if len(sharding.spec) else None
    if axis is not None and any(other is not None for other in sharding.spec[1:]):
        raise ValueError(f"rows may be sharded, columns not; got {sharding.spec}. Use jax.reshard(A, jax.P({axis!r})).")
    return axis


def sharded_like(tree: Any, rows: Any) -> Any:
    """The tree with its leaves [n, ...] sharded as the rows [n, ...] are over an axis of an explicit mesh."""
    first = jax.tree.leaves(rows)[0]
    axis = mesh_axis(first) if jnp.ndim(first) else None
    if axis is None:
        return tree
    here = lambda leaf: jnp.ndim(leaf) and jnp.shape(leaf)[0] == jnp.shape(first)[0] and mesh_axis(leaf) is None
    if is_traced(first):
        move = lambda leaf: jax.reshard(leaf, jax.NamedSharding(jax.typeof(first).sharding.mesh, jax.P(axis)))
    else:
        move = lambda leaf: jax.device_put(leaf, jax.NamedSharding(first.sharding.mesh, jax.P(axis)))
    return jax.tree.map(lambda leaf: move(leaf) if here(leaf) else leaf, tree)


@contextlib.contextmanager
def on_mesh_of(who: str, rows: Any) -> Iterator[None]:
    """Run eager code on the explicit mesh over which concrete rows are sharded, or say that JAX must be told of it."""
    first = next((leaf for leaf in jax.tree.leaves(rows) if isinstance(leaf, jax.Array)), None)
    if first is None or is_traced(first) or not jnp.ndim(first) or mesh_axis(first) is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ValueError):  # inside a transformation it cannot be set
            stack.enter_context(jax.set_mesh(first.sharding.mesh))  # pyright: ignore
        try:
            yield
        except ValueError as error:
            if "jax.set_mesh" not in str(error):
                raise
            raise ValueError(
                f"{who}: rows sharded over an explicit mesh need it around a transformation outside jax.jit. Call it "
                f"inside jax.jit, or in `with jax.set_mesh(mesh):`."
            ) from error


def everywhere(x: jax.Array) -> jax.NamedSharding:
    """The sharding that gives every device of x's explicit mesh a whole copy."""
    return jax.NamedSharding(jax.typeof(x).sharding.mesh, jax.P())


def whole(rows: jax.Array) -> jax.Array:
    """The rows, whole on every device where they are sharded over an axis of an explicit mesh."""
    return rows if mesh_axis(rows) is None else jax.reshard(rows, everywhere(rows))


def over_mesh(fun: Callable[..., Any], axis_name: Any, *rows: Any, out_specs: Any = None) -> Any:
    """Call fun(axis_name, *rows), in a `shard_map` of its own for rows sharded over an axis of an explicit mesh."""
    axis = mesh_axis(rows[0]) if axis_name is None else None
    if axis is None:
        return fun(axis_name, *rows)
    spec = jax.P(axis)
    mesh = jax.typeof(rows[0]).sharding.mesh
    run = jax.shard_map(
        lambda *part: fun(axis, *part),
        mesh=mesh,
        in_specs=tuple(None if x is None else spec for x in rows),
        out_specs=spec if out_specs is None else out_specs(spec),
    )
    return run(*rows)


def vary(tree: Any, *sources: Any) -> Any:
    """The tree, varying over every mesh axis that a source varies over.

    Loop carries keep their type so, and a batch on a mesh can select between two branches: what a branch of `lax.cond`
    reads must vary wherever its condition does.
    """
    axes: frozenset = frozenset()
    for leaf in jax.tree.leaves(sources):
        axes |= _varying(leaf)
    if not axes:
        return tree

    def one(leaf):
        missing = axes - _varying(leaf)
        return jax.lax.pcast(jnp.asarray(leaf), tuple(sorted(missing)), to="varying") if missing else leaf

    return jax.tree.map(one, tree)


def call_where(wanted: Any, call: Callable[[], Any], before: Any) -> Any:
    """Return call() where it is wanted, and what was before elsewhere, without the cost of a call.

    A `lax.cond` whose condition varies over a mesh fails inside JAX under `vmap`, where a branch reads a constant: it
    becomes a loop of one round or none, which has no reverse derivative.
    """
    if not _varying(wanted):
        return jax.lax.cond(wanted, call, lambda: before)
    return jax.lax.fori_loop(0, wanted.astype(jnp.int32), lambda _, carry: call(), before)


def _varying(leaf: Any) -> frozenset:
    """Mesh axes over which a value varies; releases differ in where an abstract value says so."""
    aval = jax.typeof(leaf)
    kind = getattr(aval, "manual_axis_type", None)
    return frozenset(getattr(aval, "vma", ()) if kind is None else kind.varying)
