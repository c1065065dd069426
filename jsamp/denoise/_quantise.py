"""Post-training quantisation of a denoiser: ranges along its own trajectories, then a denoiser of few levels."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree, replace
from jsamp._core._runner import run
from jsamp._core._types import Array, Key, Scalar, Tree
from jsamp.denoise import _fields
from jsamp.denoise import _quantise_products as products
from jsamp.denoise import _quantise_rounding as rounding
from jsamp.denoise._denoiser import Denoiser
from jsamp.denoise._protocol import Guided, Wrapper

KNOWN = _fields.finite("Take ranges from js.denoise.calibrate.")


@pytree
class Normal:
    """Weigh calibration times by N(mean, std^2) of the share of steps still to go, 0 at the image and 1 at the noise.

    Args:
        mean: centre.
        std: spread > 0.

    Raises:
        ValueError: for a spread that is not positive.

    Example:
        >>> import jsamp as js
        >>> round(float(js.denoise.Normal(0.5, 0.5)(1.0)), 3)
        0.607

    Cost:
        None.
    """

    mean: Scalar = field(default=0.5, check=_fields.number())
    std: Scalar = field(default=0.35, check=_fields.number(0, open_low=True))

    def __call__(self, share):
        """The density, up to a constant."""
        return jnp.exp(-(((share - self.mean) / self.std) ** 2) / 2)


@pytree
class Ranges:
    """Hold what calibration found, for each product of the network with its weights, in the order of its program.

    Args:
        low: [products, windows] least value of the data that has a level of its own.
        high: [products, windows] largest one.
        data_levels: [products] number of steps between them, 2^bits - 1.
        weight_levels: [products] levels of the weights on either side of 0, 2^(bits - 1) - 1.
        times: [rows] times of the calibration, as the network takes them.
        window: [rows] the window of each.
        x: zeros of the shapes that the network takes.
        grams: for each product the second moment E x x^T [k, k] of its data, in units of their widest range, or None
            where it is no matrix product.

    Example:
        >>> import jsamp as js
        >>> js.denoise.Ranges([[0.0]], [[1.0]], [255.0], [127.0], [0.5], [0], 0.0, (None,)).high
        [[1.0]]

    Cost:
        k^2 numbers for each matrix product.
    """

    low: Array = field(check=KNOWN)
    high: Array = field(check=KNOWN)
    data_levels: Array = field(check=KNOWN)
    weight_levels: Array = field(check=KNOWN)
    times: Array = field(check=KNOWN)
    window: Array = field(check=KNOWN)
    x: Tree = field(check=KNOWN)
    grams: tuple = field(check=KNOWN)


@pytree
class _Tap(Wrapper):
    """A denoiser whose predictions bring along what it was asked."""

    denoiser: Any

    def __call__(self, x, t, *, key=None):
        """Predict, and hand x back."""
        found = self.denoiser(x, t, key=key)
        return Guided(found.x0, found.eps, aux=x)


@pytree
class _Quantised:
    """A network whose products with weights see few levels: of weights by channel, of data by tensor and time."""

    model: Any
    weights: tuple
    steps: tuple
    ranges: Ranges

    def __call__(self, x, t, **conditions):
        """The network's output."""
        at, found = jnp.ravel(jnp.asarray(t, jnp.float32)), self.ranges
        nearest = jnp.argmin(jnp.abs(jnp.asarray(found.times) - at[:1]))
        window = jnp.asarray(found.window)[nearest]

        def change(i, product):
            low, high = (jnp.asarray(side)[i, window] for side in (found.low, found.high))
            data = rounding.affine(product.data, low, high, jnp.asarray(found.data_levels)[i])
            return data.astype(product.data.dtype), (self.weights[i] * self.steps[i]).astype(product.weight.dtype)

        return products.visit(self.model, x, t, conditions, change, by=self)


