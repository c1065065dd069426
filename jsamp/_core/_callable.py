"""Callables as trees: the arrays that a function captures are leaves, so they are never baked into a program.

A bare function, a bound method, a `functools.partial` or an object with `__call__` is wrapped in `Bound`. Its arrays
are looked up each time the tree is flattened, at each call of a compiled function: weights that were updated in place,
or a name that was bound anew, are seen, and equal code with other arrays runs the same program.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_callable, is_traced

LARGE = 1024
"""A numpy array of more floating numbers than this is a leaf; a smaller one is a constant, compared by content."""
JITTED = type(jax.jit(lambda: 0))
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def as_tree(name: str, function: Any, signature: str) -> Any:
    """Return a callable as a tree whose leaves are its arrays and numbers, or refuse what cannot be called."""
    check_callable(name, function, signature)
    if _is_opaque(function):
        return Bound(function)
    if isinstance(function, jax.tree_util.Partial):
        return _applied(name, function, signature)
    return Structured(function) if any(map(_is_structure, jax.tree.leaves(function))) else function


def _applied(name: str, function: Any, signature: str) -> Any:
    """Keep a `Partial` of a plain function; make the arrays of any other function that it calls leaves too."""
    inner = as_tree(name, function.func, signature)
    if isinstance(inner, Bound) and not jax.tree.leaves(inner):
        return function
    return jax.tree_util.Partial(call, inner, *function.args, **function.keywords)


def call(function: Any, *args: Any, **keywords: Any) -> Any:
    """Call a function that is itself an argument."""
    return function(*args, **keywords)


def _is_opaque(value: Any) -> bool:
    """Whether JAX takes the object itself for a leaf."""
    return any(leaf is value for leaf in jax.tree.leaves(value))


def _is_structure(leaf: Any) -> bool:
    """Whether a leaf of a model is part of its structure: an activation function, a flag, a name."""
    return isinstance(leaf, bool | str) or not (isinstance(leaf, (int, float, complex)) or hasattr(leaf, "dtype"))


def _is_array(leaf: Any) -> bool:
    large = isinstance(leaf, np.ndarray) and leaf.size > LARGE and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return large or isinstance(leaf, jax.Array)


class _Same:
    """Compares an object by identity."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self):
        return id(self.value)


def _constant(value: Any) -> Hashable:
    """A hashable stand-in for what is not an array: by value where the value is plain, else by identity."""
    if type(value) in PLAIN:
        return type(value), value if value == value else "nan"
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        return value.shape, value.dtype.str, value.tobytes()
    return tuple(map(_constant, value)) if type(value) is tuple else _Same(value)


def _kept(constant: Any) -> Any:
    """A constant as it is now: JAX remembers numpy arrays by identity, whatever is written into them later."""
    return constant.copy() if isinstance(constant, np.ndarray) else constant


class _Recipe:
    """The structure of a `Bound`: its function with places for arrays. Equal code with equal constants is equal."""

    def __init__(self, function, places, key):
        self.function, self.places, self.key = function, places, key

    def __eq__(self, other):
        return isinstance(other, _Recipe) and self.key == other.key

    def __hash__(self):
        return hash(self.key)


@jax.tree_util.register_pytree_node_class
class Bound:
    """A callable whose captured arrays are leaves, looked up whenever it is flattened."""

    def __init__(self, function: Any, outer: frozenset = frozenset(), origin: Any = None):
        self.function, self.outer = function, outer
        self.origin = function if origin is None else origin
        self.filled: tuple[tuple, _Recipe] | None = None

    def __call__(self, *args, **keywords):
        return self.function(*args, **keywords)

    def __repr__(self):
        return f"Bound({getattr(self.function, '__qualname__', type(self.function).__qualname__)})"

    def tree_flatten(self):
        """Arrays of every place that holds some; constants and code are structure."""
        if self.filled is not None:
            return self.filled
        arrays: list[Any] = []
        places, key = [], []
        outer = self.outer | {id(_identity(self.origin))}
        for place, value in _parts(self.function):
            leaves, structure = _flat(_expose(value, outer))
            held = tuple(map(_is_array, leaves))
            if any(held) or any(isinstance(leaf, np.ndarray) for leaf in leaves):
                rest = tuple(None if array else _kept(leaf) for leaf, array in zip(leaves, held, strict=True))
                arrays += [leaf for leaf, array in zip(leaves, held, strict=True) if array]
                places.append((place, structure, held, rest))
                key.append((place, structure, held, tuple(map(_constant, rest))))
            elif not isinstance(place, _Attribute) or type(value) in (float, bool, str):
                key.append((place, _frozen(value, outer)))
        template = self
        if any(is_traced(leaf) for leaf in arrays):  # a structure outlives the trace
            template = Bound(_rebuilt(self.function, {place: None for place, *_ in places}), self.outer, self.origin)
        return tuple(arrays), _Recipe(template, tuple(places), (_code(self.origin), *key))

    @classmethod
    def tree_unflatten(cls, recipe, arrays):
        """The same code with other leaves in its places, which stay leaves when they are shapes, axes or flags."""
        left, changes = iter(arrays), {}
        for place, structure, held, rest in recipe.places:
            leaves = [next(left) if array else leaf for leaf, array in zip(rest, held, strict=True)]
            changes[place] = jax.tree.unflatten(structure, leaves)
        template = recipe.function
        function = _rebuilt(template.function, changes) if changes else template.function
        bound = cls(function, template.outer, template.origin)
        if not all(map(_is_array, arrays)):
            bound.filled = tuple(arrays), recipe
        return bound


