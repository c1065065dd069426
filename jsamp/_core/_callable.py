"""Callables as trees: the arrays that a function captures are leaves, so they are never baked into a program.

A bare function, a bound method, a `functools.partial` or an object with `__call__` is wrapped in `Bound`. Its arrays
are looked up each time the tree is flattened, at each call of a compiled function: weights that were updated in place,
or a name that was bound anew, are seen, and equal code with other arrays runs the same program. What a class holds and
code reads by the name of the class is a constant, of which a change compiles anew.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._captured import (
    CONTAINERS,
    GLOBALS,
    NONE,
    ORIGIN,
    WRAPPERS,
    Attribute,
    Names,
    content,
    globals_of,
    has_parts,
    in_library,
    is_opaque,
    may_hold,
    names_for,
    of_classes,
    origin_of,
    parts,
    whole,
    with_attributes,
)
from jsamp._core._checks import check_callable, is_traced
from jsamp._core._pytree import is_pytree

LARGE = 1024
"""A numpy array of more floating numbers than this is a leaf; a smaller one is a constant, compared by content."""
UNTRACEABLE = (
    jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, jax.errors.TracerIntegerConversionError,
)  # fmt: skip
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def as_tree(name: str, function: Any, signature: str) -> Any:
    """Return a callable as a tree whose leaves are its arrays and numbers, or refuse what cannot be called."""
    check_callable(name, function, signature)
    if is_opaque(function):
        return Bound(function)
    if isinstance(function, jax.tree_util.Partial):
        return _applied(name, function, signature)
    counts = is_pytree(function)
    plain = all(is_number(leaf, counts=counts) for leaf in jax.tree.leaves(function))
    return function if plain else Structured(function)


def _applied(name: str, function: Any, signature: str) -> Any:
    """Keep a `Partial` of a plain function and numbers; make what any other holds leaves and structure."""
    inner = as_tree(name, function.func, signature)
    if not isinstance(inner, Bound) or inner.tree_flatten()[1].key[1:]:
        function = Applied(inner, *function.args, **function.keywords)
    plain = all(is_number(leaf, counts=True) or type(leaf) is bool for leaf in jax.tree.leaves(function))
    return function if plain else Structured(function)


def call(function: Any, *args: Any, **keywords: Any) -> Any:
    """Call a function that is itself an argument."""
    return function(*args, **keywords)


@jax.tree_util.register_pytree_node_class
class Applied(jax.tree_util.Partial):
    """A `Partial` whose function is a tree, too; arguments keep their places."""

    def tree_flatten(self):
        """The function and its arguments."""
        return (self.func, self.args, self.keywords), None

    @classmethod
    def tree_unflatten(cls, structure, children):
        """The same call of another function, with other arguments."""
        function, args, keywords = children
        return cls(function, *args, **keywords)


def is_number(leaf: Any, *, counts: bool = False) -> bool:
    """Whether a leaf of a model is an argument of a compiled program: an array, a number; with `counts` a plain int.

    All else is structure: functions, types, names, flags, and the sizes that trees of other libraries keep in fields.
    Those of `pytree` say which fields are static, so an int that is a leaf there counts.
    """
    if type(leaf) is int:
        return counts
    return isinstance(leaf, float | complex) or (hasattr(leaf, "dtype") and not isinstance(leaf, type))


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

    def __init__(self, function: Any, outer: frozenset = frozenset(), names: Names = NONE):
        self.function, self.outer, self.names = function, outer, names
        self.renewed = False
        self.filled: tuple[tuple, _Recipe] | None = None

    def __call__(self, *args, **keywords):
        try:
            return self.function(*args, **keywords)
        except UNTRACEABLE as error:
            raise TypeError(
                f"{self._name()} reads the value of a number by float(), if, numpy or scipy, and a compiled program "
                f"has none. Write it in jax.numpy (jnp.where for if), or wrap that part in jax.pure_callback."
            ) from error

    def __getattr__(self, name):
        if name == "function" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.function, name)  # what an object says about itself

    def _name(self):
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)

    def __repr__(self):
        return f"Bound({self._name()})"

    def tree_flatten(self):
        """Arrays of every place that holds some; constants and code are structure."""
        if self.filled is not None:
            return self.filled
        arrays: list[Any] = []
        places, key = [], []
        outer, names = self.outer | {id(origin_of(self.function))}, names_for(self.function, self.names)
        wrapper = isinstance(self.function, types.FunctionType) and in_library(self.function)
        for place, value, seen in parts(self.function, names):
            exposed = _expose(value, outer, names, renewed=wrapper)
            leaves, structure = _flat(exposed)
            held = tuple(map(_is_array, leaves))
            rest = tuple(None if array else _kept(leaf) for leaf, array in zip(leaves, held, strict=True))
            renewed = _holds_renewed(exposed)
            self.renewed |= renewed
            if renewed or any(held) or any(isinstance(leaf, np.ndarray) for leaf in leaves):
                arrays += [leaf for leaf, array in zip(leaves, held, strict=True) if array]
                places.append((place, structure, held, rest))
                key.append((place, structure, held, tuple(map(_constant, rest))))
            elif seen:
                key.append((place, *_frozen(value, structure, rest, names)))
        for name, value in of_classes(self.function, names):
            leaves, structure = _flat(value)
            key.append((name, *_frozen(value, structure, tuple(leaves), names)))
        template = self
        if any(is_traced(leaf) for leaf in arrays):  # a structure outlives the trace
            emptied = _rebuilt(self.function, {place: None for place, *_ in places})
            template = type(self)(emptied, self.outer, self.names)
            template.renewed = self.renewed
        return tuple(arrays), _Recipe(template, tuple(places), (_code(self.function), *key))

    @classmethod
    def tree_unflatten(cls, recipe, arrays):
        """The same code with other leaves in its places, which stay leaves when they are shapes, axes or flags."""
        left, changes = iter(arrays), {}
        for place, structure, held, rest in recipe.places:
            leaves = [next(left) if array else leaf for leaf, array in zip(rest, held, strict=True)]
            changes[place] = jax.tree.unflatten(structure, leaves)
        template = recipe.function
        again = template.renewed and isinstance(template.function, types.FunctionType)
        function = _rebuilt(template.function, changes) if changes or again else template.function
        bound = cls(function, template.outer, template.names)
        if not all(map(_is_array, arrays)):
            bound.filled = tuple(arrays), recipe
        return bound


@jax.tree_util.register_pytree_node_class
class _Exposed(Bound):
    """A callable or plain object inside another, while that one is taken apart."""

    @classmethod
    def tree_unflatten(cls, recipe, arrays):
        """The function or object itself, which code may ask for more than a call."""
        return super().tree_unflatten(recipe, arrays).function


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
        counts = is_pytree(self.model)
        fixed = tuple(not is_number(leaf, counts=counts) for leaf in leaves)
        held = [f and (callable(leaf) or may_hold(leaf)) for leaf, f in zip(leaves, fixed, strict=True)]
        rest = [Bound(leaf, names=whole(leaf)) if h else leaf for leaf, h in zip(leaves, held, strict=True)]
        bound = tuple(leaf if isinstance(leaf, Bound) else None for leaf in rest)
        flags = tuple(leaf if f and not h else None for leaf, f, h in zip(leaves, fixed, held, strict=True))
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
        if not all(map(is_number, numbers)) or any(one is not None and one.filled for one in bound):
            model.filled = children, recipe
        return model


def _code(function: Any) -> Hashable:
    if isinstance(function, types.FunctionType):
        return function.__code__, _Same(globals_of(function))
    if isinstance(function, types.MethodType):
        owner = function.__self__
        return "method", _Same(origin_of(owner)) if has_parts(owner) else None
    if isinstance(function, functools.partial):
        return ("partial", len(function.args), tuple(function.keywords))
    if isinstance(function, WRAPPERS) and hasattr(function, "__wrapped__"):
        return _code(function.__wrapped__)  # pyright: ignore[reportAttributeAccessIssue]
    return _Same(origin_of(function))


def _flat(value: Any) -> tuple[list[Any], Any]:
    try:
        return jax.tree.flatten(value)
    except (TypeError, ValueError):  # keys that cannot be sorted
        return [], None


class _Items:
    """A dictionary whose keys may not be sortable, as a tree that becomes a dictionary again."""

    def __init__(self, items):
        self.items = items


jax.tree_util.register_pytree_node(
    _Items,
    lambda held: (tuple(held.items.values()), tuple(held.items)),
    lambda keys, values: dict(zip(keys, values, strict=True)),  # pyright: ignore[reportArgumentType]
)


def _is_unsortable(value: Any) -> bool:
    return type(value) is dict and any(type(key) is not str for key in value)


def _frozen(value: Any, structure: Any, leaves: tuple, names: Names) -> tuple:
    """A stand-in for a place without arrays: by value, where its code does not write into it and it is not large."""
    written = isinstance(value, list | dict | set) and CONTAINERS in names.stored
    same = structure is None or written or len(leaves) > LARGE
    return (_Same(value),) if same else (structure, tuple(map(_constant, leaves)))


def _holds_renewed(value: Any) -> bool:
    exposed = jax.tree.leaves(value, is_leaf=lambda node: isinstance(node, _Exposed)) if value is not None else []
    return any(isinstance(node, _Exposed) and node.renewed for node in exposed)


def _expose(value: Any, outer: frozenset, names: Names, *, renewed: bool = False) -> Any:
    """The value with every callable or plain object inside it as an `_Exposed`.

    `renewed`: functions are built anew for each call. JAX remembers what `jax.checkpoint` has traced by the function,
    whatever numbers it reads now.
    """

    def one(leaf):
        if _is_unsortable(leaf):
            return _Items({key: _expose(inner, outer, names, renewed=renewed) for key, inner in leaf.items()})
        if _is_array(leaf) or type(leaf) in PLAIN or id(origin_of(leaf)) in outer or not may_hold(leaf):
            return leaf
        exposed = _Exposed(leaf, outer, names)
        exposed.renewed = renewed
        exposed.filled = exposed.tree_flatten()  # once: its arrays and its recipe are both asked for
        return exposed

    try:
        return jax.tree.map(one, value, is_leaf=_is_unsortable)
    except (TypeError, ValueError):  # no tree
        return value


def _rebuilt(function: Any, changes: dict[Any, Any]) -> Any:
    """The callable with other contents in some of its places."""
    if isinstance(function, types.FunctionType):
        return _rebuilt_function(function, changes)
    if isinstance(function, types.MethodType):
        inner, owner = changes.get("function", function.__func__) or call, changes.get("self", function.__self__)
        attributes = {place: value for place, value in changes.items() if isinstance(place, Attribute)}
        return types.MethodType(inner, with_attributes(owner, attributes) if attributes else owner)
    if isinstance(function, functools.partial):
        args = [changes.get(("argument", i), value) for i, value in enumerate(function.args)]
        keywords = {name: changes.get(("keyword", name), value) for name, value in function.keywords.items()}
        return functools.partial(changes.get("function", function.func) or call, *args, **keywords)
    if isinstance(function, WRAPPERS):
        return _rebuilt(function.__wrapped__, changes)  # pyright: ignore[reportAttributeAccessIssue]
    return with_attributes(function, changes)


def _rebuilt_function(function: types.FunctionType, changes: dict[Any, Any]) -> types.FunctionType:
    names = {place[1]: value for place, value in changes.items() if place[0] == "global"}
    itself = types.CellType()  # a function that calls itself calls the rebuilt one
    cells = tuple(
        types.CellType(changes[("cell", i)]) if ("cell", i) in changes else itself if _holds(cell, function) else cell
        for i, cell in enumerate(function.__closure__ or ())
    )
    defaults = tuple(changes.get(("default", i), value) for i, value in enumerate(function.__defaults__ or ()))
    space = {**function.__globals__, **names} if names else function.__globals__
    other = types.FunctionType(function.__code__, space, function.__name__, defaults or None, cells or None)
    keywords = {name: changes.get(("keyword", name), value) for name, value in (function.__kwdefaults__ or {}).items()}
    other.__kwdefaults__, itself.cell_contents = keywords or None, other
    if names:
        same = [name for name in function.__code__.co_names if origin_of(space.get(name)) is origin_of(function)]
        space.update(dict.fromkeys(same, other))
    # The origin is held weakly: one that was made within a trace must not outlive it.
    marks = {ORIGIN: weakref.ref(origin_of(function)), GLOBALS: (function.__code__, globals_of(function))}
    other.__dict__.update({**function.__dict__, **marks})
    return other


def _holds(cell: types.CellType, function: types.FunctionType) -> bool:
    """Whether a cell holds this function, or what it was rebuilt from."""
    return origin_of(content(cell)) is origin_of(function)