def calibrate(
    key: Key | None,
    denoiser: Denoiser,
    plan: Any,
    x: Tree,
    *,
    law: Any = None,
    bits: Any = 8,
    ends: Any = 8,
    windows: int = 1,
) -> Ranges:
    """Find ranges for quantisation along the sampler's own trajectory, the rows of a plan weighted by a law of times.

    The plan runs from x. What every product of the network with its weights multiplies on every row is seen at the
    row's true time; among 40 shrunken ranges the one with the least mean |x - rounded x|^2.4 is kept, the mean taken
    over rows by `law`. No hook in the network is needed: products are found in its program, through `jax.jit` and
    `jax.checkpoint`; those inside loops are left as they are.

    What differs from the paper: rows are weighted by the density of the law, in place of drawing one row for each
    sample (less noise, the same mean); its released code labels the image of step k from the noise with time k, which
    mirrors the times, and is not repeated.

    Args:
        key: one key for a plan that draws, or None.
        denoiser: a `js.Denoiser`.
        plan: the solver that will run.
        x: starts at the plan's first time, as the denoiser takes them (its conditions must fit).
        law: maps [rows] shares of steps to go (0 at the image, 1 at the noise) to weights: `js.denoise.Normal`, any
            function, or None for equal weights.
        bits: levels 2^bits of weights and data, 2 to 8: a number, or a pair (weights, data). Traced.
        ends: bits of the first and the last product, or None for those of the others.
        windows: groups of successive rows with ranges of their own (static).

    Returns:
        `Ranges`.

    Raises:
        TypeError: for something that is not a `js.Denoiser`, or starts in half precision.
        ValueError: for bits outside 2..8, more windows than rows, a network without such products, a law that gives no
            row of a window any weight, or values that are not finite.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule, w = js.noise.VP(), jnp.eye(2) / 3
        >>> denoiser = js.Denoiser(lambda x, t: x @ w, schedule, predicts="x0")
        >>> plan = js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 4))
        >>> ranges = js.denoise.calibrate(None, denoiser, plan, jax.random.normal(jax.random.key(0), (16, 2)))
        >>> ranges.low.shape
        (1, 1)

    Cost:
        The plan, two more network calls a row, and 40 roundings of everything that is multiplied.

    References:
        Shang, Yuan, Xie, Wu and Yan, "Post-training Quantization on Diffusion Models", 2023, arXiv:2211.15736.
    """
    model = _network("calibrate", denoiser)
    _checks.check_floating("calibrate: x", x)
    if any(jnp.finfo(jnp.result_type(leaf)).bits < 32 for leaf in jax.tree.leaves(x)):
        raise TypeError("calibrate: x must be float32: half precision has few levels of its own. Cast it.")
    num = plan.nfe if hasattr(plan, "nfe") else 0
    windows = _checks.check_count("calibrate: windows", windows, high=max(num, 1))
    asked = run(key, _Tap(denoiser), x, plan, keep=lambda x, prediction: prediction.aux).info.kept
    times = jax.vmap(lambda t: _time(denoiser, t))(jnp.asarray(plan.t, jnp.float32))
    conditions = {**denoiser.conditions, **dict(denoiser.options)}
    num_products = len(products.summed_axes(model, x, times[0], conditions))
    if not num_products:
        raise ValueError("calibrate: the network multiplies nothing by its weights outside of loops; nothing to round.")
    window = np.arange(num) * windows // num
    weight = _law_weights(law, num, window)
    weight_levels, data_levels = _levels(bits, ends, num_products)
    low, high, grams = _seen(model, asked, times, conditions, weight, jnp.asarray(window), data_levels, windows=windows)
    if not _checks.is_traced(low) and not np.isfinite([low, high]).all():
        raise ValueError("calibrate: the network's values are not finite on this trajectory.")
    return Ranges(
        low, high, data_levels, weight_levels, times, jnp.asarray(window), jax.tree.map(jnp.zeros_like, x), grams
    )


def _network(who, denoiser):
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"{who}: denoiser must be a js.Denoiser, whose network is quantised, got {type(denoiser).__name__}. Put "
            f"guidance around the quantised one."
        )
    return denoiser.model


