"""Clusters of treatment effects in a randomised trial, told by images or covariates."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_flag, check_key, check_on_host, check_rows
from jsamp._core._pytree import field, put, pytree
from jsamp._core._types import Array, Key, Model, Result
from jsamp.estimate import Estimate
from jsamp.fit._effect_errors import columns, effect_errors, in_columns
from jsamp.fit._minimise import minimise
from jsamp.fit._mixture import numbers
from jsamp.select._rows import as_floating, as_real, check_vector, refuse_non_finite
from jsamp.select._whiten import map_rows, matmul

LEAST = 0.01  # standard deviation of an outcome, in units of all outcomes


@pytree
class EffectMixture:
    """Hold what `effect_mixture` fitted: how an image tells the cluster of a unit, and what a cluster does.

    With features h = encoder(image), a unit is of cluster k with probability softmax(h gate + gate_offset)_k; without
    treatment its outcome is normal about h baseline + baseline_offset, with treatment `effect[k]` higher.

    Args:
        encoder: callable tree, image -> features [h].
        baseline: [h].
        baseline_offset: number.
        gate: [h, K], zeros in the first column.
        gate_offset: [K], zero first.
        effect: [K], rising.
        spread: [2, K], standard deviations of the outcome without and with treatment.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> gate = jnp.array([[0.0, 2.0]])
        >>> two = js.fit.EffectMixture(
        ...     lambda x: x, jnp.zeros(1), 0.0, gate, jnp.zeros(2), jnp.array([0.0, 1.0]), jnp.ones((2, 2)))
        >>> x = jnp.array([0.0])
        >>> two(x).tolist(), float(two.individual(x)), two.salience(x).tolist()
        ([0.5, 0.5], 0.5, [0.5])

    Cost:
        One call of the encoder for each image; `salience` one gradient through it.
    """

    encoder: Any = field(convert=_fields.callable_as("encoder(image)"))
    baseline: Any = field(convert=numbers)
    baseline_offset: Any = field(convert=numbers)
    gate: Any = field(convert=numbers)
    gate_offset: Any = field(convert=numbers)
    effect: Any = field(convert=numbers)
    spread: Any = field(convert=numbers)

    def __post_init__(self):
        # A Python number takes the dtype of the coefficients beside it.
        put(self, baseline_offset=self.baseline_offset.astype(self.baseline.dtype))
        k = self.effect.shape[0] if self.effect.ndim == 1 else None
        shapes = (self.gate.shape[1:], self.gate_offset.shape, self.spread.shape, self.baseline.shape)
        if k is None or shapes != ((k,), (k,), (2, k), self.gate.shape[:1]):
            got = ", ".join(map(str, (self.gate.shape, *shapes[1:], self.effect.shape)))
            raise ValueError(f"EffectMixture: gate [h, K], gate_offset [K], spread [2, K], baseline [h] and effect [K] "
                             f"needed, got {got}.")  # fmt: skip

    def __call__(self, image: Any) -> jax.Array:
        """Compute the probabilities [K] of the clusters, given one image."""
        return jax.nn.softmax(matmul(self.encoder(image), self.gate) + self.gate_offset)

    def individual(self, image: Any) -> jax.Array:
        """Compute the expected effect on a unit with this image: sum_k p_k effect_k."""
        return jnp.sum(self(image) * self.effect)

    def salience(self, image: Any, cluster: int = -1) -> jax.Array:
        """Differentiate the probability of one cluster (by default that of the largest effect) in the image."""
        return jax.grad(lambda x: self(x)[cluster])(jnp.asarray(image))


class EffectInfo(NamedTuple):
    """Report a fit of `effect_mixture`.

    Args:
        probabilities: [n, K] of the clusters, one row for every unit.
        effects: `Estimate` [K] of the effects, rising; `ess` is the number of units in each cluster. The error is
            infinite where the units tell nothing of an effect, for example in a cluster of less than one unit.
        average: `Estimate` of the average effect, sum_i sum_k p_ik effect_k / n.
        individual: [n] expected effects of the units.
        loss: [steps] minus the mean log-likelihood of standardised outcomes.

    Example:
        >>> import jsamp as js
        >>> js.fit.EffectInfo(probabilities=[[1.0]], effects=None, average=None, individual=[0.0], loss=[]).individual
        [0.0]
    """

    probabilities: Any
    effects: Any
    average: Any
    individual: Any
    loss: Any


@pytree
class _Free:
    """Hold what is fitted, for outcomes and features that are standardised; the first cluster's gate is fixed at 0."""

    encoder: Any
    heads: Any
    mean: Any
    scale: Any


