"""The likelihood bound of a masked diffusion model."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_choice, check_count, check_key, concrete
from jsamp._core._types import Key
from jsamp.estimate import Estimate
from jsamp.select._bits import uniform
from jsamp.tokens._decoding import check_process
from jsamp.tokens._process import Masked
from jsamp.tokens._protocol import check_holds, check_logits, check_mask, check_tokens

SPREADS = ("stratified", "antithetic", "independent")


def nelbo(
    key: Key,
    model: Any,
    x: Any,
    process: Masked,
    *,
    num: int = 64,
    spread: Literal["stratified", "antithetic", "independent"] = "stratified",
    block: int = 16,
) -> Estimate:
    """Estimate the bound -log p(x) <= sum_n E (1/n) sum_l -log p(x_l | x_n) of a text, in nats.

    x_n has n of its L sites masked, uniformly at random, as just before a hitting time, which is the network's t; n
    runs over 1..L, l over the masked sites. That is the continuous-time bound with its integral over the mask
    probability done exactly, so it does not depend on the process's alpha but through the network. With exact
    conditionals it is exact on average: -log p(x) for one text, the entropy for texts of the model. Divide by L log 2
    for bits per token.

    Args:
        key: one key.
        model: callable tree (x [L], t) -> logits [L, V].
        x: [L] tokens, none masked.
        process: the absorbing process.
        num: network calls, static; even for "antithetic", and at least 2.
        spread: of n over 1..L (static): "stratified" (one in each of `num` equal slices), "antithetic" (pairs n, L + 1
            - n), or "independent".
        block: how many of them are called at once, static.

    Returns:
        `Estimate(value, stderr, ess)`; the error of "stratified" comes from neighbouring slices, and is rather too
        large.

    Raises:
        ValueError: for a text with masks, an unknown spread, an odd number of antithetic draws, or a mask id inside the
            vocabulary.
        TypeError: for integer logits.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> model = lambda x, t: jnp.zeros((x.shape[0], 4))
        >>> bound = js.tokens.nelbo(jax.random.key(0), model, jnp.array([0, 3, 1]), js.tokens.Masked(4))
        >>> bool(abs(bound.value - 3 * jnp.log(4)) < 1e-4)
        True

    Cost:
        num network calls, `block` at a time.

    References:
        Zheng et al., "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling", 2024, arXiv:2409.02908. Sahoo et al., "Simple and Effective Masked Diffusion Language
        Models", 2024, arXiv:2406.07524 (low-discrepancy times).
    """
    check_key(key, "nelbo")
    check_process("nelbo", process)
    check_choice("nelbo: spread", spread, SPREADS)
    num, block = check_count("nelbo: num", num, low=2), check_count("nelbo: block", block)
    if spread == "antithetic" and num % 2:
        raise ValueError(f"nelbo: num must be even for spread='antithetic', got {num}.")
    x = check_tokens("nelbo: x", x)
    check_holds("nelbo: x", x, process.mask)
    model = as_tree("nelbo: model", model, "model(x, t)")
    logits = jax.eval_shape(model, jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct((), jnp.float32))
    vocabulary = check_logits("nelbo: model", logits, (x.shape[0], None))
    check_mask("nelbo", model, process.mask, vocabulary)
    known = concrete(x)
    if known is not None and (np.any(known == process.mask) or np.any((known < 0) | (known >= vocabulary))):
        raise ValueError(f"nelbo: x must be a whole text of ids 0..{vocabulary - 1} without masks.")
    return _nelbo(key, model, x, process, num, spread, block)


@functools.partial(jax.jit, static_argnames=("num", "spread", "block"))
def _nelbo(key, model, x, process, num, spread, block):
    length = x.shape[0]
    k0, k1 = jax.random.split(key)
    if spread == "antithetic":
        half = uniform(k0, (num // 2,))
        u = jnp.stack([half, 1 - half], 1).reshape(-1)
    else:
        u = uniform(k0, (num,))
        u = (jnp.arange(num) + u) / num if spread == "stratified" else u
    counts = jnp.clip(jnp.ceil(u * length).astype(jnp.int32), 1, length)

    def term(args):
        i, n = args
        clock = uniform(jax.random.fold_in(k1, i), (length,))
        prob = jnp.sort(clock)[n - 1]
        hidden = clock <= prob
        t = jnp.asarray(process.time(prob * jnp.asarray(process.mask_prob(1.0), jnp.float32)), jnp.float32)
        logits = model(jnp.where(hidden, process.mask, x).astype(x.dtype), t)
        log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        surprise = -jnp.take_along_axis(log_p, x[:, None], 1)[:, 0]
        return length * jnp.sum(jnp.where(hidden, surprise, 0)) / n

    values = jax.lax.map(term, (jnp.arange(num), counts), batch_size=min(block, num))
    value = jnp.mean(values)
    if spread == "independent":
        variance = jnp.var(values, ddof=1) / num
    elif spread == "antithetic":
        variance = jnp.var(values.reshape(-1, 2).mean(1), ddof=1) / (num // 2) if num > 2 else jnp.nan
    else:
        variance = jnp.sum(jnp.diff(values) ** 2) / (2 * (num - 1)) / num
    return Estimate(value, jnp.sqrt(variance), jnp.asarray(float(num)))
