"""Self-repellent random walks on graphs, their history-driven target variant, and SGD carried by a walking token."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields
from jsamp._core._like import match
from jsamp._core._pytree import field, pytree
from jsamp._core._types import Model, Scalar
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._drive import as_kernel
from jsamp.mcmc._graph import WalkGraph
from jsamp.mcmc._protocol import Kernel
from jsamp.select import draw_categorical


def _check_graph(name, value):
    if not isinstance(value, WalkGraph):
        raise TypeError(f"{name} must be a WalkGraph, got {type(value).__name__}. Use js.mcmc.walk_graph(transition).")


_decay = k.between(low=0.5, high=1, open_low=True)


def _info(accept=1.0, nfe=0):
    return k.info(jnp.zeros((), jnp.float32), accept=accept, nfe=nfe)


@pytree
class _Remembering:
    """Walks on a graph that count their visits: what they share."""

    graph: WalkGraph = field(check=_check_graph)
    alpha: Scalar = field(default=1.0, convert=k.between(low=0))
    decay: Scalar = field(default=1.0, convert=_decay)

    refresh_cost = 0

    def init(self, x, key=None):
        """Start at node x."""
        k.check_numbers(self)
        who, num = type(self).__name__, self.graph.log_mu.shape[0]
        if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
            raise TypeError(f"{who}: x must be a node, an integer, got {jnp.result_type(x)}.")
        if jnp.shape(x) != ():
            raise ValueError(f"{who}: x must be one node, got shape {jnp.shape(x)}. vmap over walkers.")
        _checks.check_number(f"{who}: x, a node,", x, low=0, high=num - 1)
        share = jnp.full(num, 1 / num, self.graph.log_mu.dtype)
        return k.State(jnp.asarray(x, jnp.int32), None, (share, jnp.zeros((), jnp.int32)))

    def refresh(self, x, state):
        """Move to node x: the frequencies stay."""
        return k.State(x, None, state.memory)

    def _visit(self, share, count, node):
        # gamma_n = (n + 1)^-decay for the n-th visit: with decay = 1 the plain visit frequencies.
        count = count + 1
        rate = (count + 1).astype(share.dtype) ** (-jnp.asarray(self.decay, share.dtype))
        return (share * (1 - rate)).at[node].add(rate), count


@pytree
class SelfRepellentWalk(_Remembering):
    """Walk on a graph and avoid nodes that were visited too often: the variance falls like 1 / alpha.

    From node i, go to j with probability proportional to P_ij (x_j / mu_j)^(-alpha), x the visit frequencies so far.
    The law of a visit still converges to mu. `walk_variance` predicts the asymptotic variance.

    Position: the node, int32. Memory: the visit frequencies [N] (starting uniform) and the count.

    Args:
        graph: a `WalkGraph` from `walk_graph`.
        alpha: repulsion >= 0; 0 is the plain chain.
        decay: frequencies are updated with weight (n + 1)^(-decay), in (0.5, 1]; 1 is the plain average.

    Raises:
        TypeError: for a graph that is not a `WalkGraph`.
        ValueError: for negative alpha, decay outside (0.5, 1], or a start that is no node.

    Example:
        >>> import jax, jsamp as js, numpy as np
        >>> ring = (np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)) / 2
        >>> kernel = js.mcmc.SelfRepellentWalk(js.mcmc.walk_graph(ring), alpha=5.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, 0, 10).x.shape
        (10,)

    Cost:
        O(D) for the move, O(N) for the frequencies.

    References:
        Doshi, Hu and Eun, "Self-repellent random walks on general graphs", 2023, arXiv:2305.05097.
    """

    def step(self, key, state):
        """Take one move."""
        node, _, (share, count) = state
        near = self.graph.neighbors[node]
        repel = self.alpha * (jnp.log(share[near]) - self.graph.log_mu[near])
        node = near[draw_categorical(key, self.graph.log_prob[node] - repel)]
        return k.State(node, None, self._visit(share, count, node)), _info()


@pytree
class HistoryDrivenWalk(_Remembering):
    """Walk by Metropolis on a target that avoids its own history: the same variance reduction at O(1) per move.

    The chain P proposes, and the move to j is accepted with min(1, ((x_j / mu_j) / (x_i / mu_i))^(-alpha)): the target
    mu (x / mu)^(-alpha) is modified, not the transition, so no neighbourhood is normalised. The asymptotic variance is
    that of P over 2 alpha + 1. It is approached from above and slowly, like n^(-1/2): the acceptance has a kink at
    x = mu, so rejections are of first order in the distance that is left.

    Position: the node, int32. Memory: the visit frequencies [N] (starting uniform) and the count.

    Args:
        graph: a `WalkGraph` from `walk_graph`.
        alpha: repulsion >= 0; 0 is the plain chain.
        decay: frequencies are updated with weight (n + 1)^(-decay), in (0.5, 1].

    Raises:
        TypeError: for a graph that is not a `WalkGraph`.
        ValueError: for negative alpha, decay outside (0.5, 1], or a start that is no node.

    Example:
        >>> import jax, jsamp as js, numpy as np
        >>> ring = (np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)) / 2
        >>> kernel = js.mcmc.HistoryDrivenWalk(js.mcmc.walk_graph(ring), alpha=5.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, 0, 10).x.shape
        (10,)

    Cost:
        O(D) for the proposal, O(N) for the frequencies.

    References:
        Hu, Ma and Eun, "Beyond self-repellent kernels: history-driven target towards efficient nonlinear MCMC on
        general graphs", 2025, arXiv:2505.18300.
    """

    def step(self, key, state):
        """Propose a move and accept or reject it."""
        node, _, (share, count) = state
        propose, decide = jax.random.split(key)
        there = self.graph.neighbors[node][draw_categorical(propose, self.graph.log_prob[node])]

        def excess(i):
            return jnp.log(share[i]) - self.graph.log_mu[i]

        node, accept, _ = k.accept_step(k.log_uniform(decide), self.alpha * (excess(node) - excess(there)), there, node)
        return k.State(node, None, self._visit(share, count, node)), _info(accept)


class Token(NamedTuple):
    """Hold where the token is and what it carries: the position of `TokenSGD`.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.Token(node=0, theta=1.0).theta
        1.0
    """

    node: Any
    theta: Any


@pytree
class TokenSGD:
    """Carry stochastic gradient descent by a token that walks over a graph of data owners.

    After each move of the walk, theta <- theta - scale (n + 1)^(-decay) gradient(theta, node). With a self-repellent
    walk whose own decay is smaller than this one, the error falls like 1 / alpha^2 (SA-SRRW).

    Args:
        walk: a kernel on nodes, for example `SelfRepellentWalk`.
        gradient: `gradient(theta, node)` of the node's loss; weigh it by 1 / (N mu) for a uniform objective.
        decay: step-size exponent, in (0.5, 1].
        scale: step-size factor > 0.

    Raises:
        ValueError: for a decay outside (0.5, 1] or a scale that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js, numpy as np
        >>> walk = js.mcmc.SelfRepellentWalk(js.mcmc.walk_graph(np.full((3, 3), 1 / 3)), alpha=1.0, decay=0.6)
        >>> data = jnp.array([1.0, 2.0, 3.0])
        >>> kernel = js.mcmc.TokenSGD(walk, lambda theta, node: theta - data[node], decay=0.9)
        >>> js.mcmc.chain(jax.random.key(0), kernel, js.mcmc.Token(0, 0.0), 20).x.theta.shape
        (20,)

    Cost:
        One move of the walk and one gradient.

    References:
        Hu, Doshi and Eun, "Accelerating distributed stochastic optimization via self-repellent random walks", 2024,
        arXiv:2401.09665.
    """

    walk: Kernel = field(convert=lambda name, value: as_kernel(value))
    gradient: Model = field(convert=_fields.callable_as("gradient(theta, node)"))
    decay: Scalar = field(default=0.9, convert=_decay)
    scale: Scalar = field(default=1.0, convert=k.positive)

    def init(self, x, key=None):
        """Start the walk, with theta."""
        if not isinstance(x, tuple) or len(x) != 2:
            raise TypeError(f"TokenSGD: x must be js.mcmc.Token(node, theta), got {_checks.shown(x)}.")
        k.check_numbers(self)
        node, theta = x
        theta = k.position("TokenSGD", theta, metropolis=False)
        inner = protocol.start(self.walk, node, key)
        memory = (protocol.memory_of(inner), jnp.zeros((), jnp.int32))
        return k.State(Token(inner.position, theta), None, memory)

    def step(self, key, state):
        """Take one move and one gradient step."""
        (node, theta), _, (memory, count) = state
        inner, info = self.walk.step(key, protocol.refreshed(self.walk, node, memory))
        count = count + 1
        rate = self.scale * (count + 1).astype(jnp.float32) ** (-jnp.asarray(self.decay, jnp.float32))
        slope = match("TokenSGD: the gradient", k.call(self.gradient, theta, inner.position), theta)
        theta = k.axpy(-rate, slope, theta)
        state = k.State(Token(inner.position, theta), None, (protocol.memory_of(inner), count))
        accept, nfe, bad = protocol.measures(info, jnp.float32)
        return state, k.Info(accept, nfe + 1, bad, protocol.aux_of(info))
