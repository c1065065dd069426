"""Losses of heads: several hypotheses that disagree where no label is known, and stochastic heads."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._pytree import field, pytree, static
from jsamp.loss import _protocol as p


class LabelledDrawn(NamedTuple):
    """Hold a labelled and an unlabelled batch; nothing is random.

    Args:
        x: labelled rows [n, ...].
        y: their classes [n].
        unlabelled: rows without labels [m, ...].

    Example:
        >>> import jsamp as js
        >>> js.loss.LabelledDrawn(x=1.0, y=0, unlabelled=2.0).y
        0
    """

    x: Any
    y: Any
    unlabelled: Any


def _labelled(who, batch):
    if type(batch) is not tuple or len(batch) != 3:
        raise TypeError(f"{who}: batch must be (x, classes, unlabelled x).")
    x, y, other = batch
    p.split_condition(f"{who}: batch", (x, y))
    p.check_batch(f"{who}: unlabelled", other)
    row = lambda tree: jax.tree.map(lambda leaf: jnp.shape(leaf)[1:], tree)
    if row(x) != row(other):
        raise TypeError(
            f"{who}: unlabelled rows must have the structure and shape of labelled ones, {row(x)}; got {row(other)}. "
            f"Both are inputs of one model: reshape them."
        )
    y = jnp.asarray(y)
    if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"{who}: classes must be integers [n], got {y.dtype}{list(y.shape)}.")
    return LabelledDrawn(jax.tree.map(jnp.asarray, x), y, jax.tree.map(jnp.asarray, other))


def _cross_entropy(who, logits, y):
    """Minus log of the probability of class y; logits [..., k], y broadcast over the leading axes."""
    known, classes = _checks.concrete(y), logits.shape[-1]
    if known is not None and np.any((known < 0) | (known >= classes)):
        raise ValueError(f"{who}: classes must be in 0..{classes - 1}, got {known.min()}..{known.max()}.")
    log, y = jax.nn.log_softmax(logits, axis=-1), y.astype(jnp.int32)
    index = jnp.broadcast_to(jnp.where(y < 0, classes, y), log.shape[:-1])[..., None]  # NaN beyond the classes
    return -jnp.take_along_axis(log, index, axis=-1)[..., 0]


def _xlogx(p):
    """P log p with its limit and a finite gradient at 0."""
    safe = jnp.where(p > 0, p, 1)
    return jnp.where(p > 0, p * jnp.log(safe), 0)


@pytree
class DivDis(p.Called):
    """Train several heads that agree on labelled data and are independent on unlabelled data.

    The sum over heads of the cross-entropy plus weight times the mean over pairs of heads of their mutual information,
    from the joint frequencies of their classes over the unlabelled batch. Two binary heads that agree on a share r of
    it have log 2 - H(r): least at r = 1/2. From a batch of B rows it is biased upwards by about (k - 1)^2 / (2 B).

    Args:
        weight: weight of the mutual information, >= 0; 10 in the paper.

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`, the mutual information in `parts`, added to every row. model:
        callable tree x -> logits [heads, classes]. batch: (x, classes, unlabelled x); the key draws nothing.

    Raises:
        TypeError: for a batch that is no such triple, unlabelled rows of another shape, classes that are no integers.
        ValueError: for fewer than two heads or a negative weight.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> twins = lambda x: 20.0 * jnp.array([[x[0], -x[0]], [x[0], -x[0]]])
        >>> x = jnp.array([[1.0], [-1.0]])
        >>> _, info = js.loss.DivDis()(None, twins, (x, jnp.array([0, 1]), x))
        >>> round(float(info.parts["information"]), 4)  # log 2
        0.6931

    Cost:
        Two calls of the model, labelled and unlabelled.

    References:
        Lee, Yao and Finn, "Diversify and Disambiguate: Learning From Underspecified Data", 2022, arXiv:2202.03418.
        Benoit et al., "Unraveling the Key Components of OOD Generalization via Diversification", 2023,
        arXiv:2312.16313.
    """

    weight: Any = 10.0

    def __post_init__(self):
        _checks.check_scalar("DivDis: weight", self.weight, low=0)

    def draw(self, key, batch):
        """Check the batch; nothing is random."""
        return _labelled("DivDis", batch)

    def value(self, model, drawn):
        """Return cross-entropy plus mutual information."""
        logits = p.call("DivDis: model", model, False, drawn.x)
        if jnp.ndim(logits) != 3 or logits.shape[1] < 2:
            raise ValueError(f"DivDis: model(x) must be logits [heads >= 2, classes], got {jnp.shape(logits)[1:]}.")
        fit = jnp.sum(_cross_entropy("DivDis", logits, drawn.y[:, None]), axis=1)
        chance = jax.nn.softmax(p.call("DivDis: model", model, False, drawn.unlabelled), axis=-1)
        # Joint frequencies [heads, heads, classes, classes], elementwise: full precision everywhere.
        joint = jnp.mean(chance[:, :, None, :, None] * chance[:, None, :, None, :], axis=0)
        single = jnp.mean(chance, axis=0)
        entropy = -jnp.sum(_xlogx(single), axis=-1)
        information = jnp.sum(_xlogx(joint), axis=(-2, -1)) + entropy[:, None] + entropy[None]
        heads = chance.shape[1]
        pairs = jnp.triu(jnp.ones((heads, heads), information.dtype), 1)
        mean = jnp.sum(pairs * information) / (heads * (heads - 1) / 2)
        return p.finish(fit + jnp.asarray(self.weight, fit.dtype) * mean, fit=jnp.mean(fit), information=mean)


@pytree
class DBAT(p.Called):
    """Train one more model that disagrees with the earlier ones on unlabelled data.

    Cross-entropy plus weight times the mean over unlabelled rows and earlier models of -log(p (1 - q) + q (1 - p) +
    1e-7), p and q the probabilities that an earlier and the new model give to the earlier model's class. Least when
    they disagree everywhere; with hard predictions that agree on a share r it is 16.1 r. Train one model after the
    other.

    Args:
        weight: weight of the disagreement, >= 0; 1 in the paper.

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`, the disagreement in `parts`, added to every row. model: (new,
        *earlier), callable trees x -> logits [classes]; the earlier ones stay fixed. batch: (x, classes, unlabelled x);
        the key draws nothing.

    Raises:
        TypeError: for a model without an earlier one, a batch that is not such a triple.
        ValueError: for a negative weight.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> model = lambda x: 40.0 * jnp.array([x[0], -x[0]])
        >>> x = jnp.array([[1.0], [-1.0]])
        >>> _, info = js.loss.DBAT()(None, (model, model), (x, jnp.array([0, 1]), x))
        >>> round(float(info.parts["agreement"]), 2)  # -log 1e-7
        16.12

    Cost:
        Two calls of the new model, one of each earlier one.

    References:
        Pagliardini et al., "Agree to Disagree: Diversity through Disagreement for Better Transferability", 2022,
        arXiv:2202.04414.
    """

    weight: Any = 1.0
    player = 0

    def __post_init__(self):
        _checks.check_scalar("DBAT: weight", self.weight, low=0)

    def draw(self, key, batch):
        """Check the batch; nothing is random."""
        return _labelled("DBAT", batch)

    def value(self, model, drawn):
        """Return cross-entropy plus agreement."""
        if type(model) is not tuple or len(model) < 2:
            raise TypeError("DBAT: model must be a tuple (new, *earlier) with at least one earlier model.")
        new, *earlier = p.players("DBAT", model, "new", *(f"earlier {i}" for i in range(len(model) - 1)))
        logits = p.call("DBAT: new", new, False, drawn.x)
        if jnp.ndim(logits) != 2:
            raise ValueError(f"DBAT: new(x) must be logits [classes], got shape {jnp.shape(logits)[1:]}.")
        fit = _cross_entropy("DBAT", logits, drawn.y)
        chance = jax.nn.softmax(p.call("DBAT: new", new, False, drawn.unlabelled), axis=-1)
        terms = []
        for other in earlier:
            known = jax.nn.softmax(p.call("DBAT: earlier", p.frozen(other), False, drawn.unlabelled), axis=-1)
            if known.shape != chance.shape:
                raise ValueError(f"DBAT: earlier models must return logits {chance.shape[1:]}, got {known.shape[1:]}.")
            index = jnp.argmax(known, axis=-1)[:, None]
            a, b = (jnp.take_along_axis(v, index, axis=-1)[:, 0] for v in (known, chance))
            terms.append(jnp.mean(-jnp.log(a * (1 - b) + b * (1 - a) + 1e-7)))
        mean = jnp.mean(jnp.stack(terms))
        return p.finish(fit + jnp.asarray(self.weight, fit.dtype) * mean, fit=jnp.mean(fit), agreement=mean)


class SamplesDrawn(NamedTuple):
    """Hold what `MultiSample` draws.

    Args:
        x: rows [n, ...].
        y: targets [n, ...].
        noise: what each sample of each row uses [n, num, ...].

    Example:
        >>> import jsamp as js
        >>> js.loss.SamplesDrawn(x=1.0, y=0, noise=None).y
        0
    """

    x: Any
    y: Any
    noise: Any


@pytree
class MultiSample(p.Called):
    """Average the loss of a stochastic head over several samples of its noise, behind one evaluation of the trunk.

    value = mean over rows and over `num` samples of error(head(trunk(x), noise), y). For dropout the noise is a scaled
    mask, js.loss.dropout(rate, width), and the head multiplies by it; a latent or a noise level does as well. The
    variance over noise falls as 1 / num, for the price of the head.

    Args:
        error: callable tree (output, y) -> number, for one sample.
        noise: callable tree key -> the noise of one sample, any tree.
        num: samples for each row (static); 8 in the paper.

    Returns:
        `loss(key, model, batch) -> (scalar, LossInfo)`. model: (trunk, head), callable trees trunk(x) and
        head(features, noise). batch: a pair (x, y).

    Raises:
        TypeError: for a model or batch that is not a pair.
        ValueError: for num < 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> loss = js.loss.MultiSample(lambda out, y: (out - y) ** 2, js.loss.dropout(0.5, 3), num=8)
        >>> model = (lambda x: x, lambda z, mask: jnp.sum(z * mask))
        >>> loss(jax.random.key(0), model, (jnp.ones((4, 3)), jnp.zeros(4)))[1].each.shape
        (4,)

    Cost:
        One call of the trunk and `num` of the head, vmapped.

    References:
        Inoue, "Multi-Sample Dropout for Accelerated Training and Better Generalization", 2019, arXiv:1905.09788.
    """

    error: Any = field(convert=_fields.callable_as("error(output, y)"))
    noise: Any = field(convert=_fields.callable_as("noise(key)"))
    num: int = static(default=8, convert=_fields.count())

    def draw(self, key, batch):
        """Draw the noise of every sample of every row."""
        _checks.check_key(key, "MultiSample")
        if type(batch) is not tuple:
            raise TypeError("MultiSample: batch must be a pair (x, y).")
        x, y, num = p.split_condition("MultiSample: batch", batch)
        return SamplesDrawn(x, y, jax.vmap(jax.vmap(self.noise))(jax.random.split(key, (num, self.num))))

    def value(self, model, drawn):
        """Return the mean error."""
        trunk, head = p.players("MultiSample", model, "trunk", "head")

        def row(x, y, noise):
            features = trunk(x)
            return jnp.mean(jax.vmap(lambda one: self.error(head(features, one), y))(noise))

        return p.finish(jax.vmap(row)(*drawn))


def _mask(rate, width, key):
    keep = jax.random.bernoulli(key, 1 - rate, (width,))
    return jnp.where(keep, 1 / (1 - rate), 0)


def dropout(rate: Any, width: int) -> Any:
    """Make the noise of dropout: masks [width] that are 0 with probability `rate`, else 1 / (1 - rate).

    Args:
        rate: share of the features that is dropped, in [0, 1).
        width: number of features.

    Returns:
        A callable tree key -> mask, for `MultiSample`.

    Raises:
        ValueError: for a rate outside [0, 1), or a width below 1.

    Example:
        >>> import jax, jsamp as js
        >>> sorted(set(js.loss.dropout(0.5, 100)(jax.random.key(0)).tolist()))
        [0.0, 2.0]

    Cost:
        `width` uniforms for each call.

    References:
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    """
    _checks.check_scalar("dropout: rate", rate, low=0, high=1 - 1e-6)
    width = _checks.check_count("dropout: width", width)
    return jax.tree_util.Partial(_Mask(width), jnp.asarray(rate, jnp.float32))


@pytree
class _Mask:
    """A mask of fixed width."""

    width: int = static()

    def __call__(self, rate, key):
        return _mask(rate, self.width, key)