@jax.tree_util.register_pytree_node_class
class Structured:
    """A model whose leaves that are not numbers (activation functions, flags) are structure."""

    def __init__(self, model: Any):
        self.model = model
        self.filled: tuple[tuple, _Recipe] | None = None

    def __call__(self, *args, **keywords):
        return self.model(*args, **keywords)

    def __getattr__(self, name):
        if name in ("model", "filled"):
            raise AttributeError(name)
        return getattr(self.model, name)

    def tree_flatten(self):
        """Numbers and arrays; the rest as structure."""
        if self.filled is not None:
            return self.filled
        leaves, structure = jax.tree.flatten(self.model)
        fixed = tuple(map(_is_structure, leaves))
        rest = [Bound(leaf) if f and callable(leaf) else leaf for leaf, f in zip(leaves, fixed, strict=True)]
        bound = tuple(leaf if isinstance(leaf, Bound) else None for leaf in rest)
        flags = tuple(leaf if f and not callable(leaf) else None for leaf, f in zip(leaves, fixed, strict=True))
        numbers = [leaf for leaf, f in zip(leaves, fixed, strict=True) if not f]
        key = (structure, fixed, tuple(map(_constant, flags)))
        return (numbers, bound), _Recipe(flags, (structure, fixed), key)

    @classmethod
    def tree_unflatten(cls, recipe, children):
        """The same structure with other leaves, which stay leaves when they are shapes, axes or flags."""
        numbers, bound = children
        structure, fixed = recipe.places
        left = iter(numbers)
        leaves = [
            (flag if function is None else function.function) if f else next(left)
            for f, flag, function in zip(fixed, recipe.function, bound, strict=True)
        ]
        model = cls(jax.tree.unflatten(structure, leaves))
        if any(map(_is_structure, numbers)) or any(one is not None and one.filled for one in bound):
            model.filled = children, recipe
        return model


class _Attribute(str):
    """The name of an attribute of a plain object; those without arrays are the object's own business."""


def _identity(function: Any) -> Any:
    """Tell by what two visits of a function are the same visit."""
    return getattr(function, "__code__", function)


def _code(function: Any) -> Hashable:
    if isinstance(function, types.FunctionType):
        return function.__code__, _Same(function.__globals__)
    if isinstance(function, types.MethodType):
        return "method", _Same(function.__self__) if _has_parts(function.__self__) else None
    if isinstance(function, functools.partial):
        return ("partial", len(function.args), tuple(function.keywords))
    if isinstance(function, JITTED) and hasattr(function, "__wrapped__"):
        return _code(function.__wrapped__)  # pyright: ignore[reportAttributeAccessIssue]
    return _Same(function)


