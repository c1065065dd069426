"""What a callable can reach: the cells, names, arguments and attributes that its code may read, and what they hold now.

Functions, methods, partials and plain objects are looked into. Of an object that is no callable itself (a trainer, a
namespace of settings) only attributes that the code names are looked at.
"""

from __future__ import annotations

import copy
import dis
import functools
import inspect
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

WRAPPERS = (type(jax.jit(lambda: 0)), type(functools.cache(lambda: 0)))
"""Types of functions around a function that stands in `__wrapped__`."""
LIBRARIES = ("jax", "jaxlib", "numpy", "jsamp", "flax", "optax", "equinox")
"""Packages whose functions hold arrays of a user in their closures alone, as `jax.vmap(f)` does."""
SETTINGS = ("types", "argparse")
"""Modules of Python whose plain objects hold what users put there."""
ORIGIN = "_jsamp_origin"
"""Attribute of a rebuilt function or object: what it was rebuilt from."""
GLOBALS = "_jsamp_globals"
"""Attribute of a rebuilt function: its code, and the names of the module that its origin reads."""
MUTATORS = frozenset({"append", "extend", "insert", "pop", "update", "setdefault", "clear", "remove"})
DYNAMIC = frozenset({"getattr", "vars", "__dict__"})
BUILDERS = frozenset({"__init__", "__new__", "__post_init__", "__setattr__", "__setstate__", "__init_subclass__"})
"""Special methods that make an object: what they assign is no change."""
CONSTANTS = (np.ndarray, np.generic, jax.Array, bool, int, float, complex, str, tuple, list, dict)
"""Types of attributes of classes that code may read as numbers."""
CONTAINERS = "[]"
"""Among the names that code assigns: it writes into lists or dictionaries."""


class Attribute(str):
    """The name of an attribute of a plain object."""


class Names(NamedTuple):
    """Names that code may read, and those that it assigns outside itself."""

    read: frozenset[str]
    stored: frozenset[str]


NONE = Names(frozenset(), frozenset())


@functools.cache
def names_of(code: types.CodeType) -> Names:
    """Read the names of a code object and its inner functions."""
    read, stored = set(code.co_names), set()
    for step in dis.get_instructions(code):
        if step.opname in ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR"):
            stored.add(step.argval)
        elif step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
            stored.add(CONTAINERS)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = names_of(constant)
            read |= inner.read
            stored |= inner.stored
    return Names(frozenset(read), frozenset(stored | ({CONTAINERS} if read & MUTATORS else set())))


@functools.cache
def names_of_methods(kind: type, entry: Names) -> Names:
    """Follow names into the methods and properties of a class: what those read and assign counts too."""
    read, stored, todo = set(entry.read), set(entry.stored), list(entry.read)
    while todo:
        name = todo.pop()
        for base in kind.__mro__:
            code = _code_of(vars(base).get(name))
            if code is not None:
                found = names_of(code)
                todo += found.read - read
                read |= found.read
                stored |= found.stored
    return Names(frozenset(read), frozenset(stored))


def _code_of(member: Any) -> types.CodeType | None:
    """The code of a method, of whatever kind, or of a property."""
    for name in ("fget", "func", "__func__"):
        inner = getattr(member, name, None)
        member = inner if callable(inner) else member
    return getattr(inspect.unwrap(member), "__code__", None) if callable(member) else None


def origin_of(value: Any) -> Any:
    """Return what a rebuilt function or object was rebuilt from; others are their own origin."""
    own = getattr(value, "__dict__", None)
    origin = own.get(ORIGIN, value) if isinstance(own, dict) else value
    if not isinstance(origin, weakref.ref) or origin is value:
        return origin
    found = origin()  # a wrapper of a rebuilt function takes over its attributes, this one too
    return found if getattr(found, "__code__", None) is value.__code__ else value


def globals_of(function: types.FunctionType) -> dict[str, Any]:
    """The names that a function, or what it was rebuilt from, reads."""
    code, names = function.__dict__.get(GLOBALS, (None, None))
    return names if code is function.__code__ else function.__globals__


