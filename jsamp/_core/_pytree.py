"""Frozen dataclasses that are JAX trees, with checks and conversions of their fields."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax

SHOWN = 8
"""Numbers of an array that are printed with an object."""

T = TypeVar("T")
Convert = Callable[[str, Any], Any]
Check = Callable[[str, Any], Any]


def field(*, convert: Convert | None = None, check: Check | None = None, **options: Any) -> Any:
    """Declare a field of a `pytree` whose value is checked and converted when an object is constructed.

    Args:
        convert: `convert(name, value)` returns what is stored; `name` is "Class: field", for messages.
        check: `check(name, value)` raises for a value that is refused; it runs before `convert`.
        **options: as `dataclasses.field`: `default`, `default_factory`, `kw_only`, ...

    Returns:
        The field.

    Example:
        >>> import jsamp as js
        >>> @js.pytree
        ... class Line:
        ...     slope: float = js.field(convert=lambda name, value: float(value))
        >>> Line("2").slope
        2.0
    """
    return dataclasses.field(metadata={"convert": convert, "check": check}, **options)


def static(*, convert: Convert | None = None, check: Check | None = None, **options: Any) -> Any:
    """Declare a field that is part of the tree's structure: names, counts, flags. Changing it retraces.

    Args:
        convert: as for `field`.
        check: as for `field`.
        **options: as `dataclasses.field`.

    Returns:
        The field. Its value must be hashable.

    Example:
        >>> import jax, jsamp as js
        >>> @js.pytree
        ... class Line:
        ...     slope: float
        ...     name: str = js.static(default="line")
        >>> jax.tree.leaves(Line(2.0))
        [2.0]
    """
    return dataclasses.field(metadata={"static": True, "convert": convert, "check": check}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(field, static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that is a JAX tree: its fields are leaves, except those declared `static()`.

    Fields are checked and converted (`field`, `static`), then `__post_init__` runs, if there is one. Unflattening
    bypasses all of it, so validation sees what a user constructs and never what JAX puts into trees. Derived classes
    are trees too; decorate those that add fields.

    Args:
        cls: the class, with annotated fields.

    Returns:
        The class, registered.

    Example:
        >>> import jax, jsamp as js
        >>> @js.pytree
        ... class Line:
        ...     slope: float
        >>> jax.tree.leaves(Line(2.0))
        [2.0]
    """
    _convert_before(cls)
    if "__repr__" not in vars(cls):
        cls.__repr__ = _brief  # pyright: ignore[reportAttributeAccessIssue]
    # eq=False: comparing array leaves with == has no truth value, and identity hashing keeps objects usable as keys.
    cls = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    _register(cls)
    return cls


class _Large:
    """Stands for an array where an object is printed."""

    def __init__(self, array):
        self.text = f"{array.dtype}[{', '.join(map(str, array.shape))}]"

    def __repr__(self):
        return self.text


def _brief(obj: Any) -> str:
    """Print an object with its fields, larger arrays as dtype and shape.

    JAX prints the callables that it transforms: weights should not travel from a device for that.
    """
    small = lambda leaf: _Large(leaf) if getattr(leaf, "size", 0) > SHOWN and hasattr(leaf, "dtype") else leaf
    values = ((each.name, getattr(obj, each.name)) for each in dataclasses.fields(obj) if each.repr)
    return f"{type(obj).__qualname__}({', '.join(f'{name}={jax.tree.map(small, value)!r}' for name, value in values)})"


_REGISTERED: set[type] = set()


def is_pytree(obj: Any) -> bool:
    """Whether an object's class was made a tree here."""
    return type(obj) in _REGISTERED


