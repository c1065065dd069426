"""What the objects of this room may say about themselves: every optional name, its default, and who asks for it.

A user's own object obeys the same page. Nothing is inherited; a name that is absent has its default.

model(x [L], t) -> logits [L, V]                a network of tokens, any callable tree
    excludes = ()                               ids whose logits it sets to -inf; asked by `decode` and `nelbo`, so that
                                                a mask id inside the vocabulary is known to be harmless
transform(logits [V]) -> logits [V]             what `decode`, `generate`, `speculative` apply before a draw
    uses_tokens = False                         whether it is called as transform(logits, tokens), with the tokens so
                                                far ([n] integers, negative where there is none yet)
alpha(t) -> P(a site is clean)                  of a `Masked` process, decreasing from 1 at t = 0
    mask_prob(t) = 1 - alpha(t)                 a form that does not cancel; asked by `Masked`
    time(mask_prob)                             its inverse (default: bisection); asked by `Masked`
remask.schedule(process, grid)                  -> (mask_prob [N + 1], remask [N], t [N]); asked by `ancestral`
    by_confidence = False                       whether a row's remasking is shared out by the confidence of tokens
step(carry, token) -> (carry, logits [V])       an autoregressive model; asked by `generate`, `speculative`
    block(carry, tokens [K])                    -> (carries, logits [K, V]), carries stacked after each token: how the
                                                target reads several tokens in one call (default: a scan over `step`);
                                                asked by `speculative`
mark.choose(j, logits) -> token                 a watermark; asked by `generate`
mark.costs(tokens [m]) -> [m, length]           cost of aligning each token with each key row; asked by `detect`
mark.fresh(key) -> mark                         the same kind of mark under another key; asked by `detect`
mark.length, mark.vocabulary                    rows of the key, categories; asked by `generate`, `detect`

Steers of `decode` are those of `js.sample`: init, time, mid, post, final, and optionally wrap.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import concrete, shown


@runtime_checkable
class Model(Protocol):
    """A network of tokens, such as a masked-diffusion transformer: (x [L] integers, t) -> logits [L, V].

    Any callable tree fits; nothing is inherited. Logits are those of the clean token at each site; what the network
    says at clean sites is not read, so carrying them over is not its business. `V` counts tokens: a mask id inside
    0..V-1 is refused unless the model says in `excludes` that it forbids it (`js.tokens.exclude` does).

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> isinstance(lambda x, t: jnp.zeros((x.shape[0], 5)), js.tokens.Model)
        True
    """

    def __call__(self, x: Any, t: Any) -> Any: ...


def check_tokens(name: str, x: Any, ndim: tuple[int, ...] = (1,)) -> jax.Array:
    """Return tokens as an integer array, or refuse what is not one."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be an array of token ids, got {shown(x)}.") from error
    if 0 in x.shape:
        raise ValueError(f"{name} is empty: shape {x.shape}.")
    if not jnp.issubdtype(x.dtype, jnp.signedinteger):  # signed: -1 says that a token could not be drawn
        raise TypeError(f"{name} must be signed integer token ids, got {x.dtype}. Convert them: x.astype('int32').")
    if x.ndim not in ndim:
        wanted = " or ".join(("one id", "[L]", "[P, L]")[n] for n in ndim)
        raise ValueError(f"{name} must be {wanted}, got shape {x.shape}. Use jax.vmap over further axes.")
    return jax.lax.convert_element_type(x, x.dtype)  # never weakly typed: a carry keeps its type


def check_holds(name: str, x: jax.Array, largest: int) -> None:
    """Refuse tokens of a dtype in which the largest id would become another one."""
    if largest > jnp.iinfo(x.dtype).max:
        raise ValueError(f"{name} is {x.dtype}, which cannot hold the id {largest}. Use x.astype('int32').")


def check_logits(name: str, logits: Any, shape: tuple[int | None, ...]) -> int:
    """The vocabulary of an abstract or concrete logits array, refused unless floating and of this shape."""
    found: tuple[int, ...] = tuple(getattr(logits, "shape", ()))
    fits = len(found) == len(shape) and all(n in (None, got) for n, got in zip(shape, found, strict=True))
    if not fits:
        wanted = ", ".join("V" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must return logits [{wanted}], got {found or shown(logits)}.")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"{name} must return floating logits, got {logits.dtype}.")
    if found[len(shape) - 1] < 1:
        raise ValueError(f"{name} must return logits of at least one token, got shape {found}.")
    return found[len(shape) - 1]


def check_usable(name: str, logits: Any) -> None:
    """Refuse concrete logits that are NaN, +inf, or -inf throughout; traced ones give -1 for the token."""
    known = concrete(logits)
    if known is not None:
        known = known.astype("float64")
        if not np.all(known < np.inf) or not np.all(np.any(known > -np.inf, -1)):
            raise ValueError(f"{name} must be < inf, not NaN, and not all -inf in a row.")


def check_mask(who: str, model: Any, mask: int | None, vocabulary: int) -> None:
    """Refuse a mask id that the model may draw as a token."""
    if mask is None or mask >= vocabulary or mask in tuple(getattr(model, "excludes", ())):
        return
    raise ValueError(
        f"{who}: the mask id {mask} is one of the model's {vocabulary} tokens, so it could be drawn. Pass "
        f"js.tokens.exclude(model, {mask}), or a model whose logits end before the mask id."
    )


class Transforms:
    """Transforms applied from left to right; made by `as_transform`."""

    def __init__(self, parts: tuple[Any, ...]):
        self.parts = parts

    def __call__(self, logits: Any, tokens: Any) -> Any:
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        for part in self.parts:
            found = part(logits, tokens) if getattr(part, "uses_tokens", False) else part(logits)
            check_logits("transform", found, logits.shape)
            logits = found
        return logits


jax.tree_util.register_pytree_node(Transforms, lambda t: (t.parts, None), lambda _, parts: Transforms(tuple(parts)))


def as_transform(who: str, transform: Any) -> Transforms:
    """One transform, a sequence of them, or None, as one object that is called with the tokens too."""
    given = () if transform is None else transform if isinstance(transform, (tuple, list)) else (transform,)
    return Transforms(tuple(as_tree(f"{who}: transform", part, "transform(logits)") for part in given))
