"""The products of a network with its weights, found in its program: what quantisation looks at and replaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp

from jsamp._core._mesh import vary

CONSTANT, WEIGHT, DATA = 0, 1, 2
"""What a value of the program depends on: nothing, the network's arrays, the input."""
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2")


class Product(NamedTuple):
    """Hold one product of the data with weights: both arrays, and the axes of the weights that it sums over."""

    data: Any
    weight: Any
    summed: tuple[int, ...]
    data_summed: tuple[int, ...] | None


def visit(
    model: Any, x: Any, t: Any, conditions: dict[str, Any], change: Callable[[int, Product], Any], *, by: Any = None
) -> Any:
    """Call a network, asking `change(i, product)` for what each product multiplies instead: (data, weight).

    What `change` is made of is given as `by`: on a mesh the whole program varies over the axes that it varies over.
    """
    model, x, t, conditions = vary((model, x, t, conditions), model, x, t, conditions, by)
    leaves, structure = jax.tree.flatten(model)
    inputs, inner = jax.tree.flatten((x, t, conditions))
    shapes = []

    def call(leaves, inputs):
        x, t, conditions = jax.tree.unflatten(inner, inputs)
        out, tree = jax.tree.flatten(jax.tree.unflatten(structure, leaves)(x, t, **conditions))
        shapes.append(tree)
        return out

    program = jax.make_jaxpr(call)(leaves, inputs)
    values = [(jnp.asarray(v), WEIGHT) for v in leaves] + [(jnp.asarray(v), DATA) for v in inputs]
    found = _evaluate(program.jaxpr, [(c, CONSTANT) for c in program.consts], values, change, [])
    return jax.tree.unflatten(shapes[0], [value for value, _ in found])


def _evaluate(program, consts, args, change, seen):
    """Evaluate a program on pairs (value, kind); `seen` counts the products."""
    values: dict[Any, Any] = dict(zip((*program.constvars, *program.invars), (*consts, *args), strict=True))
    read = lambda v: (v.val, CONSTANT) if isinstance(v, jax.extend.core.Literal) else values[v]
    for equation in program.eqns:
        inputs = [read(v) for v in equation.invars]
        inner = _inner(equation)
        if inner is not None and _has_product(inner[0]):
            outputs = _evaluate(inner[0], [(c, CONSTANT) for c in inner[1]], inputs, change, seen)
        else:
            arrays = [value for value, _ in inputs]
            product = _product(equation, inputs)
            if product is not None:
                seen.append(1)
                data, weight = change(len(seen) - 1, product)
                data, weight = vary((data, weight), product.data, product.weight)
                arrays = [data, weight] if inputs[0][1] == DATA else [weight, data]
            made = _bind(equation, arrays)
            kind = max((kind for _, kind in inputs), default=CONSTANT)
            outputs = [(v, kind) for v in (made if equation.primitive.multiple_results else [made])]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in program.outvars]


def _bind(equation, arrays):
    """Apply the operation of an equation; releases of JAX differ in how they hand its functions over."""
    options = equation.primitive.get_bind_params(equation.params)
    functions, options = options if isinstance(options, tuple) else ((), options)
    with equation.ctx.manager:
        return equation.primitive.bind(*functions, *arrays, **options)


def _inner(equation):
    """The program that an equation calls once, with its constants, or None."""
    if equation.primitive.name not in INLINED:
        return None
    for name in INNER:
        found = equation.params.get(name)
        if isinstance(found, jax.extend.core.ClosedJaxpr):
            return found.jaxpr, found.consts
        if isinstance(found, jax.extend.core.Jaxpr):
            return found, ()
    return None


def _has_product(program):
    for equation in program.eqns:
        inner = _inner(equation)
        if equation.primitive.name in ("dot_general", "conv_general_dilated") or (inner and _has_product(inner[0])):
            return True
    return False


def _product(equation, inputs):
    """The product of data and weights that an equation is, or None."""
    name = equation.primitive.name
    if name not in ("dot_general", "conv_general_dilated") or {kind for _, kind in inputs} != {WEIGHT, DATA}:
        return None
    place = 0 if inputs[0][1] == WEIGHT else 1
    weight, data = inputs[place][0], inputs[1 - place][0]
    if name == "conv_general_dilated":
        out = equation.params["dimension_numbers"].rhs_spec[0]
        return Product(data, weight, tuple(a for a in range(weight.ndim) if a != out), None) if place else None
    (summed, batched) = equation.params["dimension_numbers"]
    plain = len(summed[0]) == 1 and not batched[0] and weight.ndim == 2
    return Product(data, weight, tuple(summed[place]), tuple(summed[1 - place]) if plain else None)


def rows(product: Product) -> Any:
    """The data as rows [n, k] of what each output sums over; None for a product that is no plain matrix product."""
    if product.data_summed is None:
        return None
    moved = jnp.moveaxis(product.data, product.data_summed[0], -1)
    return moved.reshape(-1, moved.shape[-1])


def summed_axes(model: Any, x: Any, t: Any, conditions: dict[str, Any]) -> list[tuple[int, ...]]:
    """The axes of the weights that every product sums over."""
    found = []

    def note(i, product):
        found.append(product.summed)
        return product.data, product.weight

    jax.eval_shape(lambda model, *rest: visit(model, *rest, note), model, x, t, conditions)  # pyright: ignore
    return found
