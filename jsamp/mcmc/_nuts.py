"""The No-U-Turn sampler as one flat, bounded loop: one leapfrog step per iteration, one model call site."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _tree
from jsamp._core._pytree import pytree, static
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._hamiltonian import DIVERGENCE, HMCInfo, energy_of, leapfrog
from jsamp.mcmc._metric import check_metric


class _End(NamedTuple):
    x: Any
    r: Any
    grad: Any


class _Tree(NamedTuple):
    x: Any  # the proposal drawn from the tree so far
    point: k.Point
    energy: Any
    weight: Any  # log of the summed weights exp(-energy error)
    rho: Any  # sum of the whitened momenta


class _Walk(NamedTuple):
    left: _End
    right: _End
    tree: _Tree
    now: _End
    sub: _Tree
    leaf: Any  # index inside the subtree being built
    depth: Any
    forward: Any
    checkpoints: Any  # whitened momenta and running sums at the starts of open subtrees
    sums: Any
    total: Any
    accepts: Any
    diverged: Any
    done: Any


def _turning(left, right, rho):
    # Ends count half: the criterion is that of the trapezoid sum, as in current practice.
    middle = jax.tree.map(lambda s, a, b: s - (a + b) / 2, rho, left, right)
    return (_tree.dot(left, middle) <= 0) | (_tree.dot(right, middle) <= 0)


@pytree
class NUTS:
    """The No-U-Turn sampler: trajectories that stop by themselves, multinomial draws, iterative and bounded.

    The trajectory doubles until its ends turn towards each other, up to 2^`max_depth` - 1 leapfrog steps. Subtrees
    are built leaf by leaf with O(max_depth) checkpoints; the draw is uniform by weight within a subtree and biased
    towards the newer half between them. Doubling and leapfrog run in one loop, so vmapped chains wait for the longest
    trajectory once, not once per doubling.

    Args:
        logdensity: log-density of one sample up to a constant.
        step_size: leapfrog step > 0.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`: the inverse mass matrix.
        max_depth: bound on the number of doublings (static).

    Raises:
        TypeError: for a position below float32.
        ValueError: for a step size that is not positive, or a metric that does not fit x.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.NUTS(lambda x: -jnp.sum(x**2) / 2, step_size=0.5)
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        At most 2^max_depth - 1 gradients per draw; memory 2 max_depth positions. Not reverse-differentiable.

    References:
        Hoffman and Gelman, "The No-U-Turn Sampler", 2014, arXiv:1111.4246; Betancourt, "A conceptual introduction to
        Hamiltonian Monte Carlo", 2017, arXiv:1701.02434; Phan, Pradhan and Jankowiak, 2019, arXiv:1912.11554
        (iterative form).
    """

    logdensity: Any
    step_size: Any = 0.1
    metric: Any = None
    max_depth: int = static(default=10)

    def __post_init__(self):
        k.prepare(self)
        check_metric("NUTS", self.metric)
        _checks.check_count("NUTS: max_depth", self.max_depth, high=20)

    def init(self, x, key=None):
        """The state at x."""
        x = k.position("NUTS", x)
        check_metric("NUTS", self.metric, x)
        return k.State(x, k.evaluate(self, x), None)

    def step(self, key, state):
        """One trajectory."""
        draw, turn = jax.random.split(key)
        x, point, _ = state
        r = _tree.normal_like(draw, x)
        start = energy_of(point.logdensity, r)
        end, zero = _End(x, r, point.grad), jnp.zeros_like(start)
        stack = jax.tree.map(lambda leaf: jnp.zeros((self.max_depth, *leaf.shape), leaf.dtype), r)
        count = jnp.zeros((), jnp.int32)
        off = jnp.zeros((), bool)
        tree = _Tree(x, point, start, zero, r)
        forward = jax.random.bernoulli(jax.random.fold_in(turn, 0))
        walk = _Walk(end, end, tree, end, tree, count, count, forward, stack, stack, count, zero, off, off)
        walk = jax.lax.while_loop(
            lambda w: ~w.done, lambda w: self._grow(turn, start, w), k.vary(walk, key, state, self)
        )
        accept = walk.accepts / walk.total
        aux = HMCInfo(walk.tree.energy, walk.total)
        state = k.State(walk.tree.x, walk.tree.point, None)
        return state, k.info(x, accept=accept, nfe=walk.total, diverged=walk.diverged, aux=aux)

    def _grow(self, key, start, w):
        # Add one leaf to the subtree; merge the subtree when it is complete.
        total = w.total + 1
        u, v, flip = jax.random.uniform(jax.random.fold_in(key, total), (3,), start.dtype)
        eps = jnp.where(w.forward, self.step_size, -self.step_size).astype(start.dtype)
        x, r, point = leapfrog(self, w.now.x, w.now.r, w.now.grad, eps)
        now = _End(x, r, point.grad)
        energy = energy_of(point.logdensity, r)
        energy = jnp.where(jnp.isnan(energy), jnp.inf, energy)
        weight = start - energy
        diverged = energy - start > DIVERGENCE

        first = w.leaf == 0
        rho = jax.tree.map(lambda s, r: jnp.where(first, r, s + r), w.sub.rho, r)
        summed = jnp.where(first, weight, jnp.logaddexp(w.sub.weight, weight))
        take = first | (jnp.log(u) < weight - summed)
        chosen = _tree.where(take, (x, point, energy), (w.sub.x, w.sub.point, w.sub.energy))
        sub = _Tree(x=chosen[0], point=chosen[1], energy=chosen[2], weight=summed, rho=rho)

        # An even leaf n opens subtrees, filed at the number of ones in n / 2; an odd one closes as many as its trailing
        # ones.
        slots = jnp.arange(self.max_depth)
        high = jax.lax.population_count(w.leaf >> 1)
        closes = jax.lax.population_count(w.leaf & ~(w.leaf + 1))
        even = (w.leaf & 1) == 0
        put = even & (slots == high)

        def file(stack, new):
            return jax.tree.map(lambda s, n: jnp.where(_wide(put, s), n[None], s), stack, new)

        def turned(checkpoint, summed):
            span = jax.tree.map(lambda s, c, p: s - p + c, rho, checkpoint, summed)
            return _turning(checkpoint, r, span)

        checkpoints, sums = file(w.checkpoints, r), file(w.sums, rho)
        open_ = (slots <= high) & (slots > high - closes) & ~even
        turning = jnp.any(jax.vmap(turned)(w.checkpoints, w.sums) & open_)

        complete = w.leaf + 1 == jnp.left_shift(1, w.depth)
        merge = complete & ~turning & ~diverged
        newer = merge & (jnp.log(v) < summed - w.tree.weight)
        tree = _tree.where(newer, sub, w.tree)
        joined = jax.tree.map(lambda a, b: jnp.where(merge, a + b, a), w.tree.rho, rho)
        grown = jnp.where(merge, jnp.logaddexp(w.tree.weight, summed), w.tree.weight)
        tree = tree._replace(weight=grown, rho=joined)
        left = _tree.where(merge & ~w.forward, now, w.left)
        right = _tree.where(merge & w.forward, now, w.right)
        depth = w.depth + merge
        stop = turning | diverged | (merge & (_turning(left.r, right.r, joined) | (depth >= self.max_depth)))
        forward = jnp.where(merge, flip < 0.5, w.forward)
        now = _tree.where(merge, _tree.where(forward, right, left), now)
        leaf = jnp.where(merge, 0, w.leaf + 1)
        accepts = w.accepts + jnp.exp(jnp.minimum(weight, 0))
        return _Walk(
            left, right, tree, now, sub, leaf, depth, forward, checkpoints, sums, total, accepts, diverged, stop
        )


def _wide(mask, stack):
    return mask.reshape(mask.shape + (1,) * (stack.ndim - 1))