def _with_first(value: jax.Array) -> jax.Array:
    """Numbers of all clusters from those of all but the first, which is 0."""
    return jnp.concatenate([jnp.zeros_like(value, shape=(*value.shape[:-1], 1)), value], -1)


def unit_loglik(heads: Any, features: jax.Array, treated: jax.Array, outcome: jax.Array) -> jax.Array:
    """The log-likelihood of one unit, its cluster summed over."""
    logits = _with_first(matmul(features, heads["gate"]) + heads["gate_offset"])
    expected = matmul(features, heads["baseline"]) + heads["baseline_offset"] + treated * heads["effect"]
    arm = jnp.where(treated > 0, heads["log_spread"][1], heads["log_spread"][0])
    spread = jnp.sqrt(jnp.exp(2 * arm) + LEAST**2)
    parts = jax.nn.log_softmax(logits) - jnp.log(spread) - 0.5 * ((outcome - expected) / spread) ** 2
    return jax.nn.logsumexp(parts) - 0.9189385332046727


def individual_effect(heads: Any, features: jax.Array) -> jax.Array:
    """The expected effect of one unit."""
    logits = _with_first(matmul(features, heads["gate"]) + heads["gate_offset"])
    return jnp.sum(jax.nn.softmax(logits) * heads["effect"])


def _loss(key: Key, model: Any, batch: Any) -> Any:
    images, treated, outcome = batch
    features = _features(model, images)
    return -jnp.mean(jax.vmap(functools.partial(unit_loglik, model.heads))(features, treated, outcome)), None


def _features(model: _Free, images: jax.Array) -> jax.Array:
    return (jax.vmap(model.encoder)(images) - model.mean[None]) / model.scale[None]


@jax.jit
def _encoded(encoder: Any, images: jax.Array) -> jax.Array:
    return map_rows(jax.vmap(encoder), images, block=256)


