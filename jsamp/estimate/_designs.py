"""Point sets that fill the unit cube: Sobol', Latin hypercube, Halton."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._types import Key
from jsamp.estimate._variance import open_uniform

BITS = 32


@functools.cache
def _directions(dim: int, bits: int) -> np.ndarray:
    """Direction numbers [bits, dim], uint32, read off scipy's own points.

    In Gray code order point 2^c and point 2^c - 1 differ by direction number c alone.
    """
    try:
        from scipy.stats import qmc
    except ImportError:
        raise ImportError("sobol_points takes direction numbers from scipy. Install it: pip install scipy.") from None
    engine, at, found = qmc.Sobol(dim, scramble=False, bits=BITS), 0, []
    for c in range(bits):
        if 2**c - 1 > at:
            engine.fast_forward(2**c - 1 - at)
        pair = (engine.random(2) * 2.0**BITS).astype(np.uint64).astype(np.uint32)
        found.append(pair[0] ^ pair[1])
        at = 2**c + 1
        if at > 2 ** (c + 1) - 1:
            engine.reset()
            at = 0
    return np.stack(found)


@functools.partial(jax.jit, static_argnames="num")
def _sobol(directions, shift, start, num):
    index = start + jnp.arange(num, dtype=jnp.uint32)
    gray = index ^ (index >> 1)

    def add(c, words):
        on = ((gray >> jnp.uint32(c)) & 1).astype(bool)
        return jnp.where(on[:, None], words ^ directions[c][None], words)

    words = jax.lax.fori_loop(0, directions.shape[0], add, jnp.broadcast_to(shift, (num, directions.shape[1])))
    return ((words >> 8).astype(jnp.float32) + 0.5) * np.float32(2.0**-24)


@jax.jit
def _scrambled(key, directions):
    """Direction numbers times a random lower triangular binary matrix for each coordinate, and a digital shift."""
    first, second = jax.random.split(key)
    dim = directions.shape[1]
    place = jnp.arange(BITS, dtype=jnp.uint32)
    own = jnp.uint32(1) << (BITS - 1 - place)
    above = ~((own << 1) - 1)
    rows = (jax.random.bits(first, (BITS, dim), jnp.uint32) & above[:, None]) | own[:, None]

    parity = jax.lax.population_count(directions[None] & rows[:, None]) & 1
    words = jnp.sum(parity << (BITS - 1 - place)[:, None, None], 0, dtype=jnp.uint32)
    return words, jax.random.bits(second, (dim,), jnp.uint32)


def sobol_points(dim: int, num: int, *, key: Key | None = None, start: int = 0) -> jax.Array:
    """Make points of a Sobol' sequence, scrambled by a key or as they are.

    Point i is the exclusive or of the direction numbers at the bits of its Gray code, so any stretch can be made by
    itself. The scramble is a random lower triangular binary matrix and a digital shift for each coordinate: every point
    is uniform, and means over num = 2^k points of smooth functions err by about num^-1.5. The midpoint of each of the
    2^24 float cells is returned, never 0 or 1. Take powers of two, and begin at 0: other stretches lose the balance.

    Args:
        dim: coordinates (static), at most 21,201.
        num: points (static).
        key: one key to scramble by; None gives the plain sequence, whose first point is the corner 0.
        start: index of the first point.

    Returns:
        float32 [num, dim] in (0, 1).

    Raises:
        ValueError: for counts out of range, or a stretch that ends beyond point 2^30.
        ImportError: without scipy, which holds the direction numbers (Joe and Kuo).

    Example:
        >>> import jax, jsamp as js
        >>> [[round(v, 3) for v in row] for row in js.estimate.sobol_points(2, 4).tolist()]
        [[0.0, 0.0], [0.5, 0.5], [0.75, 0.25], [0.25, 0.75]]
        >>> bool(abs(js.estimate.sobol_points(3, 256, key=jax.random.key(0)).mean() - 0.5) < 1e-3)
        True

    Cost:
        log2(start + num) passes over the points; the first call for a dimension asks scipy for as many points.

    References:
        Joe and Kuo, "Constructing Sobol sequences with better two-dimensional projections", 2008. Matousek, "On the L2
        discrepancy for anchored boxes", 1998.
    """
    dim = _checks.check_count("sobol_points: dim", dim, high=21_201)
    num = _checks.check_count("sobol_points: num", num)
    start = _checks.check_count("sobol_points: start", start, low=0)
    if start + num > 2**30:
        raise ValueError(f"sobol_points: points {start} to {start + num} reach beyond 2^30.")
    directions = jnp.asarray(_directions(dim, max((start + num - 1).bit_length(), 1)))
    shift = jnp.zeros(dim, jnp.uint32)
    if key is not None:
        _checks.check_key(key, "sobol_points")
        directions, shift = _scrambled(key, directions)
    return _sobol(directions, shift, jnp.uint32(start), num)


def latin_hypercube(key: Key, dim: int, num: int) -> jax.Array:
    """Draw a Latin hypercube: each coordinate has one point in each of `num` equal slices.

    The variance of a mean loses the part that is a sum of functions of one coordinate.

    Args:
        key: one key.
        dim: coordinates (static).
        num: points (static).

    Returns:
        float32 [num, dim] in (0, 1).

    Raises:
        ValueError: for counts below 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> x = js.estimate.latin_hypercube(jax.random.key(0), 2, 5)
        >>> jnp.sort(jnp.floor(5 * x), 0)[:, 0].tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]

    Cost:
        `dim` permutations.

    References:
        McKay, Beckman and Conover, "A comparison of three methods for selecting values of input variables", 1979.
    """
    _checks.check_key(key, "latin_hypercube")
    dim, num = _checks.check_count("latin_hypercube: dim", dim), _checks.check_count("latin_hypercube: num", num)
    first, second = jax.random.split(key)
    order = jax.vmap(lambda k: jax.random.permutation(k, num), out_axes=1)(jax.random.split(first, dim))
    return (order + open_uniform(second, (num, dim))) / np.float32(num)


@functools.cache
def _primes(count: int) -> tuple[int, ...]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % p for p in found if p * p <= candidate):
            found.append(candidate)
        candidate += 1
    return tuple(found)


def _digit_counts(bases: np.ndarray, last: int, scrambled: bool) -> np.ndarray:
    """How many digits index `last` has in each base; scrambled digits go on behind those, as float32 holds them."""
    counts = []
    for base in map(int, bases):
        digits = 1
        while base**digits <= max(last, 1):
            digits += 1
        counts.append(max(digits, math.ceil(24 * math.log(2) / math.log(base))) if scrambled else digits)
    return np.asarray(counts)


@functools.partial(jax.jit, static_argnames=("dim", "num", "start"))
def _halton(key, dim, num, start):
    """Digits of every index in every base, mirrored behind the point; with a key each digit's place is permuted."""
    bases = np.asarray(_primes(dim))
    counts = _digit_counts(bases, start + num - 1, key is not None)
    places, column = np.arange(counts.max())[:, None], jnp.arange(dim)[None]
    share = np.where(places < counts, bases ** -(places + 1.0), 0).astype(np.float32)
    base = jnp.asarray(bases, jnp.uint32)[None]
    if key is None:
        orders = jnp.zeros((len(places), 1, 1), jnp.float32)
    else:
        clocks = jax.random.uniform(key, (len(places), dim, bases[-1]), jnp.float32)
        inside = np.arange(bases[-1]) < bases[:, None]
        orders = jnp.argsort(jnp.where(inside, clocks, 2), -1).astype(jnp.float32)

    def add(carry, level):
        rest, total = carry
        order, share = level
        digit = (rest % base).astype(jnp.int32)
        value = digit.astype(jnp.float32) if key is None else order[column, digit]
        return (rest // base, total + value * share), None

    index = jnp.broadcast_to((start + jnp.arange(num, dtype=jnp.uint32))[:, None], (num, dim))
    (_, points), _ = jax.lax.scan(add, (index, jnp.zeros((num, dim), jnp.float32)), (orders, share[:, None]))
    return jnp.clip(points, np.float32(2.0**-25), np.float32(1 - 2.0**-24))


def halton(dim: int, num: int, *, key: Key | None = None, start: int = 0) -> jax.Array:
    """Make points of a Halton sequence: radical inverses in the first primes, with permuted digits if a key is given.

    Any number of points is as good as any other, unlike Sobol' points; plain sequences in more than about eight
    dimensions need the key, since neighbouring primes march together.

    Args:
        dim: coordinates (static), at most 100.
        num: points (static).
        key: one key that draws a permutation for every digit of every coordinate; None gives the plain sequence.
        start: index of the first point (static).

    Returns:
        float32 [num, dim] in (0, 1).

    Raises:
        ValueError: for counts out of range.

    Example:
        >>> import jsamp as js
        >>> [[round(v, 3) for v in row] for row in js.estimate.halton(2, 3, start=1).tolist()]
        [[0.5, 0.333], [0.25, 0.667], [0.75, 0.111]]

    Cost:
        log_p(start + num) passes for each prime p; with a key, 24 / log2 p.

    References:
        Halton, "On the efficiency of certain quasi-random sequences of points", 1960. Owen, "A randomized Halton
        algorithm in R", 2017, arXiv:1706.02808.
    """
    dim = _checks.check_count("halton: dim", dim, high=100)
    num = _checks.check_count("halton: num", num)
    start = _checks.check_count("halton: start", start, low=0)
    if key is not None:
        _checks.check_key(key, "halton")
    return _halton(key, dim, num, start)