def is_opaque(value: Any) -> bool:
    """Whether JAX takes the object itself for a leaf."""
    return any(leaf is value for leaf in jax.tree.leaves(value))


def has_parts(owner: Any) -> bool:
    """Whether this is a plain object (not a tree of JAX's) with attributes."""
    held = hasattr(owner, "__dict__") or bool(slots_of(type(owner)))
    return held and not isinstance(owner, types.ModuleType | type) and is_opaque(owner)


@functools.cache
def slots_of(kind: type) -> tuple[str, ...]:
    """Names of the slots of a class and its bases."""
    slotted = [vars(base) for base in kind.__mro__ if "__slots__" in vars(base)]
    return tuple(
        name for base in slotted for name, member in base.items() if isinstance(member, types.MemberDescriptorType)
    )


@functools.cache
def _shared(kind: type) -> tuple[str, ...]:
    """Names of the arrays of a class that its objects share."""
    arrays = [
        name for base in kind.__mro__ for name, held in vars(base).items() if isinstance(held, np.ndarray | jax.Array)
    ]
    return tuple(sorted(set(arrays)))


def attributes_of(owner: Any) -> dict[str, Any]:
    """Collect what an object holds in slots and in its dictionary, and arrays of its class that no attribute hides."""
    shared = {name: getattr(type(owner), name) for name in _shared(type(owner))}
    slots = {name: getattr(owner, name) for name in slots_of(type(owner)) if hasattr(owner, name)}
    return {**shared, **slots, **getattr(owner, "__dict__", {})}


def with_attributes(owner: Any, changes: dict[Any, Any]) -> Any:
    """A shallow copy of a plain object with some attributes changed."""
    try:
        other = object.__new__(_open(type(owner)))
    except TypeError:  # a type of Python's own
        other = copy.copy(owner)
    slots = slots_of(type(owner))
    for name, value in {**attributes_of(owner), **{str(name): value for name, value in changes.items()}}.items():
        if name in slots:
            object.__setattr__(other, name, value)
        else:
            other.__dict__[name] = value
    other.__dict__[ORIGIN] = origin_of(owner)
    return other


@functools.cache
def _open(kind: type) -> type:
    """The class, or one of the same name with room for an origin beside its slots."""
    if kind.__dictoffset__:
        return kind
    return type(kind.__name__, (kind,), {"__qualname__": kind.__qualname__, "__module__": kind.__module__})


def may_hold(leaf: Any) -> bool:
    """Whether a captured thing is looked into: functions, methods, partials, objects of a user's."""
    if isinstance(leaf, types.FunctionType):
        return not in_library(leaf) or leaf.__closure__ is not None
    if isinstance(leaf, (types.MethodType, functools.partial, *WRAPPERS)):
        return True
    return has_parts(leaf) and (callable(leaf) or _is_users(type(leaf)))


def in_library(function: types.FunctionType) -> bool:
    """Whether a function is written in one of the libraries; wrappers take the name of what they wrap."""
    name = str(function.__globals__.get("__name__"))
    # An example in a docstring has the name of its module, but not its names.
    real = getattr(sys.modules.get(name), "__dict__", None) is function.__globals__
    return real and _package(name) in LIBRARIES


def _is_users(kind: type) -> bool:
    """Whether a class is a user's own, or a bag of settings."""
    module = kind.__module__
    package = _package(module)
    return module in SETTINGS or not (package in LIBRARIES or package in sys.stdlib_module_names)


def _package(module: str) -> str:
    return module.partition(".")[0]


def names_for(function: Any, names: Names) -> Names:
    """Names by which a callable, reached by code that uses `names`, may look at what it holds."""
    if isinstance(function, types.FunctionType):
        return names_of(function.__code__)
    if isinstance(function, types.MethodType):
        return names_of_methods(type(function.__self__), Names(frozenset({function.__name__}), frozenset()))
    if isinstance(function, (functools.partial, *WRAPPERS)):
        return names
    return names_of_methods(type(function), Names(names.read | _operators(type(function)), names.stored))