def effect_mixture(
    key: Key,
    images: Array,
    treatment: Array,
    outcome: Array,
    encoder: Model,
    clusters: int,
    *,
    optimiser: Any = None,
    steps: int = 1000,
    batch: int | None = None,
    train_encoder: bool = True,
) -> Result:
    """Fit clusters of treatment effects in a randomised trial: which units the treatment helps, told by their images.

    The paper's model: an image makes a unit's cluster probable, a cluster has an effect, and outcomes are normal with a
    standard deviation for each arm and cluster. Its cluster is summed over exactly, where the paper draws relaxed ones,
    and the loss is minus the log-likelihood, where its code takes a robust square. With one cluster this is the
    regression of the outcome on treatment and features, each arm with its own variance.

    Errors are of the sandwich form (a wrong law of the outcome does not spoil them), with the encoder taken as given.
    Units do not matter: outcome and features are standardised, features column by column, or all by their largest
    standard deviation where the encoder is trained.

    Args:
        key: one key.
        images: [n, ...] floating point, one image (or row of covariates) for every unit.
        treatment: [n], 0 and 1 or booleans, randomised.
        outcome: [n] numbers.
        encoder: callable tree, image -> features [h].
        clusters: K, static.
        optimiser: an optax gradient transformation; None takes Adam with a rate that falls from 0.02 to 0.
        steps: updates.
        batch: units per update; None takes all, or 256 of more than 1024.
        train_encoder: whether the arrays of the encoder are fitted, too.

    Returns:
        `Result(EffectMixture, EffectInfo)`, clusters in the order of their effects.

    Raises:
        ValueError: for a treatment that is not 0 and 1 or has fewer than two units in an arm, numbers that are not
            finite, lengths that differ, a constant outcome, more units per update than there are, or features that are
            no vector or not finite.
        TypeError: for images of integers, something that is no key, or an encoder that cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> a, b, c = jax.random.split(jax.random.key(0), 3)
        >>> x = jax.random.normal(a, (400, 1))
        >>> treated = jax.random.bernoulli(b, 0.5, (400,))
        >>> y = treated * jnp.where(x[:, 0] > 0, 3.0, 0.0) + 0.3 * jax.random.normal(c, (400,))
        >>> found, info = js.fit.effect_mixture(jax.random.key(1), x, treated, y, lambda x: 3 * x, 2, steps=200)
        >>> info.effects.value.round(0).tolist()
        [0.0, 3.0]

    Cost:
        `steps` gradients of the encoder for `batch` images, by `js.fit.minimise`; one Hessian of the heads.

    References:
        Jerzak, Johansson and Daoud, "Image-based Treatment Effect Heterogeneity", 2022, arXiv:2206.06417.
    """
    check_key(key, "effect_mixture")
    clusters, steps = check_count("effect_mixture: clusters", clusters), check_count("effect_mixture: steps", steps)
    check_flag("effect_mixture: train_encoder", train_encoder)
    encoder = as_tree("effect_mixture: encoder", encoder, "encoder(image)")
    images, treated, outcome = _checked(images, treatment, outcome)
    n = images.shape[0]
    _check_width(encoder, images)
    batch = (n if n <= 1024 else 256) if batch is None else check_count("effect_mixture: batch", batch, high=n)
    optimiser = _adam(steps) if optimiser is None else optimiser
    standard, center, scale = _standard(outcome, treated.dtype)
    parts = (".heads", ".encoder") if train_encoder else (".heads",)
    begin = _begin(encoder, images, treated, standard, clusters, train_encoder)
    run = minimise(
        key, _loss, begin, (images, treated, standard), optimiser=optimiser, steps=steps, batch=batch,
        trainable=lambda path, leaf: path.startswith(parts),
    )  # fmt: skip
    return _finished(run, images, treated, standard, center, scale)


@functools.cache
def _adam(steps: int) -> Any:
    """Adam whose rate falls to 0; one object for every number of steps, so that it compiles once."""
    import optax

    return optax.adam(optax.cosine_decay_schedule(0.02, steps))


def _checked(images: Any, treatment: Any, outcome: Any) -> tuple[jax.Array, jax.Array, np.ndarray]:
    images = as_floating("effect_mixture: images", images)
    check_rows("effect_mixture: images", images)
    if images.ndim < 2 or 0 in images.shape:
        raise ValueError(f"effect_mixture: images must be [n, ...], one for every unit, got shape {images.shape}.")
    check_on_host("effect_mixture", images, treatment, outcome)
    refuse_non_finite("effect_mixture: images", images)
    n = images.shape[0]
    treated = check_vector("effect_mixture: treatment", treatment, n)
    known = np.asarray(treated)
    if not np.all((known == 0) | (known == 1)):
        raise ValueError("effect_mixture: treatment must be 0 and 1, or booleans. Code the arm that is treated as 1.")
    if min(known.sum(), n - known.sum()) < 2:
        raise ValueError(f"effect_mixture: {int(known.sum())} of {n} units are treated; both arms need two or more.")
    check_vector("effect_mixture: outcome", as_real("effect_mixture: outcome", outcome), n)
    return images, treated.astype(jnp.promote_types(images.dtype, jnp.float32)), np.asarray(outcome)


def _standard(outcome: np.ndarray, dtype: Any) -> tuple[jax.Array, float, float]:
    """The outcome with mean 0 and deviation 1, and what these were; digits of float64 are not lost before."""
    values = np.asarray(outcome, np.float64)
    center, scale = float(values.mean()), float(values.std())
    own = outcome.dtype if jnp.issubdtype(outcome.dtype, jnp.floating) else values.dtype
    if not scale > 2 * jnp.finfo(own).eps * np.abs(values).max():
        raise ValueError("effect_mixture: outcome is constant, so the treatment does nothing. Check the column.")
    return jnp.asarray((values - center) / scale, dtype), center, scale


