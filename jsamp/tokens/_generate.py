"""Autoregressive text: one token after the other, plain, watermarked, or drafted by a smaller model."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_key, concrete, shown
from jsamp._core._like import as_arrays
from jsamp._core._mesh import vary
from jsamp._core._types import Key, Result
from jsamp.select import draw_categorical
from jsamp.select._bits import uniform
from jsamp.tokens._protocol import as_transform, check_holds, check_logits, check_tokens


class GenerateInfo(NamedTuple):
    """Report on a generated text.

    Args:
        ok: whether every token was drawn from logits that were not NaN, nor -inf throughout.
        log_prob: [num] log-probability of each token under the transformed logits; 0 after the stop.
        length: tokens up to the stop, and with it.
        carry: the model's carry after the last token but one, to go on from.
        shift: row of the watermark's key at the first token, or None.

    Example:
        >>> import jsamp as js
        >>> js.tokens.GenerateInfo(ok=True, log_prob=None, length=7, carry=None, shift=None).length
        7
    """

    ok: Any
    log_prob: Any
    length: Any
    carry: Any
    shift: Any


def _check_prompt(who: str, prompt: Any) -> jax.Array:
    prompt = jnp.atleast_1d(check_tokens(f"{who}: prompt", prompt, (0, 1)))
    known = concrete(prompt)
    if known is not None and np.any(known < 0):
        raise ValueError(f"{who}: prompt holds the id {int(known.min())}; ids are >= 0.")
    return prompt


def _check_step(who: str, which: str, step: Any, carry: Any, prompt: Any, ahead: int | None = None) -> int:
    """The vocabulary of an autoregressive model, or a refusal of what it returns: its block of `ahead` tokens, too."""
    vocabulary = _check_call(f"{who}: {which}", step, carry, prompt.dtype, ())
    check_holds(f"{who}: prompt", prompt, vocabulary - 1)
    if ahead is not None and hasattr(step, "block"):
        _check_call(f"{who}: {which}.block", step.block, carry, prompt.dtype, (ahead,), vocabulary)
    return vocabulary


def _check_call(name: str, call: Any, carry: Any, dtype: Any, rows: tuple[int, ...], vocabulary: Any = None) -> int:
    out = jax.eval_shape(call, carry, jax.ShapeDtypeStruct(rows, dtype))
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"{name} must return (carry, logits), got {shown(out)}.")
    kind = lambda leaf, rows: (rows + jnp.shape(leaf), jnp.result_type(leaf))
    wanted, got = jax.tree.map(lambda leaf: kind(leaf, rows), carry), jax.tree.map(lambda leaf: kind(leaf, ()), out[0])
    if wanted != got:
        stacked = ", stacked after each token" if rows else ""
        raise TypeError(
            f"{name} must return a carry of the shapes and dtypes it is given{stacked}; {got} is not {wanted}."
        )
    return check_logits(name, out[1], (*rows, vocabulary))


def read_prompt(step: Any, carry: Any, prompt: Any) -> Any:
    """The carry after all tokens of a prompt but the last."""
    return jax.lax.scan(lambda carry, token: (step(carry, token)[0], None), carry, prompt[:-1])[0]


def generate(
    key: Key,
    step: Any,
    carry: Any,
    num: int,
    *,
    prompt: Any = 0,
    transform: Any = None,
    mark: Any = None,
    stop: int | None = None,
) -> Result:
    """Draw a text from an autoregressive model, one token after the other.

    One `lax.scan` of `step`; each draw has 64 random bits, from float32 logits. With a watermark the token at place i
    is `mark.choose(shift + i, logits)`, a function of the mark's key alone; the shift is drawn from `key`, so that
    texts differ, and each is distributed as without a mark.

    Args:
        key: one key; place i draws from `fold_in(key, i)`.
        step: callable tree (carry, token) -> (carry, logits [V]).
        carry: the model's state before the prompt, any tree.
        num: tokens, static.
        prompt: a token id or [n] of them, which the model reads first; its last one yields the first logits.
        transform: logits [V] -> logits [V], or several, from left to right.
        mark: None, or `Exponential`, `InverseTransform`, or an object with their `choose`.
        stop: id after which the text ends: what follows is filled with it.

    Returns:
        `Result(tokens [num], info)` with `info = GenerateInfo(ok, log_prob, length, carry, shift)`.

    Raises:
        TypeError: for a step that cannot be called or changes the types of its carry, integer logits, or a mark that
            does not choose.
        ValueError: for num < 1, or a mark of another vocabulary.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> table = jnp.log(jnp.array([[0.0, 1.0], [1.0, 0.0]]))       # 0 and 1 follow each other
        >>> step = lambda carry, token: (carry, table[token])
        >>> js.tokens.generate(jax.random.key(0), step, (), 4).x.tolist()
        [1, 0, 1, 0]

    Cost:
        num calls of `step` and one for each further token of the prompt; memory of the carry.
    """
    check_key(key, "generate")
    num = check_count("generate: num", num)
    prompt = _check_prompt("generate", prompt)
    step = as_tree("generate: step", step, "step(carry, token)")
    carry = as_arrays(carry)
    vocabulary = _check_step("generate", "step", step, carry, prompt)
    if mark is not None:
        if not callable(getattr(mark, "choose", None)) or not hasattr(mark, "vocabulary"):  # arrays can choose, too
            raise TypeError(f"generate: mark must be js.tokens.Exponential or InverseTransform, got {shown(mark)}.")
        if mark.vocabulary != vocabulary:
            raise ValueError(f"generate: the mark is for {mark.vocabulary} tokens, the model has {vocabulary}.")
    if stop is not None:
        check_count("generate: stop", stop, low=0, high=vocabulary - 1)
    transform = as_transform("generate", transform)
    return _generate(key, step, carry, prompt, transform, mark, num=num, stop=stop)


@functools.partial(jax.jit, static_argnames=("num", "stop"))
def _generate(key, step, carry, prompt, transform, mark, *, num, stop):
    carry = read_prompt(step, carry, prompt)
    shift = None
    if mark is not None:
        shift = jnp.floor(uniform(jax.random.fold_in(key, num), ()) * mark.length).astype(jnp.int32)
    zero = jnp.zeros_like(prompt[-1])
    past = jnp.full((num,), -1, prompt.dtype) + zero

    def one(state, i):
        carry, token, past, done = state
        carry, logits = step(carry, token)
        logits = transform(logits, past)
        own = jax.random.fold_in(key, i)
        new = draw_categorical(own, logits) if mark is None else mark.choose(shift + i, logits)
        log_p = jax.nn.log_softmax(logits)[new]
        if stop is not None:
            new, log_p = jnp.where(done, stop, new), jnp.where(done, 0, log_p)
        new = new.astype(token.dtype)
        state = carry, new, past.at[i].set(new), done | (False if stop is None else new == stop)
        return state, (new, log_p, done)

    start = vary((carry, prompt[-1], past, zero > 0), key, step, carry, prompt, transform, mark)
    (carry, *_), (tokens, log_prob, done) = jax.lax.scan(one, start, jnp.arange(num))
    return Result(tokens, GenerateInfo(jnp.all(tokens >= 0), log_prob, jnp.sum(~done), carry, shift))


class SpeculativeInfo(NamedTuple):
    """Report on a drafted text.

    Args:
        ok: as in `GenerateInfo`.
        calls: calls of the target, each on `ahead + 1` tokens.
        accept: share of the drafted tokens that were accepted, of those that were looked at.
        tested: how many were looked at.

    Example:
        >>> import jsamp as js
        >>> js.tokens.SpeculativeInfo(ok=True, calls=3, accept=0.8, tested=12).calls
        3
    """

    ok: Any
    calls: Any
    accept: Any
    tested: Any


def speculative(
    key: Key,
    draft: Any,
    target: Any,
    carry: Any,
    num: int,
    *,
    ahead: int = 4,
    prompt: Any = 0,
    transform: Any = None,
) -> Result:
    """Draw a text of a large model with few of its calls: a small one drafts, the large one accepts or corrects.

    The draft writes `ahead` tokens; the target reads all of them in one call. Token i is accepted with probability
    min(1, p_i / q_i); at the first refusal a token is drawn from the positive part of p - q, and after `ahead`
    acceptances one more comes from the target. The text is distributed exactly as the target's own, and the rate of
    acceptance is 1 - TV(p, q) at each place.

    Args:
        key: one key.
        draft: callable tree (carry, token) -> (carry, logits [V]), the small model.
        target: the same, the large model. One that reads several tokens at once has a method `block(carry, tokens [K])
            -> (carries, logits [K, V])`, carries stacked after each token.
        carry: (the draft's carry, the target's carry).
        num: tokens, static.
        ahead: tokens drafted in each round, static.
        prompt: a token id or [n] of them, read first.
        transform: applied to the logits of both.

    Returns:
        `Result(tokens [num], info)` with `info = SpeculativeInfo(ok, calls, accept, tested)`.

    Raises:
        TypeError: as `generate`, or for a carry that is not a pair.
        ValueError: for vocabularies that differ, num < 1 or ahead < 1.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> step = lambda carry, token: (carry, jnp.zeros(5))
        >>> result = js.tokens.speculative(jax.random.key(0), step, step, ((), ()), 10, ahead=4)
        >>> float(result.info.accept), int(result.info.calls)       # draft and target agree: 5 tokens each call
        (1.0, 2)

    Cost:
        (1 - a^(ahead + 1)) / (1 - a) tokens for each call of the target at acceptance a; `ahead + 1` draft calls.

    References:
        Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023, arXiv:2211.17192. Chen et
        al., "Accelerating Large Language Model Decoding with Speculative Sampling", 2023, arXiv:2302.01318.
    """
    check_key(key, "speculative")
    num, ahead = check_count("speculative: num", num), check_count("speculative: ahead", ahead)
    prompt = _check_prompt("speculative", prompt)
    if not isinstance(carry, (tuple, list)) or len(carry) != 2:
        raise TypeError(f"speculative: carry must be (the draft's, the target's), got {shown(carry)}.")
    carries = [as_arrays(part) for part in carry]
    steps, sizes = [], []
    for name, step, part in zip(("draft", "target"), (draft, target), carries, strict=True):
        steps.append(as_tree(f"speculative: {name}", step, "step(carry, token)"))
        block = ahead + 1 if name == "target" else None
        sizes.append(_check_step("speculative", name, steps[-1], part, prompt, block))
    if sizes[0] != sizes[1]:
        raise ValueError(f"speculative: the draft has {sizes[0]} tokens, the target {sizes[1]}; they must be the same.")
    transform = as_transform("speculative", transform)
    return _speculative(key, *steps, tuple(carries), prompt, transform, num=num, ahead=ahead)


def _read_block(step, carry, tokens):
    """The model's word after each of several tokens, and its carries."""
    if hasattr(step, "block"):
        return step.block(carry, tokens)

    def one(carry, token):
        carry, logits = step(carry, token)
        return carry, (carry, logits)

    return jax.lax.scan(one, carry, tokens)[1]