@functools.cache
def _operators(kind: type) -> frozenset[str]:
    """Special methods of a class that code calls without naming them."""
    found = {name for base in kind.__mro__[:-1] for name in vars(base) if name.startswith("__")}
    return frozenset(found) - BUILDERS


def whole(owner: Any) -> Names:
    """Names by which the public methods of an object may look at it."""
    methods = {name for name in dir(type(owner)) if not name.startswith("__")}
    return Names(frozenset(methods | DYNAMIC), frozenset())


def parts(function: Any, names: Names) -> Iterator[tuple[Any, Any, bool]]:
    """Places of a callable or plain object that may hold arrays: what they hold, and whether a change must be seen."""
    if isinstance(function, types.FunctionType):
        yield from _parts_of_function(function, names)
    elif isinstance(function, types.MethodType):
        yield "function", function.__func__, True
        if has_parts(function.__self__):
            yield from _attributes(function.__self__, names, everything=True)
        else:
            yield "self", function.__self__, True
    elif isinstance(function, functools.partial):
        yield "function", function.func, True
        yield from ((("argument", i), value, True) for i, value in enumerate(function.args))
        yield from ((("keyword", name), value, True) for name, value in function.keywords.items())
    elif isinstance(function, WRAPPERS):
        inner = getattr(function, "__wrapped__", None)
        yield from parts(inner, names_for(inner, names))
    elif has_parts(function):
        yield from _attributes(function, names, everything=callable(function) or bool(names.read & DYNAMIC))


def _parts_of_function(function, names):
    """Cells, defaults and names of the module; a function that calls itself is no part of itself."""
    other = lambda name, value: name not in names.stored and origin_of(value) is not origin_of(function)
    for i, name in enumerate(function.__code__.co_freevars):
        value = content((function.__closure__ or ())[i])
        if other(name, value):
            yield ("cell", i), value, True
    for i, value in enumerate(function.__defaults__ or ()):
        yield ("default", i), value, True
    for name, value in (function.__kwdefaults__ or {}).items():
        yield ("keyword", name), value, True
    if in_library(function):
        return
    for name in sorted(names.read & function.__globals__.keys()):
        value = function.__globals__[name]
        if other(name, value) and not isinstance(value, types.ModuleType | type):
            yield ("global", name), value, True


def _attributes(owner, names, *, everything):
    """Attributes of a plain object; numbers that its own code counts up are its own business."""
    for name, value in sorted(attributes_of(owner).items()):
        if name != ORIGIN and (everything or name in names.read):
            seen = name in names.read and name not in names.stored
            yield Attribute(name), value, seen or type(value) in (float, bool, str)


def of_classes(function: Any, names: Names) -> Iterator[tuple[str, Any]]:
    """Numbers and arrays of the classes that code reads by their names: constants, of which a change must be seen."""
    found: list[Any] = []
    if isinstance(function, types.FunctionType) and not in_library(function):
        found = [content(cell) for cell in function.__closure__ or ()]
        found += [function.__globals__[name] for name in sorted(names.read & function.__globals__.keys())]
    elif isinstance(function, types.MethodType) and isinstance(function.__self__, type):
        found = [function.__self__]
    elif names.read & {"type", "__class__"}:
        found = [type(getattr(function, "__self__", function))]
    done: set[type] = set()
    for kind in found:
        if isinstance(kind, type):
            yield from _of_class(kind, names, done)


def _of_class(kind, names, done):
    if kind in done or not _is_users(kind):
        return
    done.add(kind)
    names = names_of_methods(kind, names)
    for base in kind.__mro__[:-1]:
        for name in sorted((names.read - names.stored) & vars(base).keys()):
            value = vars(base)[name]
            if isinstance(value, type):
                yield from _of_class(value, names, done)
            elif isinstance(value, CONSTANTS):
                yield f"{base.__qualname__}.{name}", value


def content(cell: Any) -> Any:
    """Return what a cell holds, or None while it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:  # a name that is assigned later
        return None
