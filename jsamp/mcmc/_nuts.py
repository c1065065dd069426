"""The No-U-Turn sampler, iterative and bounded: one leapfrog step per iteration, one model call site."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields, _tree
from jsamp._core._mesh import vary
from jsamp._core._pytree import field, pytree, static
from jsamp._core._random import threefry, words
from jsamp._core._types import LogDensity, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._hamiltonian import DIVERGENCE, HMCInfo, energy_of, leapfrog


class _End(NamedTuple):
    x: Any
    r: Any
    grad: Any


class _Tree(NamedTuple):
    x: Any  # the draw from the tree so far
    point: k.Point
    energy: Any
    weight: Any  # log of the summed weights exp(-energy error)
    rho: Any  # sum of the whitened momenta


# Random numbers of a doubling and of a leaf are drawn one iteration ahead and carried: else XLA draws them again for
# every coordinate that they decide.
class _Walk(NamedTuple):
    left: _End
    right: _End
    tree: _Tree
    forward: Any  # the side of the coming doubling
    log_v: Any  # log of the uniform number that takes or leaves its draw
    ends: Any  # (momenta, running sums) at the first leaf of every open subtree, [max_depth, ...]; the last is scratch
    depth: Any  # the same for every chain
    total: Any
    accepts: Any
    diverged: Any
    done: Any


class _Growth(NamedTuple):
    now: _End
    tree: _Tree
    ends: Any
    log_u: Any  # log of the uniform number that takes or leaves the coming leaf
    leaf: Any  # the same for every chain
    count: Any  # leaves until the chain's subtree failed
    accepts: Any
    fate: Any


TURNED, DIVERGED = np.int32(1), np.int32(2)  # fates of a subtree, 0 while it is good


# Counters of the trajectory's own draws start here, beyond those that the momentum takes of the same key.
LEAVES, DOUBLINGS = np.uint32(2**31), np.uint32(2**31 + 1)


# Vmapped chains double together: the loops go on while any chain wants to, on counters that all chains share, and a
# chain that has failed is left to run, its results unused. So nothing is frozen leaf by leaf, and slots of `ends` are
# written and read where they lie.
@jax.custom_batching.custom_vmap
def _anyone(flag):
    return flag


@_anyone.def_vmap
def _anyone_of_many(size, batched, flag):
    return _anyone(jnp.any(flag, axis=0)), False


@functools.cache
def _put(axis):
    # Writes a slot along an axis. The rule of JAX for a batch is a scatter, which costs several operations.
    @jax.custom_batching.custom_vmap
    def put(slots, one, slot):
        return jax.lax.dynamic_update_slice_in_dim(slots, jnp.expand_dims(one, axis), slot, axis)

    @put.def_vmap
    def put_many(size, batched, slots, one, slot):
        if batched[2]:
            axes = tuple(0 if flag else None for flag in batched)
            return jax.vmap(lambda s, o, i: put.fun(s, o, i), axes)(slots, one, slot), True
        slots, one = (
            leaf if flag else jnp.broadcast_to(leaf, (size, *leaf.shape))
            for leaf, flag in zip((slots, one), batched, strict=False)
        )
        return _put(axis + 1)(slots, one, slot), True

    return put


def _log_uniform(word):
    return jnp.log(((word >> 8).astype(jnp.float32) + 0.5) * 2.0**-24)


def _turning(left, right, rho):
    # Ends count half: the criterion is that of the trapezoid sum, as in current practice.
    middle = jax.tree.map(lambda s, a, b: s - (a + b) / 2, rho, left, right)
    return (_tree.dot(left, middle) <= 0) | (_tree.dot(right, middle) <= 0)


@pytree
class NUTS:
    """Run trajectories that stop by themselves, with multinomial draws, iterative and bounded: the No-U-Turn sampler.

    The trajectory doubles until its ends turn towards each other, up to 2^`max_depth` - 1 leapfrog steps. Subtrees
    are built leaf by leaf with O(max_depth) checkpoints; the draw is uniform by weight within a subtree and biased
    towards the newer half between them. Vmapped chains double together and wait for the longest trajectory.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: leapfrog step > 0.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`: the inverse mass matrix.
        max_depth: bound on the number of doublings (static).

    Raises:
        TypeError: for a position below float32.
        ValueError: for a step size that is not positive, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.NUTS(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        At most 2^max_depth - 1 gradients per draw; memory 2 max_depth positions. Not reverse-differentiable.

    References:
        Hoffman and Gelman, "The No-U-Turn Sampler", 2014, arXiv:1111.4246; Betancourt, "A conceptual introduction to
        Hamiltonian Monte Carlo", 2017, arXiv:1701.02434; Phan, Pradhan and Jankowiak, 2019, arXiv:1912.11554
        (iterative form).
    """

    logdensity: LogDensity = field(convert=_fields.callable_as("logdensity(x)"))
    step_size: Scalar = field(default=0.1, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)
    max_depth: int = static(default=10, convert=_fields.count(high=20))

    caches = "gradient"
    accept_target = 0.8

    def init(self, x, key=None):
        """Start at x."""
        x = k.begin(self, x)
        return k.State(x, k.evaluate(self, x), None)

    def step(self, key, state):
        """Run one trajectory."""
        x, point, _ = state
        seed = words(key).reshape(-1)[:2]
        r, _ = k.noise(key, x)
        start = energy_of(point.logdensity, r)
        end, zero = _End(x, r, point.grad), jnp.zeros_like(start)
        count, off = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        ends = jax.tree.map(lambda leaf: jnp.zeros((self.max_depth, *leaf.shape), leaf.dtype), (r, r))
        tree, coins = _Tree(x, point, start, zero, r), _coins(seed, count)
        walk = _Walk(end, end, tree, *coins, ends, count, count, zero, off, off)
        walk = vary(walk, key, state, self)
        walk = jax.lax.while_loop(lambda w: _anyone(~w.done), lambda w: self._double(seed, start, w), walk)
        aux = HMCInfo(walk.tree.energy, walk.total)
        state = k.State(walk.tree.x, walk.tree.point, None)
        return state, k.info(x, accept=walk.accepts / walk.total, nfe=walk.total, diverged=walk.diverged, aux=aux)

    def _double(self, seed, start, w):
        # Build a subtree as large as the tree on a random side; join it unless it turns or diverges.
        sub = self._subtree(seed, start, _tree.where(w.forward, w.right, w.left), w)
        good = sub.fate == 0
        newer = good & (w.log_v < sub.tree.weight - w.tree.weight)
        left = _tree.where(good & ~w.forward, sub.now, w.left)
        right = _tree.where(good & w.forward, sub.now, w.right)
        rho = jax.tree.map(jnp.add, w.tree.rho, sub.tree.rho)
        weight = jnp.logaddexp(w.tree.weight, sub.tree.weight)
        tree = _tree.where(newer, sub.tree, w.tree)._replace(weight=weight, rho=rho)
        depth = w.depth + 1
        done = ~good | _turning(left.r, right.r, rho) | (depth >= self.max_depth)
        total, accepts = w.total + sub.count, w.accepts + sub.accepts
        diverged = w.diverged | (sub.fate == DIVERGED)
        return _Walk(left, right, tree, *_coins(seed, depth), sub.ends, depth, total, accepts, diverged, done)

    def _subtree(self, seed, start, end, w):
        eps = jnp.where(w.forward, self.step_size, -self.step_size).astype(start.dtype)
        size = jnp.left_shift(1, w.depth)
        tree = w.tree._replace(weight=jnp.full_like(start, -jnp.inf), rho=_tree.zeros_like(end.r))
        zero, none = jnp.zeros_like(start), jnp.zeros((), jnp.int32)
        # The first leaf is always taken. A chain that is done fails before it.
        fate = jnp.where(w.done, TURNED, np.int32(0))
        first = vary(_Growth(end, tree, w.ends, zero - jnp.inf, none, none, zero, fate), eps, w, seed)
        return jax.lax.while_loop(
            lambda g: (g.leaf < size) & _anyone(g.fate == 0), lambda g: self._leaf(seed, start, eps, size - 1, g), first
        )

    def _leaf(self, seed, start, eps, before, g):
        x, r, point = leapfrog(self, g.now.x, g.now.r, g.now.grad, eps)
        rho = jax.tree.map(jnp.add, g.tree.rho, r)
        energy = energy_of(point.logdensity, r)
        energy = jnp.where(jnp.isnan(energy), jnp.inf, energy)
        weight = start - energy
        summed = jnp.logaddexp(g.tree.weight, weight)
        taken = _tree.where(g.log_u < weight - summed, (x, point, energy), g.tree[:3])
        # An even leaf n opens subtrees, filed at the number of ones in n / 2; an odd one closes as many as its trailing
        # ones.
        ones = jax.lax.population_count(g.leaf >> 1)
        closes = jax.lax.population_count(g.leaf & ~(g.leaf + 1))
        slot = jnp.where(g.leaf & 1 == 0, ones, self.max_depth - 1).astype(jnp.uint32)
        ends = jax.tree.map(lambda e, v: _put(0)(e, v, slot), g.ends, (r, rho))

        def check(slot, fate):
            slot = jnp.asarray(slot, jnp.uint32)
            first, total = jax.tree.map(lambda e: jax.lax.dynamic_index_in_dim(e, slot, 0, False), ends)
            between = jax.tree.map(lambda after, before, own: after - before + own, rho, total, first)
            return jnp.where((fate == 0) & _turning(first, r, between), TURNED, fate)

        alive = g.fate == 0
        known = weight < jnp.inf  # not where the start lies outside the support, or the log-density is +inf or NaN
        fate = jnp.where(alive & ~(known & (weight >= -DIVERGENCE)), DIVERGED, g.fate)
        fate = jax.lax.fori_loop(ones - closes + 1, ones + 1, check, fate)
        accepts = g.accepts + jnp.where(alive & known, jnp.exp(jnp.minimum(weight, 0)), 0)
        leaf = g.leaf + 1
        word, _ = threefry(seed, (before + leaf).astype(jnp.uint32), LEAVES)
        log_u = _log_uniform(word).astype(start.dtype)
        end, tree = _End(x, r, point.grad), _Tree(*taken, summed, rho)
        return _Growth(end, tree, ends, log_u, leaf, g.count + alive, accepts, fate)


def _coins(seed, depth):
    # The side of a doubling, and the log of the uniform number that takes or leaves its draw.
    side, word = threefry(seed, depth.astype(jnp.uint32), DOUBLINGS)
    return side & 1 == 1, _log_uniform(word)
