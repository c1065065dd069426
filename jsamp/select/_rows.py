"""The door of the room: what a user passes, as arrays of rows, vectors, labels and row numbers, or refused."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_scalar, is_traced, refuse_no_numbers, refuse_sparse, shown
from jsamp.select._bits import wide

HEAD = 16  # rows that are looked at before all
EXACT = {jnp.dtype(jnp.float32): 2**24, jnp.dtype(jnp.float64): 2**53}  # integers up to here have a float of their own


def as_array(name: str, value: Any) -> jax.Array:
    """Return numbers as a JAX array: data frames and lists are converted, everything that is no array is refused."""
    if not isinstance(value, jax.Array):
        value = _from_host(name, value)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise TypeError(f"{name} is a PRNG key, but numbers are wanted. Check the order of the arguments.")
    return jnp.asarray(value)


def _from_host(name: str, value: Any) -> np.ndarray:
    """The value as a numpy array of numbers that JAX can hold without loss of range."""
    refuse_sparse(name, value)
    if isinstance(value, (str, bytes, dict, set)) or value is None or callable(value):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}. Pass numbers.")
    if isinstance(value, (list, tuple)) and any(isinstance(x, jax.Array) for x in value):
        shapes = {jnp.shape(x) for x in value}
        if len(shapes) > 1:
            raise ValueError(f"{name} is a list of arrays of different shapes {sorted(shapes)}. Pass one array.")
        return jnp.stack([as_array(name, x) for x in value])  # pyright: ignore[reportReturnType]
    try:
        known = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be one array, got rows of different lengths. Pad or cut them.") from error
    refuse_no_numbers(name, known.dtype)
    if known.dtype.kind in "iu" and known.size:
        limits = np.iinfo(np.int64 if jax.config.jax_enable_x64 else np.int32)  # pyright: ignore[reportAttributeAccessIssue]
        if known.max() > limits.max and known.dtype.kind == "u" and known.dtype.itemsize <= 4:
            return known
        if known.max() > limits.max or known.min() < limits.min:
            raise ValueError(f"{name} holds integers beyond 32 bits (up to {known.max()}). Subtract an offset and "
                             f"convert to float, or enable x64.")  # fmt: skip
    return known


def as_floating(name: str, value: Any) -> jax.Array:
    """Return floating-point numbers as an array, or refuse integers and complex numbers."""
    value = as_array(name, value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point, got {value.dtype}. Convert it, for example x.astype('float32')."
        )
    return value


def as_real(name: str, value: Any) -> jax.Array:
    """Return real numbers of any dtype as a wide floating array; integers must be exact in it."""
    value = as_array(name, value)
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be real, got {value.dtype}. Pass real and imaginary parts as two columns.")
    dtype = wide(value.dtype)
    if jnp.issubdtype(value.dtype, jnp.integer) and value.dtype.itemsize > 2 and not is_traced(value) and value.size:
        known = np.asarray(value)  # numpy, since a constant inside a trace is looked at, too
        largest = max(abs(int(known.max())), abs(int(known.min())))
        if largest > EXACT[dtype]:
            raise ValueError(f"{name} holds integers up to {largest}, beyond the {EXACT[dtype]} that {dtype} holds "
                             f"exactly. Subtract an offset first.")  # fmt: skip
    return value.astype(dtype)


@jax.jit
def _finite(A):
    return jnp.sum(A * 0) == 0  # NaN for NaN and infinity; a plain sum is faster than tests of every entry


def is_bad(A: Any) -> bool:
    """Whether a concrete array holds NaN or infinity; constants of a function being traced are looked at, too."""
    if is_traced(A) or not A.is_fully_addressable:
        return False
    with jax.ensure_compile_time_eval():
        return not _finite(A)


def refuse_non_finite(name: str, A: Any, sign: Any = None) -> None:
    """Refuse rows with NaN or infinity, looked for where `sign` (scores that they would spoil) shows any."""
    if sign is not None and (is_traced(A) or not is_bad(sign)):
        return
    if is_bad(A):
        raise ValueError(f"{name} holds NaN or infinity. Clean the rows first.")
    if sign is not None:
        refuse_out_of_range(name, A.dtype, A.shape[0])


def largest_entry(dtype: Any, num: int) -> float:
    """The largest entry of `num` rows that are made white without digits lost below the smallest number."""
    return 2.0 ** (jnp.finfo(dtype).maxexp - 16) / math.sqrt(max(num, 1))


def smallest_top(dtype: Any) -> float:
    """The least that the largest of some numbers may be: processors read what is below `tiny` as 0, beside it too."""
    return float(jnp.finfo(dtype).tiny) / float(jnp.finfo(dtype).eps)


def refuse_out_of_range(name: str, dtype: Any, num: int) -> None:
    """Raise for entries beyond `largest_entry`, or columns below `smallest_top`."""
    raise ValueError(
        f"{name} holds entries that are (times the roots of their weights) beyond {largest_entry(dtype, num):.0e}, "
        f"too large for {jnp.dtype(dtype).name}, or a column of none above {smallest_top(dtype):.0e}, too small. "
        f"Divide the columns by their largest entries, in numpy: that changes no score."
    )


def top_bits(x: jax.Array, axis: int | None = None) -> jax.Array:
    """The bits of the largest |x|, as integers: they are in the order of the numbers, also where XLA reads zeros."""
    kind = jnp.dtype(f"int{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), kind) & jnp.iinfo(kind).max
    return jnp.max(bits, axis, initial=0)


def vanishing(bits: jax.Array, dtype: Any) -> jax.Array:
    """Whether the largest number, given by its bits, is neither 0 nor as large as `smallest_top`."""
    least = np.asarray(smallest_top(dtype), dtype).view(bits.dtype)
    return (bits > 0) & (bits < least)


@jax.jit
def _all_vanish(x):
    return vanishing(top_bits(x), x.dtype)


def _vanishes(x: jax.Array) -> bool:
    # One usual number among the first rows says no; to read them all takes longer than many a score does.
    part = x.addressable_data(0)
    head = np.asarray(part[:HEAD] if x.ndim else part)
    return not (np.abs(head) >= smallest_top(x.dtype)).any() and bool(_all_vanish(x))


def enlarged(x: jax.Array) -> jax.Array:
    """Concrete numbers of which only the ratios matter, by a power of two times larger where digits would be lost."""
    with jax.ensure_compile_time_eval():
        if not _vanishes(x):
            return x
    known = np.asarray(x)
    return jax.device_put(np.ldexp(known, -int(np.frexp(np.max(np.abs(known)))[1])), x.sharding)


def refuse_too_small(name: str, x: jax.Array) -> None:
    """Refuse concrete numbers that are all so small that processors lose digits of them."""
    if is_traced(x) or not x.is_fully_addressable:
        return
    with jax.ensure_compile_time_eval():
        if _vanishes(x):
            raise ValueError(f"{name} holds no number above {smallest_top(x.dtype):.0e}, too small for {x.dtype}. "
                             f"Multiply it by a number, in numpy.")  # fmt: skip


def check_matrix(name: str, A: Any, *, tall: bool = True, finite: bool = True) -> jax.Array:
    """A as a wide floating matrix with (if `finite`) finite entries and (if `tall`) no fewer rows than columns."""
    A = as_floating(name, A)
    if A.ndim != 2 or 0 in A.shape:
        raise ValueError(f"{name} must be a matrix [n, d], got shape {A.shape}. Reshape features to one axis.")
    if tall and A.shape[0] < A.shape[1]:
        raise ValueError(f"{name} has fewer rows than columns {A.shape}, so every row is essential. Pass ridge > 0.")
    A = A.astype(wide(A.dtype))
    if finite:
        refuse_non_finite(name, A)
        refuse_too_small(name, A)
    return A


def check_vector(name: str, value: Any, num: int | None = None, *, low: float | None = None) -> jax.Array:
    """A wide floating vector [num] with finite entries, and none below `low`."""
    value = as_real(name, value)
    if value.ndim != 1 or (num is not None and value.shape[0] != num):
        wanted = "a vector" if num is None else f"a vector of shape ({num},)"
        raise ValueError(f"{name} must be {wanted}, got shape {value.shape}. Pass one number per row.")
    if not is_traced(value) and value.is_fully_addressable:
        with jax.ensure_compile_time_eval():
            fine = jnp.all(jnp.isfinite(value) & (value >= (-jnp.inf if low is None else low)))
            if not bool(fine):
                raise ValueError(f"{name} must be finite{'' if low is None else f' and >= {low:g}'} in every row.")
        refuse_too_small(name, value)
    return value


def check_weights(weights: Any, n: int, who: str) -> jax.Array | None:
    """Row weights as a vector [n], refused when negative, all zero, or too large to be added up and divided by."""
    if weights is None:
        return None
    weights = check_vector(f"{who}: weights", weights, n, low=0)
    if not is_traced(weights) and weights.is_fully_addressable:
        with jax.ensure_compile_time_eval():
            if not bool(jnp.any(weights > 0)):
                raise ValueError(f"{who}: weights are all 0, so no row counts. Leave weights out, or make some > 0.")
            if not bool(jnp.isfinite(4 * jnp.sum(weights))):
                raise ValueError(f"{who}: weights up to {float(jnp.max(weights)):.3g} are too large to be added up in "
                                 f"{weights.dtype}. Divide them by the largest.")  # fmt: skip
    return weights


def over_largest(weights: jax.Array, axis_name: Any) -> jax.Array:
    """Row weights over the largest of all shards, where only their ratios matter."""
    top = jax.lax.stop_gradient(jnp.max(weights))
    return weights / (top if axis_name is None else jax.lax.pmax(top, axis_name))


def check_labels(name: str, value: Any, num: int, n: int | None = None) -> jax.Array:
    """Integers [n] in 0..num-1: the stratum, class or group of every row."""
    value = as_array(name, value)
    if value.ndim != 1 or not jnp.issubdtype(value.dtype, jnp.integer) or (n is not None and value.shape[0] != n):
        rows = "n" if n is None else n
        raise ValueError(f"{name} must be integers [{rows}], one per row, got {value.dtype}{list(value.shape)}. "
                         f"Use jnp.argmax for one-hot labels.")  # fmt: skip
    _refuse_outside(name, value, num)
    return value


def check_row_numbers(name: str, value: Any, n: int) -> jax.Array:
    """Distinct row numbers in 0..n-1, as int32 [m]; a mask, or a label per row, is refused."""
    value = as_array(name, value)
    if value.ndim != 1 or not jnp.issubdtype(value.dtype, jnp.integer):
        raise ValueError(f"{name} must be row numbers [m], got {value.dtype}{list(value.shape)}. "
                         f"Pass np.flatnonzero(y == label), not a mask.")  # fmt: skip
    _refuse_outside(name, value, n)
    if not is_traced(value) and value.shape[0] > 1 and len(np.unique(np.asarray(value))) < value.shape[0]:
        raise ValueError(f"{name} repeats row numbers (labels for rows?). Pass np.flatnonzero(y == label).")
    return value.astype(jnp.int32)


def _refuse_outside(name: str, value: jax.Array, num: int) -> None:
    if is_traced(value) or value.shape[0] == 0:
        return
    known = np.asarray(value)
    if known.min() < 0 or known.max() >= num:
        raise ValueError(f"{name} must lie in 0..{num - 1}, got {known.min()}..{known.max()}. Count from 0.")


def as_scalar(name: str, value: Any, **limits: Any) -> Any:
    """One number within limits, as a float that a compiled function takes whatever its size was as an int."""
    check_scalar(name, value, **limits)
    return value if isinstance(value, jax.Array) else float(value)


def check_axis(axis_name: Any, who: str) -> None:
    """Refuse a mesh axis that is not the name of one around this call."""
    if axis_name is None:
        return
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{who}: axis_name must be the name of a mesh axis, got {shown(axis_name)}.")
    try:
        jax.lax.axis_size(axis_name)
    except NameError as error:
        raise ValueError(f"{who}: there is no mesh axis {axis_name!r} here. Call it inside jax.shard_map.") from error


def power_of_two(x: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """A power of two near 1 / max |x|: times it, x has harmless squares and all its digits.

    With an axis one for what lies along it, of size 1 there: axis 0 for every column, 1 for every row.
    """
    return inverse_power(jnp.max(jnp.abs(x), axis, keepdims=axis is not None))


def inverse_power(top: jax.Array) -> jax.Array:
    """The power of two near 1 / top; 1 where top is 0 or not finite."""
    top = jax.lax.stop_gradient(top)
    safe = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    limit = jnp.finfo(top.dtype).maxexp - 4
    return jnp.ldexp(jnp.ones_like(safe), jnp.where(safe == top, jnp.clip(-jnp.frexp(safe)[1], -limit, limit), 0))
