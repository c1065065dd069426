"""Guidance away from the class that a classifier of clean images confuses with the wanted one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core._checks import check_flag, concrete
from jsamp._core._like import dtype_of
from jsamp._core._pytree import field, pytree, static
from jsamp._core._types import Model
from jsamp.denoise import _fields
from jsamp.denoise._pair import extrapolate, join, refuse_kicks
from jsamp.denoise._protocol import Guided


def _runner_up(probabilities: Any, label: Any) -> Any:
    """The likeliest class other than the wanted one."""
    return jnp.argmax(jnp.where(jnp.arange(probabilities.shape[0]) == label, -1.0, probabilities))


def _doubt(probabilities: Any, label: Any) -> Any:
    """One minus the probability of the wanted class."""
    return 1 - probabilities[label]


@pytree
class GradientFree:
    """Push away from the class that a classifier of clean images confuses: gradient-free classifier guidance.

    The classifier reads the predicted clean signal, p = softmax(classifier(x0)). It chooses the reference class r and
    the strength: x0 = reference.x0 + (1 + scale strength(p)) (main.x0 - reference.x0). By default r is the likeliest
    class other than `label` and the strength is 1 - p[label], so a sure classifier leaves the prediction alone. No
    gradient is taken through anything.

    The rules of the paper could not be checked against code; both are arguments. The choice of r jumps, so solvers of
    high order lose order where it does.

    Args:
        main: callable tree label -> denoiser; the label may be traced.
        label: the wanted class, an integer.
        classifier: callable tree x0 -> logits [classes], for clean signals.
        scale: omega >= 0; 0 is the main prediction alone.
        weak: label -> denoiser for the reference class, a weaker model (autoguidance at no extra cost); None means
            main.
        reference: (p, label) -> class to push away from.
        strength: (p, label) -> strength in [0, 1].
        lag: whether the classifier reads the prediction of the row before, so that both evaluations can be one batched
            call (static); needs `steer=js.steer.Memory()`. The first row is not guided.

    Returns:
        `Guided(x0, eps, aux)` with the main prediction of x0 as aux.

    Raises:
        TypeError: for something that cannot be called, or a label that is not an integer.
        ValueError: for a negative scale, or fewer than two classes, or a label outside them.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> centers = jnp.array([[-2.0], [0.0], [2.0]])
        >>> law = lambda k: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=centers[k][None], stds=[1.0])
        >>> classifier = lambda x0: -0.5 * jnp.sum((x0[None] - centers) ** 2, axis=-1)
        >>> guided = js.denoise.GradientFree(law, 2, classifier, scale=4.0)
        >>> [round(float(v), 2) for v in (law(2)(jnp.zeros(1), 1.0).x0[0], guided(jnp.zeros(1), 1.0).x0[0])]
        [1.0, 3.02]

    Cost:
        Two network calls and one of the classifier.

    References:
        Shenoy et al., "Gradient-Free Classifier Guidance for Diffusion Model Sampling", 2024, arXiv:2411.15393.
    """

    remembers = True
    main: Model = field(convert=_fields.callable_as("main(label)"))
    label: Any = field(check=_fields.label)
    classifier: Model = field(convert=_fields.callable_as("classifier(x0)"))
    scale: Any = field(default=1.0, check=_fields.number(0))
    weak: Any = field(default=None, convert=_fields.callable_as("weak(label)", optional=True))
    reference: Model = field(default=_runner_up, convert=_fields.callable_as("reference(p, label)"))
    strength: Model = field(default=_doubt, convert=_fields.callable_as("strength(p, label)"))
    lag: bool = static(default=False, convert=check_flag)
    memory: Any = field(default=None, init=False)

    def __post_init__(self):
        main = self.main(self.label)
        join("GradientFree", **{"main(label)": main, "weak(label)": self._reference_of(self.label)})

    @property
    def schedule(self):
        """The schedule of the main denoiser."""
        return self.main(self.label).schedule

    def _judge(self, x0):
        """Reference class and weight of the extrapolation."""
        logits = self.classifier(x0)
        if jnp.ndim(logits) != 1 or logits.shape[0] < 2:
            raise ValueError(f"GradientFree: classifier must return logits [classes >= 2], got {jnp.shape(logits)}.")
        label = concrete(self.label)
        if label is not None and not 0 <= label < logits.shape[0]:
            raise ValueError(f"GradientFree: label must be in 0..{logits.shape[0] - 1}, got {self.label!r}.")
        # A traced label outside the classes must not pass for the nearest one.
        there = (jnp.asarray(self.label) >= 0) & (jnp.asarray(self.label) < logits.shape[0])
        p = jnp.where(there, jax.nn.softmax(logits), jnp.nan)
        return self.reference(p, self.label), 1 + self.scale * self.strength(p, self.label)

    def _reference_of(self, label):
        return (self.main if self.weak is None else self.weak)(label)

    def __call__(self, x, t, *, key=None):
        """Predict x0 and eps, pushed away from the confused class."""
        if not self.lag:
            main = self.main(self.label)(x, t, key=key)
            confused, weight = self._judge(main.x0)
            other = self._reference_of(confused)(x, t, key=key)
            refuse_kicks(main, other)
        else:
            if self.memory is None:
                raise ValueError("GradientFree: lag=True needs steer=js.steer.Memory() to bring the row before.")
            confused, weight = self._judge(self.memory.value)
            weight = jnp.where(self.memory.seen, weight, 1.0)
            both = join("GradientFree", main=self.main(self.label), reference=self._reference_of(confused))
            main, other = both(x, t, key=key)
        guided = extrapolate(jnp.asarray(weight, dtype_of(x)), t, main, other)
        return Guided(guided.x0, guided.eps, aux=main.x0)