def _time(denoiser, t):
    return t if denoiser.time_map is None else jnp.asarray(denoiser.time_map(t), jnp.float32)


def _law_weights(law, num, window):
    """[rows] weights of the rows, summing to 1 in each window."""
    share = 1 - jnp.arange(num, dtype=jnp.float32) / max(num - 1, 1)
    weight = jnp.ones(num, jnp.float32) if law is None else jnp.asarray(law(share), jnp.float32)
    if weight.shape != (num,):
        raise ValueError(f"calibrate: law must map [{num}] shares to as many weights, got shape {weight.shape}.")
    total = jax.ops.segment_sum(weight, window, int(window.max()) + 1)
    if not _checks.is_traced(weight) and not (np.isfinite(weight).all() and (weight >= 0).all() and (total > 0).all()):
        raise ValueError(f"calibrate: law must give weights >= 0, some above 0 in every window; got {weight}.")
    return weight / total[window]


def _levels(bits, ends, num):
    """[products] levels of the weights on either side of 0, and steps of the data."""
    pair = bits if isinstance(bits, tuple) else (bits, bits)
    if len(pair) != 2:
        raise ValueError(f"calibrate: bits must be a number or a pair (weights, data), got {_checks.shown(bits)}.")
    made = []
    for one in pair:
        _checks.check_scalar("calibrate: bits", one, low=2, high=8)
        outer = one if ends is None else ends
        _checks.check_scalar("calibrate: ends", outer, low=2, high=8)
        edge = np.isin(np.arange(num), (0, num - 1))
        made.append(jnp.where(edge, jnp.asarray(outer, jnp.float32), jnp.asarray(one, jnp.float32)))
    return jnp.round(2 ** (made[0] - 1)) - 1, jnp.round(2 ** made[1]) - 1


@functools.partial(jax.jit, static_argnames=("windows",))
def _seen(model, asked, times, conditions, weight, window, levels, *, windows):
    """Ranges [products, windows] that lose least, and the second moments."""

    def look(use):
        def row(item):
            found = []

            def note(i, product):
                found.append(use(i, product, item))
                return product.data, product.weight

            products.visit(model, item[0], item[1], conditions, note)
            return tuple(found)

        return row

    extent = lambda i, product, item: (jnp.minimum(jnp.min(product.data), 0), jnp.maximum(jnp.max(product.data), 0))
    seen = jax.lax.map(look(extent), (asked, times))
    counted = weight > 1e-3 * jax.ops.segment_max(weight, window, windows)[window]
    low = jnp.stack([jax.ops.segment_min(jnp.where(counted, a, 0), window, windows) for a, _ in seen])
    high = jnp.stack([jax.ops.segment_max(jnp.where(counted, b, 0), window, windows) for _, b in seen])

    def judge(i, product, item):
        place = item[3]
        loss = rounding.losses(product.data, low[i, place], high[i, place], levels[i])
        rows = products.rows(product)
        rows = None if rows is None else rows / rounding.positive(jnp.max(high[i] - low[i]))
        moment = None if rows is None else jnp.matmul(rows.T, rows, precision="highest") / rows.shape[0]
        return loss, moment

    def add(carry, item):
        found = look(judge)(item)
        scaled = jax.tree.map(lambda a: item[2] * a, found)
        losses = (
            jnp.zeros((windows, len(found), rounding.CANDIDATES)).at[item[3]].set(jnp.stack([a for a, _ in scaled]))
        )
        new = losses, tuple(b for _, b in scaled)
        return jax.tree.map(lambda a, b: (a + b).astype(a.dtype), carry, new), None

    items = (asked, times, weight, window)
    first = jax.tree.map(lambda a: a[0], items)
    like = jax.eval_shape(lambda item: look(judge)(item), first)
    carry = (
        jnp.zeros((windows, len(like), rounding.CANDIDATES), like[0][0].dtype),
        tuple(None if b is None else jnp.zeros(b.shape, b.dtype) for _, b in like),
    )
    (loss, grams), _ = jax.lax.scan(add, vary(carry, model, conditions, items, levels), items)
    shrink = rounding.shrunken()[jnp.argmin(loss, -1)].T
    return low * shrink, high * shrink, grams