def _draft(key, step, carry, token, past, count, transform, ahead):
    """Tokens that the small model writes, with its log-probabilities, and its carries after each."""

    def one(state, i):
        carry, token, past = state
        carry, logits = step(carry, token)
        log_q = jax.nn.log_softmax(transform(logits, past))
        new = draw_categorical(jax.random.fold_in(key, i), log_q).astype(token.dtype)
        return (carry, new, past.at[count + i].set(new)), (carry, new, log_q)

    # One step more than is drafted, for the carry after the last token.
    return jax.lax.scan(one, (carry, token, past), jnp.arange(ahead + 1))[1]


def _so_far(past, drafted, count, num):
    """The text behind the num-th drafted token: what was accepted, and the draft before it."""
    place = jnp.arange(past.shape[0]) - count
    return jnp.where(place < 0, past, jnp.where(place < num, drafted[jnp.clip(place, 0, drafted.shape[0] - 1)], -1))


@functools.partial(jax.jit, static_argnames=("num", "ahead"))
def _speculative(key, draft, target, carries, prompt, transform, *, num, ahead):
    carries = tuple(read_prompt(s, c, prompt) for s, c in zip((draft, target), carries, strict=True))
    zero = jnp.zeros_like(prompt[-1])
    past = jnp.full((num + ahead + 1,), -1, prompt.dtype) + zero

    def round_(state):
        carries, token, past, count, calls, accepted, tested = state
        k0, k1, k2 = jax.random.split(jax.random.fold_in(key, count), 3)
        small, drafted, log_q = _draft(k0, draft, carries[0], token, past, count, transform, ahead)
        large, logits = _read_block(target, carries[1], jnp.concatenate([token[None], drafted[:ahead]]))
        places = jnp.arange(ahead + 1)
        seen = jax.vmap(lambda n: _so_far(past, drafted, count, n))(places)
        log_p = jax.vmap(lambda row, tokens: jax.nn.log_softmax(transform(row, tokens)))(logits, seen)
        at = lambda rows: jnp.take_along_axis(rows[:ahead], drafted[:ahead, None], 1)[:, 0]
        agree = jnp.log(uniform(k1, (ahead,))) < at(log_p) - at(log_q)
        good = jnp.sum(jnp.cumprod(agree.astype(jnp.int32)), dtype=jnp.int32)
        p, q = jnp.exp(log_p[good]), jnp.exp(log_q[good])
        rest = jnp.where(good < ahead, jnp.maximum(p - q, 0), p)
        rest = jnp.where(jnp.any(rest > 0), rest, p)
        new = draw_categorical(k2, jnp.log(rest)).astype(token.dtype)
        written = jnp.where(places == good, new, drafted)
        past = jax.lax.dynamic_update_slice(past, jnp.where(places <= good, written, -1), (count,))
        carries = tuple(jax.tree.map(lambda c: c[good], part) for part in (small, large))
        looked = good + (good < ahead)
        return carries, new, past, count + good + 1, calls + 1, accepted + good, tested + looked

    count = zero.astype(jnp.int32)
    start = (carries, prompt[-1], past, count, count, count, count)
    start = vary(start, key, draft, target, carries, prompt, transform)
    *_, past, _, calls, accepted, tested = jax.lax.while_loop(lambda s: s[3] < num, round_, start)
    tokens = past[:num]
    accept = accepted / jnp.maximum(tested, 1)
    return Result(tokens, SpeculativeInfo(jnp.all(tokens >= 0), calls, accept, tested))
