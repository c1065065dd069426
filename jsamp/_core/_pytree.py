"""Frozen dataclasses that are JAX trees."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**options: Any) -> Any:
    """A field that is part of the tree's structure: changing it retraces. Options as `dataclasses.field`."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are leaves, except those declared `static()`.

    Unflattening bypasses `__init__`, so `__post_init__` validates what a user constructs and never sees the
    placeholder leaves that JAX puts into trees.

    Example:
        >>> import jax
        >>> @pytree
        ... class Line:
        ...     slope: float
        ...     name: str = static(default="line")
        >>> jax.tree.leaves(Line(2.0))
        [2.0]
    """
    # eq=False: comparing array leaves with == has no truth value, and identity hashing keeps objects usable as keys.
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    meta = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten(obj):
        return tuple(getattr(obj, n) for n in data), tuple(getattr(obj, n) for n in meta)

    def flatten_with_keys(obj):
        leaves, aux = flatten(obj)
        return tuple((jax.tree_util.GetAttrKey(n), v) for n, v in zip(data, leaves, strict=True)), aux

    def unflatten(aux, leaves):
        obj = object.__new__(cls)
        for name, value in (*zip(data, leaves, strict=True), *zip(meta, aux, strict=True)):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def replace(obj: T, **changes: Any) -> T:
    """A copy of a tree object with some fields changed and without running its validation again."""
    copy = object.__new__(type(obj))
    for field in dataclasses.fields(obj):  # pyright: ignore[reportArgumentType]
        object.__setattr__(copy, field.name, changes.pop(field.name, getattr(obj, field.name)))
    if changes:
        raise TypeError(f"{type(obj).__name__} has no field {sorted(changes)[0]!r}")
    return copy
