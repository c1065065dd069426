"""Models made of models: conditions, rewards and forbidden tokens, mixed as log-probabilities."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _fields
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count
from jsamp._core._pytree import field, pytree, static
from jsamp.tokens._protocol import check_logits


def _as_model(name: str, model: Any) -> Any:
    return as_tree(name, model, "model(x, t)")


def _log_probs(name: str, model: Any, x: Any, t: Any) -> jax.Array:
    """The normalised log-probabilities [L, V] of a model, float32 at least."""
    logits = model(x, t)
    check_logits(name, logits, (x.shape[0], None))
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


@pytree
class ClassifierFree:
    """Guide a token model without a classifier: log p = log p_u + scale (log p_c - log p_u), normalised at each site.

    `scale=1` is plain conditional and 0 unconditional; more than 1 sharpens. A token that either model forbids stays
    forbidden. With exact conditionals each draw is of p_c^scale p_u^(1-scale), normalised site by site, which is not
    the tilted law of whole texts.

    Args:
        cond: conditional model (x [L], t) -> logits [L, V].
        uncond: unconditional model, or one with a negative prompt.
        scale: guidance weight.

    Raises:
        TypeError: for something that cannot be called.
        ValueError: for a scale that is not finite.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> model = lambda p: lambda x, t: jnp.log(jnp.array([[p, 1 - p]]))
        >>> guided = js.tokens.ClassifierFree(model(0.8), model(0.5), scale=2.0)
        >>> [round(float(p), 4) for p in jax.nn.softmax(guided(jnp.array([2]), 1.0))[0]]
        [0.9412, 0.0588]

    Cost:
        Two network calls for each call.

    References:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598. Nisonoff et al., "Unlocking
        Guidance for Discrete State-Space Diffusion and Flow Models", 2024, arXiv:2406.01572.
    """

    cond: Any = field(convert=_as_model)
    uncond: Any = field(convert=_as_model)
    scale: Any = field(default=1.0, check=_fields.scalar())

    @property
    def excludes(self):
        """Ids that one of the models forbids."""
        return (*getattr(self.cond, "excludes", ()), *getattr(self.uncond, "excludes", ()))

    def __call__(self, x, t):
        """The mixed log-probabilities."""
        c = _log_probs("ClassifierFree: cond", self.cond, x, t)
        u = _log_probs("ClassifierFree: uncond", self.uncond, x, t)
        if c.shape != u.shape:
            raise ValueError(f"ClassifierFree: both models must have the same tokens, got {c.shape} and {u.shape}.")
        both = jnp.isfinite(c) & jnp.isfinite(u)
        mixed = jnp.where(both, u + self.scale * jnp.where(both, c - u, 0), -jnp.inf)
        return jax.nn.log_softmax(jnp.where(jnp.isnan(c) | jnp.isnan(u), jnp.nan, mixed))


@pytree
class Reward:
    """Guide a token model by the gradient of a reward: log p(v at l) + scale d reward / d onehot[l, v].

    The reward reads soft texts, [L, V] rows of probabilities: the known token at clean sites, the model's own word at
    masked ones. For a reward that adds up over sites this is the exact tilt p exp(scale reward); for others its first
    order. `js.steer.SMC` corrects what is left.

    Args:
        model: (x [L], t) -> logits [L, V].
        reward: differentiable, [L, V] -> scalar.
        scale: weight of the reward.

    Raises:
        TypeError: for something that cannot be called.
        ValueError: for a scale that is not finite.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> fair = lambda x, t: jnp.zeros((1, 2))
        >>> guided = js.tokens.Reward(fair, lambda soft: soft[:, 1].sum(), scale=1.0)
        >>> [round(float(p), 4) for p in jax.nn.softmax(guided(jnp.array([2]), 1.0))[0]]
        [0.2689, 0.7311]

    Cost:
        One network call, and one gradient of the reward, for each call.

    References:
        Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021, arXiv:2105.05233. Vignac et al.,
        "DiGress: Discrete Denoising Diffusion for Graph Generation", 2023, arXiv:2209.14734 (for tokens).
    """

    model: Any = field(convert=_as_model)
    reward: Any = field(convert=_fields.callable_as("reward(soft)"))
    scale: Any = field(default=1.0, check=_fields.scalar())

    @property
    def excludes(self):
        """Ids that the model forbids."""
        return getattr(self.model, "excludes", ())

    def __call__(self, x, t):
        """The tilted log-probabilities."""
        log_p = _log_probs("Reward: model", self.model, x, t)
        vocabulary = log_p.shape[-1]
        # A mask inside the vocabulary is excluded, so it has no probability of its own.
        known = (x >= 0) & (x < vocabulary)
        for mask in self.excludes:
            known = known & (x != mask)
        soft = jnp.where(known[:, None], jax.nn.one_hot(x, vocabulary, dtype=log_p.dtype), jnp.exp(log_p))
        tilt = self.scale * jax.grad(self._number)(soft)
        return jax.nn.log_softmax(jnp.where(log_p == -jnp.inf, log_p, log_p + tilt))  # what is forbidden stays so

    def _number(self, soft):
        value = jnp.asarray(self.reward(soft))
        if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(f"Reward: reward(soft) must be one floating number, got {value.dtype}{list(value.shape)}.")
        return value


@pytree
class Exclude:
    """Forbid some ids of a model; made by `exclude`.

    Args:
        model: (x [L], t) -> logits [L, V].
        excludes: the ids, static.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.tokens.Exclude(lambda x, t: jnp.zeros((1, 3)), (2,))(jnp.array([2]), 1.0).tolist()
        [[0.0, 0.0, -inf]]

    Cost:
        One call of the model.
    """

    model: Any = field(convert=_as_model)
    excludes: tuple[int, ...] = static()

    def __call__(self, x, t):
        """The model's logits with -inf at the ids."""
        logits = self.model(x, t)
        check_logits("exclude: model", logits, (x.shape[0], None))
        wrong = [i for i in self.excludes if i >= logits.shape[-1]]
        if wrong:
            raise ValueError(f"exclude: the model has no token {wrong[0]}, its logits have shape {logits.shape}.")
        return logits.at[:, jnp.asarray(self.excludes)].set(-jnp.inf)


def exclude(model: Any, *ids: int) -> Exclude:
    """Forbid ids that a model's head has but no text may hold: its mask, padding.

    Args:
        model: (x [L], t) -> logits [L, V].
        *ids: ids in 0..V-1.

    Returns:
        A model whose logits are -inf there, and that says so.

    Raises:
        ValueError: without an id, or for one that is negative; at the call, for one beyond V.
        TypeError: for a model that cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> model = js.tokens.exclude(lambda x, t: jnp.zeros((x.shape[0], 3)), 2)   # a head of 2 tokens and the mask
        >>> x = jnp.full(6, 2)
        >>> table = js.tokens.first_hitting(jax.random.key(0), js.tokens.Masked(2), x)
        >>> int(js.tokens.decode(jax.random.key(1), model, x, table).x.max()) < 2
        True

    Cost:
        One call of the model for each call.
    """
    if not ids:
        raise ValueError("exclude: no ids given. Pass those that must not be drawn: js.tokens.exclude(model, mask).")
    return Exclude(model, tuple(check_count("exclude: id", i, low=0) for i in ids))