def quantise(model: Denoiser, ranges: Ranges, *, reconstruct: bool = True) -> Denoiser:
    """Quantise a denoiser's network: weights by output channel, what they multiply by tensor and window of time.

    Weights become integers of a symmetric grid, of the step that loses least in each channel. With `reconstruct` they
    are not rounded to nearest but so that the products keep their values: the loss of AdaRound, E |x (W' - W)|^2 over
    the calibration, is descended one integer at a time, each set to its best given the others. That needs no learning
    rate, cannot raise the loss, and takes the second moments alone, which `calibrate` kept. Convolutions are rounded to
    nearest.

    This simulates the levels in floating point: it tells what a bit costs, and is no faster. The output of the network
    and everything between products stay as they are.

    Args:
        model: the `js.Denoiser` that was calibrated, or one of the same network with other weights or conditions.
        ranges: from `calibrate`.
        reconstruct: round so that the products keep their values (static).

    Returns:
        A `js.Denoiser`; its integers, steps, ranges and levels are leaves, so other bits run the same program.

    Raises:
        TypeError: for something that is not a `js.Denoiser`, or ranges that are none.
        ValueError: for ranges of another network.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule, w = js.noise.VP(), jnp.eye(2) / 3
        >>> denoiser = js.Denoiser(lambda x, t: x @ w, schedule, predicts="x0")
        >>> plan = js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 4))
        >>> x = jax.random.normal(jax.random.key(0), (16, 2))
        >>> small = js.denoise.quantise(denoiser, js.denoise.calibrate(None, denoiser, plan, x, bits=8))
        >>> bool(jnp.max(jnp.abs(small(x, 0.5).x0 - denoiser(x, 0.5).x0)) < 0.02)
        True

    Cost:
        4 k passes over each [k, n] weight; a call rounds what every product multiplies.

    References:
        Nagel, Amjad, van Baalen, Louizos and Blankevoort, "Up or Down? Adaptive Rounding for Post-Training
        Quantization", 2020, arXiv:2004.10568.
    """
    network = _network("quantise", model)
    if not isinstance(ranges, Ranges):
        raise TypeError(f"quantise: ranges must be from js.denoise.calibrate, got {type(ranges).__name__}.")
    reconstruct = _checks.check_flag("quantise: reconstruct", reconstruct)
    conditions = {**model.conditions, **dict(model.options)}
    summed = products.summed_axes(network, ranges.x, ranges.times[0], conditions)
    if len(summed) != np.shape(ranges.low)[0]:
        raise ValueError(f"quantise: ranges are of {np.shape(ranges.low)[0]} products, the network has {len(summed)}.")
    weights, rounded = _weights(network, ranges.x, ranges.times[0], conditions), []
    for i, (weight, axes, gram) in enumerate(zip(weights, summed, ranges.grams, strict=True)):
        if gram is not None and len(axes) == 1 and gram.shape[0] != weight.shape[axes[0]]:
            raise ValueError(f"quantise: ranges are of another network: product {i} sums over {gram.shape[0]} numbers.")
        options = {"summed": axes, "reconstruct": reconstruct and gram is not None}
        rounded.append(rounding.round_weight(weight, gram, jnp.asarray(ranges.weight_levels)[i], **options))
    whole, steps = zip(*rounded, strict=True)
    small = replace(ranges, grams=(None,) * len(summed))
    return replace(model, model=_Quantised(network, whole, steps, small))


@jax.jit
def _weights(model, x, t, conditions):
    found = []

    def note(i, product):
        found.append(product.weight.astype(jnp.float32))
        return product.data, product.weight

    products.visit(model, x, t, conditions, note)
    return found