@functools.cache
def _names(cls: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the leaves and of the static fields."""
    fields = dataclasses.fields(cls)
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    return leaves, tuple(f.name for f in fields if f.metadata.get("static"))


def _register(cls: type) -> None:
    """Register a class with JAX, and every class that will be derived from it."""
    if cls in _REGISTERED:
        return
    _REGISTERED.add(cls)

    def flatten(obj):
        data, meta = _names(cls)
        return tuple(getattr(obj, n) for n in data), tuple(getattr(obj, n) for n in meta)

    def flatten_with_keys(obj):
        leaves, aux = flatten(obj)
        return tuple((jax.tree_util.GetAttrKey(n), v) for n, v in zip(_names(cls)[0], leaves, strict=True)), aux

    def unflatten(aux, leaves):
        data, meta = _names(cls)
        obj = object.__new__(cls)
        for name, value in (*zip(data, leaves, strict=True), *zip(meta, aux, strict=True)):
            object.__setattr__(obj, name, value)
        return obj

    def __init_subclass__(sub, **options):
        super(cls, sub).__init_subclass__(**options)
        _register(sub)

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    if "__init_subclass__" not in vars(cls):
        cls.__init_subclass__ = classmethod(__init_subclass__)  # pyright: ignore[reportAttributeAccessIssue]


def _is_structure(value: Any) -> bool:
    """Whether a value can be no leaf: a boolean, a name, a function, a class.

    An int is a leaf, unlike in models (`_callable.is_number`): an object of a user's own may count in it.
    """
    opaque = lambda: any(leaf is value for leaf in jax.tree.leaves(value))
    return isinstance(value, bool | str) or (callable(value) and opaque())


def register_attributes(cls: type) -> None:
    """Register a class that may be no dataclass: its fields, else its attributes, are leaves if they can be.

    What says `static()`, and booleans, strings, functions and classes, are structure. Looked up at each flattening, so
    that the class may become a dataclass later.
    """
    if cls in _REGISTERED:
        return
    _REGISTERED.add(cls)

    def parts(obj):
        if dataclasses.is_dataclass(cls):
            declared = {f.name: bool(f.metadata.get("static")) for f in dataclasses.fields(cls)}
        else:
            declared = dict.fromkeys(sorted(vars(obj)), False)
        meta = {n: getattr(obj, n) for n, fixed in declared.items() if fixed or _is_structure(getattr(obj, n))}
        return {n: getattr(obj, n) for n in declared if n not in meta}, meta

    def flatten_with_keys(obj):
        data, meta = parts(obj)
        leaves = tuple((jax.tree_util.GetAttrKey(n), v) for n, v in data.items())
        return leaves, (tuple(data), tuple(meta.items()))

    def unflatten(aux, leaves):
        names, meta = aux
        obj = object.__new__(cls)
        for name, value in (*zip(names, leaves, strict=True), *meta):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)


def _convert_before(cls: type) -> None:
    """Let the class check and convert its fields before its own `__post_init__`."""
    after = vars(cls).get("__post_init__")

    def __post_init__(self):
        if cls is next(kind for kind in type(self).__mro__ if "__dataclass_fields__" in vars(kind)):
            _convert_fields(self)
        if after is not None:
            after(self)
        elif (inherited := getattr(super(cls, self), "__post_init__", None)) is not None:  # pyright: ignore
            inherited()

    cls.__post_init__ = __post_init__  # pyright: ignore[reportAttributeAccessIssue]


def _convert_fields(obj: Any) -> None:
    for each in dataclasses.fields(obj):
        name, value = f"{type(obj).__name__}: {each.name}", getattr(obj, each.name)
        if (check := each.metadata.get("check")) is not None:
            check(name, value)
        if (convert := each.metadata.get("convert")) is not None:
            object.__setattr__(obj, each.name, convert(name, value))


def put(obj: Any, **values: Any) -> None:
    """Set fields of an object that is being constructed, where one depends on another: in its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(obj, name, value)


def construct(obj: Any, **values: Any) -> None:
    """Set the fields of an object whose own `__init__` takes other arguments, then check and convert them."""
    put(obj, **values)
    obj.__post_init__()


def replace(obj: T, **changes: Any) -> T:
    """Copy a tree object with some fields changed, without running its validation again."""
    copy = object.__new__(type(obj))
    for each in dataclasses.fields(obj):  # pyright: ignore[reportArgumentType]
        object.__setattr__(copy, each.name, changes.pop(each.name, getattr(obj, each.name)))
    if changes:
        raise TypeError(f"{type(obj).__name__} has no field {sorted(changes)[0]!r}")
    return copy
