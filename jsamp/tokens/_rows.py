"""Run a row on one text: which sites it decodes, the tokens it draws there, which ones it masks again."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp.select import draw_categorical
from jsamp.select._bits import log_clocks, uniform

UNMASK, REMASK, DRAW, RANK, MID, POST = range(6)
"""Streams of random numbers of a row."""


class State(NamedTuple):
    """Carry what lasts from row to row, for one text or for a population."""

    x: Any
    log_prob: Any  # of each token when it was drawn
    free: Any  # sites that were masked at the start
    memory: Any  # [G, V] the last prediction at the next row's sites; None without extrapolation
    fresh: Any  # whether that prediction still goes with x
    owner: Any  # which particle's order each particle follows; None when they share one


def choose(row, key, state):
    """Which entries of the row's list of sites are decoded, known before the network is called."""
    hidden = state.x == row.mask
    if row.site is not None:
        return (row.site >= 0) & hidden[row.site]
    prob = row.unmask
    if row.by_confidence:
        prob = prob + _shared_out(row, state) / jnp.maximum(jnp.sum(hidden), 1)
    return hidden & (uniform(jax.random.fold_in(key, UNMASK), state.x.shape) < prob)


def _shared_out(row, state):
    """How many tokens are masked again, on average; as many more masks must be there to take their place."""
    hidden = state.x == row.mask
    most = jnp.sum(hidden) * (1 - row.unmask)
    return jnp.where(jnp.any(state.free & ~hidden), jnp.minimum(row.remask, most), 0)


def _draw_sites(key, transform, logits_at, sites, active, count, x, log_prob):
    """Draw a token at each active site, one after the other: a draw never holds more than one row of logits."""
    order = jnp.argsort(~active, stable=True)
    key = jax.random.fold_in(key, DRAW)

    def one(i, carry):
        x, log_prob = carry
        i = order[i]
        site = jnp.where(active[i], sites[i], x.shape[0])  # a site beyond the end is not written
        logits = transform(logits_at(i, sites[i]), x)
        token = draw_categorical(jax.random.fold_in(key, sites[i]), logits)
        log_p = jax.nn.log_softmax(logits)[token]
        x = x.at[site].set(token.astype(x.dtype), mode="drop")
        return x, log_prob.at[site].set(log_p.astype(log_prob.dtype), mode="drop")

    return jax.lax.fori_loop(0, count, one, (x, log_prob))


def _extrapolate(lean, now, before):
    """Log-probabilities at a later time: along the line through the two latest ones."""
    now = jax.nn.log_softmax(now.astype(jnp.float32))
    before = jax.nn.log_softmax(before.astype(jnp.float32))
    both = jnp.isfinite(now) & jnp.isfinite(before) & (lean > 0)
    return jnp.where(both, now + lean * jnp.where(both, now - before, 0), now)


def write(key, transform, row, logits, active, state):
    """Tokens at the sites that a row decodes, for one text."""
    x, log_prob, length = state.x, state.log_prob, state.x.shape[0]
    sites = jnp.arange(length) if row.site is None else row.site
    at, count = (lambda i, site: logits[site]), sites.shape[0]
    if row.lean is not None:
        at = lambda i, site: _extrapolate(row.lean[i] * state.fresh, logits[site], state.memory[i])
    if row.site is None:
        count = jnp.sum(active)
    x, log_prob = _draw_sites(key, transform, at, sites, active, count, x, log_prob)
    if row.left is not None:
        x, log_prob = _most_confident(key, row, state, active, x, log_prob)
    if row.lean is not None:
        memory = logits[row.following].astype(jnp.float32)
        state = state._replace(memory=memory, fresh=jnp.ones_like(state.fresh))
    return state._replace(x=x, log_prob=log_prob)


def _most_confident(key, row, state, active, x, log_prob):
    """Of the tokens just drawn keep the most probable ones, so that a given share of masks is left."""
    keep = jnp.sum(active) - jnp.floor(row.left * jnp.sum(state.free) + 1e-4).astype(jnp.int32)
    score = log_prob - row.heat * log_clocks(jax.random.fold_in(key, RANK), x.shape)
    rank = jnp.argsort(jnp.argsort(jnp.where(active, -score, jnp.inf)))
    accept = active & (rank < jnp.maximum(keep, 1))
    return jnp.where(accept, x, state.x), jnp.where(accept, log_prob, state.log_prob)


def jump(key, transform, rates, row, logits, state):
    """One step of tau-leaping: which sites leave, and where they go."""
    rate = jnp.asarray(rates(state.x, row.t, logits), jnp.float32)
    if rate.shape != logits.shape:
        raise ValueError(f"decode: rates must return [L, V] like the logits, {logits.shape}; got {rate.shape}.")
    own = jax.nn.one_hot(state.x, rate.shape[-1], dtype=bool)
    rate = jnp.where(own, 0, rate)
    leave = -jnp.expm1(-jnp.sum(rate, -1) * (row.t - row.t_next))
    active = uniform(jax.random.fold_in(key, UNMASK), state.x.shape) < leave
    log_rate = jnp.log(rate)
    args = jnp.arange(state.x.shape[0]), active, jnp.sum(active)
    bad = jnp.any(~(rate >= 0), -1)
    x, log_prob = _draw_sites(key, transform, lambda i, site: log_rate[site], *args, state.x, state.log_prob)
    return state._replace(x=jnp.where(bad, -1, x), log_prob=log_prob)


def remask(row, key, before, after):
    """Mask decoded tokens again, those that were tokens before the row."""
    if row.remask is None:
        return after
    clean = before.free & (before.x != row.mask) & (before.x >= 0)
    prob = row.remask
    if row.by_confidence:
        doubt = jnp.where(clean, jnp.exp(-jnp.exp(before.log_prob)), 0)  # in [1/e, 1]: nothing overflows
        prob = _shared_out(row, before) * doubt / jnp.maximum(jnp.sum(doubt), 0.1)
    hit = clean & (uniform(jax.random.fold_in(key, REMASK), before.x.shape) < prob)
    zero = jnp.zeros_like(after.log_prob)
    return after._replace(x=jnp.where(hit, row.mask, after.x), log_prob=jnp.where(hit, zero, after.log_prob))