def _check_width(encoder: Any, images: jax.Array) -> None:
    features = jax.eval_shape(encoder, images[0])
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) != 1 or not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(f"effect_mixture: encoder must map an image {images.shape[1:]} to features [h], got {shape}.")


def _begin(encoder: Any, images: Any, treated: Any, standard: Any, clusters: int, train: bool) -> _Free:
    """The start of a fit; one unit for all columns where the encoder is trained, since a column may grow."""
    features = _encoded(encoder, images)
    refuse_non_finite("effect_mixture: encoder(images)", features)
    trained = train and any(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(encoder))
    mean, scale = (jnp.asarray(v, standard.dtype) for v in columns(features, least=float(trained)))
    return _Free(encoder, _start(standard, treated, features.shape[1], clusters), mean, scale)


def _start(outcome: jax.Array, treated: jax.Array, width: int, clusters: int) -> dict[str, jax.Array]:
    """Effects spread about the difference in means, all clusters equally likely, no use made of features."""
    here = lambda arm, value: jnp.sum(jnp.where(treated == arm, value, 0)) / jnp.sum(treated == arm)
    low, high = here(0, outcome), here(1, outcome)
    spread = jnp.sqrt(jnp.stack([here(0, (outcome - low) ** 2), here(1, (outcome - high) ** 2)]) + LEAST**2)
    place = jnp.linspace(-1, 1, clusters) if clusters > 1 else jnp.zeros(1)
    zeros = functools.partial(jnp.zeros, dtype=outcome.dtype)
    return {
        "baseline": zeros(width), "baseline_offset": low, "gate": zeros((width, clusters - 1)),
        "gate_offset": zeros(clusters - 1), "effect": (high - low + place * spread[1]).astype(outcome.dtype),
        "log_spread": jnp.broadcast_to(jnp.log(spread)[:, None], (2, clusters)),
    }  # fmt: skip


def _finished(run: Any, images: Any, treated: Any, standard: Any, center: float, scale: float) -> Result:
    """Sort the clusters, go back to the units of the outcome, and tell errors."""
    heads = _sorted(run.x.heads)
    features = (_encoded(run.x.encoder, images) - run.x.mean[None]) / run.x.scale[None]
    errors = effect_errors(unit_loglik, individual_effect, heads, features, treated, standard)
    shares = jax.nn.softmax(_with_first(matmul(features, heads["gate"]) + heads["gate_offset"][None]), 1)
    single = scale * jnp.sum(shares * heads["effect"][None], 1)
    units = jnp.sum(shares, 0)
    effects = Estimate(scale * heads["effect"], jnp.where(units < 1, jnp.inf, scale * errors.effect), units)
    average = Estimate(jnp.mean(single), scale * errors.average, jnp.asarray(float(len(single)), single.dtype))
    heads = in_columns(heads, -run.x.mean / run.x.scale, 1 / run.x.scale)
    found = EffectMixture(
        run.x.encoder, scale * heads["baseline"], center + scale * heads["baseline_offset"],
        _with_first(heads["gate"]), _with_first(heads["gate_offset"]), scale * heads["effect"],
        scale * jnp.sqrt(jnp.exp(2 * heads["log_spread"]) + LEAST**2),
    )  # fmt: skip
    return Result(found, EffectInfo(shares, effects, average, single, run.info.loss))


def _sorted(heads: Any) -> Any:
    """Clusters in the order of their effects; the gate is measured from the first one again."""
    order = jnp.argsort(heads["effect"])
    gate, offset = (_with_first(heads[name])[..., order] for name in ("gate", "gate_offset"))
    return heads | {
        "gate": gate[:, 1:] - gate[:, :1], "gate_offset": offset[1:] - offset[:1],
        "effect": heads["effect"][order], "log_spread": heads["log_spread"][:, order],
    }  # fmt: skip