@functools.cache
def _names(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Names that a code object or its inner functions may read, and those that they assign outside themselves."""
    read = set(code.co_names)
    stored = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_GLOBAL", "STORE_DEREF")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner_read, inner_stored = _names(constant)
            read |= inner_read
            stored |= inner_stored
    return frozenset(read), frozenset(stored)


def _parts(function: Any) -> Iterator[tuple[Any, Any]]:
    """Places of a callable that may hold arrays, with what they hold now."""
    if isinstance(function, types.FunctionType):
        read, stored = _names(function.__code__)
        for i, name in enumerate(function.__code__.co_freevars):
            if name not in stored:
                yield ("cell", i), _content((function.__closure__ or ())[i])
        for name in sorted(read & function.__globals__.keys()):
            value = function.__globals__[name]
            if name not in stored and not isinstance(value, types.ModuleType | type):
                yield ("global", name), value
        for i, value in enumerate(function.__defaults__ or ()):
            yield ("default", i), value
        for name, value in (function.__kwdefaults__ or {}).items():
            yield ("keyword", name), value
    elif isinstance(function, types.MethodType):
        yield "function", function.__func__
        if _has_parts(function.__self__):
            yield from _parts(function.__self__)
        else:
            yield "self", function.__self__
    elif isinstance(function, functools.partial):
        yield "function", function.func
        yield from ((("argument", i), value) for i, value in enumerate(function.args))
        yield from ((("keyword", name), value) for name, value in function.keywords.items())
    elif isinstance(function, JITTED):
        yield from _parts(getattr(function, "__wrapped__", None))
    elif _has_parts(function):
        yield from ((_Attribute(name), value) for name, value in sorted(vars(function).items()))


def _has_parts(owner: Any) -> bool:
    """Whether this is a plain object (not a tree of JAX's) with attributes."""
    return hasattr(owner, "__dict__") and not isinstance(owner, types.ModuleType | type) and _is_opaque(owner)


def _flat(value: Any) -> tuple[list[Any], Any]:
    try:
        return jax.tree.flatten(value)
    except (TypeError, ValueError):  # keys that cannot be sorted
        return [], None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is assigned later
        return None


def _expose(value: Any, outer: frozenset) -> Any:
    """The value with every callable or plain object inside it that holds arrays as a `Bound`."""

    def one(leaf):
        if _is_array(leaf) or type(leaf) in PLAIN or id(_identity(leaf)) in outer or not _may_hold(leaf):
            return leaf
        bound = Bound(leaf, outer)
        return bound if jax.tree.leaves(bound) else leaf

    try:
        return jax.tree.map(one, value)
    except (TypeError, ValueError):  # keys that cannot be sorted: no tree
        return value


def _may_hold(leaf: Any) -> bool:
    """Whether a captured thing is looked into: functions, methods, partials, objects that can be called."""
    if isinstance(leaf, types.FunctionType):
        package = (leaf.__module__ or "").partition(".")[0]
        return package not in ("jax", "numpy", "jsamp", "flax", "optax", "equinox")
    known = isinstance(leaf, types.MethodType | functools.partial | JITTED)
    return known or (callable(leaf) and hasattr(leaf, "__dict__") and not isinstance(leaf, types.ModuleType | type))


def _frozen(value: Any, outer: frozenset) -> Hashable:
    """A stand-in for a place without arrays: functions by their code, plain values by value, the rest by identity."""
    if isinstance(value, types.FunctionType) and id(_identity(value)) not in outer and _may_hold(value):
        return jax.tree.structure(Bound(value, outer))
    return _constant(value)


def _rebuilt(function: Any, changes: dict[Any, Any]) -> Any:
    """The callable with other contents in some of its places."""
    if isinstance(function, types.FunctionType):
        return _rebuilt_function(function, changes)
    if isinstance(function, types.MethodType):
        inner, owner = changes.get("function", function.__func__) or call, changes.get("self", function.__self__)
        attributes = {place: value for place, value in changes.items() if isinstance(place, _Attribute)}
        return types.MethodType(inner, _with_attributes(owner, attributes) if attributes else owner)
    if isinstance(function, functools.partial):
        args = [changes.get(("argument", i), value) for i, value in enumerate(function.args)]
        keywords = {name: changes.get(("keyword", name), value) for name, value in function.keywords.items()}
        return functools.partial(changes.get("function", function.func) or call, *args, **keywords)
    if isinstance(function, JITTED):
        return _rebuilt(function.__wrapped__, changes)  # pyright: ignore[reportAttributeAccessIssue]
    return _with_attributes(function, changes)


def _with_attributes(owner: Any, changes: dict[Any, Any]) -> Any:
    """A shallow copy of a plain object with some attributes changed."""
    other = object.__new__(type(owner))
    other.__dict__.update(vars(owner))
    other.__dict__.update({str(name): value for name, value in changes.items()})
    return other


def _rebuilt_function(function: types.FunctionType, changes: dict[Any, Any]) -> types.FunctionType:
    names = {place[1]: value for place, value in changes.items() if place[0] == "global"}
    cells = tuple(
        types.CellType(changes[("cell", i)]) if ("cell", i) in changes else cell
        for i, cell in enumerate(function.__closure__ or ())
    )
    defaults = tuple(changes.get(("default", i), value) for i, value in enumerate(function.__defaults__ or ()))
    space = {**function.__globals__, **names} if names else function.__globals__
    other = types.FunctionType(function.__code__, space, function.__name__, defaults or None, cells or None)
    keywords = {name: changes.get(("keyword", name), value) for name, value in (function.__kwdefaults__ or {}).items()}
    other.__kwdefaults__ = keywords or None
    return other
