"""Guidance by the gradient of a function: classifiers of noisy data, energies and rewards of the predicted signal."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._checks import check_number, concrete, is_traced
from jsamp._core._like import dtype_of
from jsamp._core._pytree import field, pytree, static
from jsamp._core._sample_axes import batch_ndim, check_event_ndim, over_batch, per_sample
from jsamp._core._types import Model
from jsamp.denoise import _fields
from jsamp.denoise._algebra import as_time, change_score, levels, transpose_x0
from jsamp.denoise._pair import scaled
from jsamp.denoise._protocol import Wrapper


def _classify(who: str, classifier: Any, label: Any, x: Any, t: Any) -> Any:
    """Gradient in x of the log-probability of the label, of each sample."""
    t = as_time(t, x)

    def total(x):
        logits = classifier(x, t)
        if jnp.ndim(logits) < 1 or logits.shape[-1] < 2:
            raise ValueError(f"{who}: classifier must return logits [..., classes >= 2], got {jnp.shape(logits)}.")
        classes = logits.shape[-1]
        wanted = classes - 1 if label is None else label
        known = concrete(wanted)
        if known is not None and not np.all((known >= 0) & (known < classes)):
            raise ValueError(f"{who}: label must be in 0..{classes - 1}, got {label!r}.")
        # Inside a run the label is traced: nothing is raised, and a class that is not there must not pass for none.
        there = (jnp.asarray(wanted) >= 0) & (jnp.asarray(wanted) < classes)
        chosen = jnp.where(there[..., None], jax.nn.one_hot(wanted, classes, dtype=logits.dtype), jnp.nan)
        return jnp.sum(jax.nn.log_softmax(logits) * jnp.broadcast_to(chosen, logits.shape))

    return jax.grad(total)(x)


def _raise_score(denoiser: Any, scale: Any, t: Any, prediction: Any, slope: Any) -> Any:
    return change_score(denoiser.schedule, t, prediction, scaled(scale, t, slope))


@pytree
class Classifier(Wrapper):
    """Raise the score by the gradient of a classifier of noisy data: classifier guidance.

    x0 <- x0 + scale (sigma^2 / alpha) g and eps <- eps - scale sigma g, g the gradient in x of log p(label | x, t).
    With an exact classifier, scale 1 is the conditional law and scale w is classifier-free guidance of weight w. For a
    classifier of clean data use `Energy`.

    Args:
        denoiser: the unconditional denoiser.
        classifier: callable tree (x, t) -> logits [..., classes] (or log-probabilities), trained on noised data.
        label: the wanted class, an integer or one for each sample of a batch; may be traced.
        scale: weight. Forms as in `ClassifierFree`.

    Returns:
        The guided prediction.

    Raises:
        TypeError: for something that cannot be called, or a label that is not an integer.
        ValueError: for a label outside the classes (in a run, where it is traced, the sample is NaN instead), fewer
            than two classes, or a scale that is not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1, 1], means=[[-1.0], [1.0]], stds=[1.0, 1.0])
        >>> classifier = lambda x, t: jnp.log(law.responsibilities(x, t))
        >>> js.denoise.Classifier(law, classifier, 1)(jnp.zeros(1), 1.0).x0.tolist()
        [0.5]

    Cost:
        One network call, one call of the classifier and its transpose.

    References:
        Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021, arXiv:2105.05233.
    """

    denoiser: Any = field(check=_fields.denoiser)
    classifier: Model = field(convert=_fields.callable_as("classifier(x, t)"))
    label: Any = field(check=_fields.label)
    scale: Any = field(default=1.0, convert=_fields.weight)

    def __call__(self, x, t, *, key=None):
        """The prediction, drawn towards the class."""
        prediction = self.denoiser(x, t, key=key)
        slope = _classify("Classifier", self.classifier, self.label, x, t)
        return _raise_score(self.denoiser, self.scale, t, prediction, slope)


@pytree
class Minority(Wrapper):
    """Draw rare samples on purpose, by a classifier of how rare a sample is: minority guidance.

    The classifier's classes are levels of the minority score of clean data (`js.estimate.minority_score`, cut by
    `js.estimate.quantile_labels`): 0 the commonest, the last the rarest. Train it on noised data with these labels; the
    guidance is that of `Classifier`.

    Args:
        denoiser: the denoiser.
        classifier: callable tree (x, t) -> logits [..., levels].
        level: the wanted level, an integer, may be traced; None is the rarest.
        scale: weight; the paper takes 3.5 on images. Forms as in `ClassifierFree`.

    Returns:
        The guided prediction.

    Raises:
        TypeError: for something that cannot be called, or a level that is not an integer.
        ValueError: for a level outside those of the classifier, or a scale that is not finite.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[9, 1], means=[[-1.0], [1.0]], stds=[1.0, 1.0])
        >>> rarity = lambda x, t: jnp.log(law.responsibilities(x, t))
        >>> bool(js.denoise.Minority(law, rarity)(jnp.zeros(1), 1.0).x0[0] > law(jnp.zeros(1), 1.0).x0[0])
        True

    Cost:
        One network call, one call of the classifier and its transpose.

    References:
        Um, Lee and Ye, "Don't Play Favorites: Minority Guidance for Diffusion Models", 2024, arXiv:2301.12334.
    """

    denoiser: Any = field(check=_fields.denoiser)
    classifier: Model = field(convert=_fields.callable_as("classifier(x, t)"))
    level: Any = field(default=None, check=lambda name, value: value is None or _fields.label(name, value))
    scale: Any = field(default=3.5, convert=_fields.weight)

    def __call__(self, x, t, *, key=None):
        """The prediction, drawn towards rare samples."""
        prediction = self.denoiser(x, t, key=key)
        slope = _classify("Minority", self.classifier, self.level, x, t)
        return _raise_score(self.denoiser, self.scale, t, prediction, slope)


@pytree
class Energy(Wrapper):
    """Guide by any energy of the predicted signal: losses, rewards, physics, classifiers of clean data.

    The score is lowered by scale g. through="model": g is the gradient of energy(x0(x)) in x, through the network.
    through="x0": the network's eps is held still, so x0 moves as x / alpha and g = energy'(x0) / alpha: no transpose of
    the network, which is a cruder direction. Energies are in units of log-density: scale 1 samples roughly
    p(x0) exp(-energy(x0)), and a reward r at temperature tau is the energy -r / tau.

    Args:
        denoiser: the denoiser.
        energy: callable tree x0 -> scalar, or one number for each sample of a batch; differentiable.
        scale: weight. Forms as in `ClassifierFree`.
        through: "model" or "x0" (static).

    Returns:
        The guided prediction.

    Raises:
        TypeError: for something that cannot be called.
        ValueError: for a scale that is not finite, or another `through`.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> js.denoise.Energy(law, lambda x0: 0.5 * jnp.sum((x0 - 1) ** 2))(jnp.zeros(1), 1.0).x0.tolist()
        [0.5]

    Cost:
        One network call and its transpose, or without the transpose ("x0"), and the gradient of the energy.

    References:
        Song et al., "Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation", 2023, ICML.
        Bansal et al., "Universal Guidance for Diffusion Models", 2023, arXiv:2302.07121.
    """

    denoiser: Any = field(check=_fields.denoiser)
    energy: Model = field(convert=_fields.callable_as("energy(x0)"))
    scale: Any = field(default=1.0, convert=_fields.weight)
    through: Literal["model", "x0"] = static(default="model", check=_fields.one_of("model", "x0"))

    def __call__(self, x, t, *, key=None):
        """The prediction, drawn to lower energy."""
        down = jax.grad(lambda x0: -jnp.sum(self.energy(x0)))
        if self.through == "model":
            prediction, pull = transpose_x0(self.denoiser, x, t, key)
            slope = pull(down(prediction.x0))
        else:
            prediction = self.denoiser(x, t, key=key)
            alpha, _ = levels(self.schedule, t, x)
            slope = jax.tree.map(lambda g: g / alpha, down(prediction.x0))
        return _raise_score(self.denoiser, self.scale, t, prediction, slope)


@pytree
class Reward(Wrapper):
    """Draw samples whose reward is `target`, as if the model were trained on (x, reward) pairs.

    The condition is reward(x0) + N(0, noise^2) = target, with the reward linearised at the predicted x0 and the
    network's own uncertainty C = (sigma^2 / alpha) dx0/dx: x0 <- x0 + C b (target - reward(x0)) / (b^T C b + noise^2),
    b the reward's gradient. Exact for linear rewards of Gaussian data, where the law is that of retraining on
    pseudo-labels of that noise. The mean of a true reward b*^T x is then kappa target with
    kappa = b*^T S b / (b^T S b + noise^2), S the covariance of the data: directions without data are never entered.

    Args:
        denoiser: the unconditional denoiser.
        reward: callable tree x0 -> scalar, differentiable, for one sample; `LinearReward.fit` makes one from labels.
        target: the wanted reward.
        noise: standard deviation of the pseudo-labels, >= 0; 0 asks for the target exactly.
        event_ndim: how many trailing axes of x make one sample; None means all of x is one sample (static).

    Returns:
        The guided prediction.

    Raises:
        TypeError: for something that cannot be called.
        ValueError: for a target that is not finite or a negative noise.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> law = js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
        >>> guided = js.denoise.Reward(law, lambda x0: x0[0], target=2.0)
        >>> guided(jnp.zeros(2), 1.0).x0.round(3).tolist()
        [2.0, 0.0]

    Cost:
        One network call and its transpose.

    References:
        Chen et al., "An Overview of Diffusion Models: Applications, Guided Generation, Statistical Rates and
        Optimization", 2024, arXiv:2404.07771.
        Yuan et al., "Reward-Directed Conditional Diffusion", 2023, arXiv:2307.07055.
    """

    denoiser: Any = field(check=_fields.denoiser)
    reward: Model = field(convert=_fields.callable_as("reward(x0)"))
    target: Any = field(check=_fields.number())
    noise: Any = field(default=0.0, check=_fields.number(0))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def __call__(self, x, t, *, key=None):
        """The prediction, drawn to the wanted reward."""
        prediction, pull = transpose_x0(self.denoiser, x, t, key)
        target, noise = (jnp.asarray(v, dtype_of(x)) for v in (self.target, self.noise))
        alpha, sigma = levels(self.schedule, t, x)
        ratio = sigma**2 / alpha
        batch = batch_ndim("Reward", prediction.x0, self.event_ndim)
        value, slope = over_batch(jax.value_and_grad(self.reward), batch)(prediction.x0)
        pulled = pull(slope)
        total = ratio * over_batch(_tree.dot, batch)(slope, pulled) + noise**2
        gain = jnp.where(total > 0, (target - value) / jnp.where(total > 0, total, 1), 0)
        change = jax.tree.map(lambda g: per_sample(gain, g) * g, pulled)
        return change_score(self.schedule, t, prediction, change)


@pytree
class LinearReward:
    """Reward x by offset + weight . x, fitted to labelled data by ridge regression or given.

    Args:
        weight: of the shape of x.
        offset: scalar.

    Returns:
        Called with x: the reward, a scalar.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
        >>> reward = js.denoise.LinearReward.fit(x, 2 * x[:, 0] + 1, penalty=0.0)
        >>> round(float(reward(jnp.array([5.0, 0.0]))), 3)
        11.0

    Cost:
        One product with x. `fit` takes one singular value decomposition of [n, d], on the host unless traced.
    """

    weight: Any = field(check=_fields.number())
    offset: Any = field(default=0.0, check=_fields.number())

    def __call__(self, x):
        """The reward of one sample."""
        weight = jnp.asarray(self.weight, x.dtype)
        return jnp.sum(weight * x) + jnp.asarray(self.offset, x.dtype)

    @classmethod
    def fit(cls, x: Any, values: Any, penalty: Any = 1.0) -> LinearReward:
        """Ridge regression on x [n, ...] and values [n], centred; the offset is not penalised.

        In float64 on the host, unless traced. A penalty of 0 gives the least-norm fit.
        """
        if np.ndim(x) < 1 or np.shape(values) != np.shape(x)[:1] or not np.size(x):
            raise ValueError(
                f"LinearReward.fit: want x [n, ...] and values [n], got {np.shape(x)}, {np.shape(values)}."
            )
        for name, value, low in (("x", x, -np.inf), ("values", values, -np.inf), ("penalty", penalty, 0)):
            check_number(f"LinearReward.fit: {name}", value, low=low)
        xp = jnp if is_traced(x, values, penalty) else np
        x, values = (xp.asarray(a, None if xp is jnp else np.float64) for a in (x, values))
        flat = x.reshape(x.shape[0], -1)
        center = flat.mean(axis=0)
        u, s, vt = xp.linalg.svd(flat - center[None], full_matrices=False)
        floor = s[0] * max(flat.shape) * float(np.finfo(s.dtype).eps)
        gain = xp.where(s > floor, s / (xp.maximum(s, floor) ** 2 + penalty + (s[0] == 0)), 0)
        product = lambda a, b: jnp.matmul(a, b, precision="highest") if xp is jnp else a @ b
        weight = product(vt.T, gain * product(u.T, values - values.mean()))
        offset = values.mean() - xp.sum(center * weight)
        return cls(weight.reshape(x.shape[1:]), offset)
