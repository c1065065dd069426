"""Self-repellent random walks on graphs, their history-driven target variant, and SGD carried by a walking token."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._pytree import pytree
from jsamp.mcmc import _kernel as k
from jsamp.select import draw_categorical


class WalkGraph(NamedTuple):
    """A reversible Markov chain on a graph as padded neighbour lists; made by `walk_graph`.

    Args:
        neighbors: [N, D] int32, padded with the node itself.
        log_prob: [N, D] log transition probabilities, -inf where padded.
        log_mu: [N] log stationary probabilities, up to a constant.

    Example:
        >>> import numpy as np
        >>> from jsamp import mcmc
        >>> mcmc.walk_graph(np.array([[0.5, 0.5], [0.5, 0.5]])).neighbors.shape
        (2, 2)
    """

    neighbors: Any
    log_prob: Any
    log_mu: Any


def _stationary(matrix, mu):
    if mu is None:
        values, vectors = np.linalg.eig(matrix.T)
        mu = np.abs(np.real(vectors[:, np.argmin(np.abs(values - 1))]))
    mu = np.asarray(mu, np.float64)
    return mu / mu.sum()


def walk_graph(transition: Any, mu: Any = None) -> WalkGraph:
    """Neighbour lists of a reversible transition matrix.

    Args:
        transition: [N, N] row-stochastic matrix, reversible with respect to mu.
        mu: [N] stationary law up to a constant; None computes it.

    Returns:
        A `WalkGraph` with D = the largest number of neighbours (a node may be its own).

    Raises:
        ValueError: for rows that do not sum to 1, negative entries, mu that is not positive, or a chain that is not
            reversible.

    Example:
        >>> import numpy as np
        >>> from jsamp import mcmc
        >>> ring = (np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)) / 2
        >>> mcmc.walk_graph(ring).neighbors.shape
        (5, 2)

    Cost:
        O(N^2) on the host, once; O(N^3) when mu is not given.
    """
    matrix = np.asarray(transition, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or np.any(matrix < 0):
        raise ValueError(f"walk_graph: transition must be a square non-negative matrix, got shape {matrix.shape}.")
    if np.max(np.abs(matrix.sum(1) - 1)) > 1e-6:
        worst = int(np.argmax(np.abs(matrix.sum(1) - 1)))
        raise ValueError(
            f"walk_graph: row {worst} of transition sums to {matrix[worst].sum():.6g}. Normalise the rows."
        )
    mu = _stationary(matrix, mu)
    if mu.shape != matrix.shape[:1] or np.any(mu <= 0):
        raise ValueError("walk_graph: mu must be [N] and positive: every node has to be reachable.")
    flow = mu[:, None] * matrix
    if np.max(np.abs(flow - flow.T)) > 1e-6 * np.max(flow):
        raise ValueError(
            "walk_graph: the chain is not reversible with respect to mu (mu_i P_ij differs from mu_j P_ji)."
        )
    degree = int(np.max((matrix > 0).sum(1)))
    order = np.argsort(matrix == 0, axis=1, kind="stable")[:, :degree]
    prob = np.take_along_axis(matrix, order, 1)
    neighbors = np.where(prob > 0, order, np.arange(len(mu))[:, None])
    with np.errstate(divide="ignore"):
        log_prob = np.log(prob)
    return WalkGraph(
        jnp.asarray(neighbors, jnp.int32), jnp.asarray(log_prob, jnp.float32), jnp.asarray(np.log(mu), jnp.float32)
    )


def walk_variance(transition: Any, f: Any, *, alpha: float = 0.0, mu: Any = None, kind: str = "srrw") -> float:
    """The predicted asymptotic variance: lim n Var(mean of f over n steps) of a repellent walk (visit weights 1/n).

    With eigenpairs (lambda_i, u_i) of the chain and a_i = <f, u_i>_mu^2:
    srrw: sum a_i (1 + lambda_i) / (1 - lambda_i) / (2 alpha (1 + lambda_i) + 1);
    hdt: sum a_i (1 + lambda_i) / (1 - lambda_i) / (2 alpha + 1).

    Args:
        transition: [N, N] reversible transition matrix.
        f: [N] values on the nodes.
        alpha: repulsion >= 0.
        mu: [N] stationary law up to a constant; None computes it.
        kind: "srrw" or "hdt".

    Returns:
        The variance, a float.

    Raises:
        ValueError: for an unknown kind or negative alpha.

    Example:
        >>> import numpy as np
        >>> from jsamp import mcmc
        >>> round(mcmc.walk_variance(np.full((2, 2), 0.5), np.array([1.0, -1.0]), alpha=0.5), 6)
        0.5

    Cost:
        One eigendecomposition on the host.

    References:
        Doshi, Hu and Eun, "Self-repellent random walks on general graphs", 2023, arXiv:2305.05097.
    """
    _checks.check_choice("walk_variance: kind", kind, ("srrw", "hdt"))
    _checks.check_number("walk_variance: alpha", alpha, low=0)
    matrix = np.asarray(transition, np.float64)
    mu = _stationary(matrix, mu)
    root = np.sqrt(mu)
    symmetric = root[:, None] * matrix / root[None, :]
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    weight = (vectors.T @ (root * np.asarray(f, np.float64))) ** 2
    values, weight = values[:-1], weight[:-1]
    repel = 2 * alpha * (1 + values) + 1 if kind == "srrw" else 2 * alpha + 1
    return float(np.sum(weight * (1 + values) / (1 - values) / repel))


def _setup(kernel):
    who = type(kernel).__name__
    if not isinstance(kernel.graph, WalkGraph):
        raise TypeError(f"{who}: graph must be a WalkGraph, got {type(kernel.graph).__name__}. Use walk_graph(P).")
    _checks.check_number(f"{who}: alpha", kernel.alpha, low=0)
    _checks.check_number(f"{who}: decay", kernel.decay, low=0.5, high=1, open_low=True)


def _begin(kernel, x):
    num = kernel.graph.log_mu.shape[0]
    node = jnp.asarray(x, jnp.int32)
    if node.shape != ():
        raise ValueError(f"{type(kernel).__name__}: x must be one node, got shape {node.shape}. vmap over walkers.")
    known = _checks.concrete(node)
    if known is not None and not 0 <= known < num:
        raise ValueError(f"{type(kernel).__name__}: x must be a node in 0..{num - 1}, got {known}.")
    share = jnp.full(num, 1 / num, kernel.graph.log_mu.dtype)
    return k.State(node, None, (share, jnp.zeros((), jnp.int32)))


def _visit(kernel, share, count, node):
    # gamma_n = (n + 1)^-decay for the n-th visit: with decay = 1 the plain visit frequencies.
    count = count + 1
    rate = (count + 1).astype(share.dtype) ** (-jnp.asarray(kernel.decay, share.dtype))
    return (share * (1 - rate)).at[node].add(rate), count


def _info(accept=1.0, nfe=0):
    return k.info(jnp.zeros((), jnp.float32), accept=accept, nfe=nfe)


@pytree
class SelfRepellentWalk:
    """A random walk on a graph that avoids nodes it has visited too often: the variance falls like 1 / alpha.

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
        >>> import jax, numpy as np
        >>> from jsamp import mcmc
        >>> ring = (np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)) / 2
        >>> kernel = mcmc.SelfRepellentWalk(mcmc.walk_graph(ring), alpha=5.0)
        >>> mcmc.chain(jax.random.key(0), kernel, 0, 10).x.shape
        (10,)

    Cost:
        O(D) for the move, O(N) for the frequencies.

    References:
        Doshi, Hu and Eun, "Self-repellent random walks on general graphs", 2023, arXiv:2305.05097.
    """

    graph: Any
    alpha: Any = 1.0
    decay: Any = 1.0

    def __post_init__(self):
        _setup(self)

    def init(self, x, key=None):
        """The state at node x."""
        return _begin(self, x)

    def step(self, key, state):
        """One move."""
        node, _, (share, count) = state
        near = self.graph.neighbors[node]
        repel = self.alpha * (jnp.log(share[near]) - self.graph.log_mu[near])
        node = near[draw_categorical(key, self.graph.log_prob[node] - repel)]
        return k.State(node, None, _visit(self, share, count, node)), _info()


@pytree
class HistoryDrivenWalk:
    """A Metropolis walk whose target avoids its own history: the same variance reduction at O(1) per move.

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
        >>> import jax, numpy as np
        >>> from jsamp import mcmc
        >>> ring = (np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)) / 2
        >>> kernel = mcmc.HistoryDrivenWalk(mcmc.walk_graph(ring), alpha=5.0)
        >>> mcmc.chain(jax.random.key(0), kernel, 0, 10).x.shape
        (10,)

    Cost:
        O(D) for the proposal, O(N) for the frequencies.

    References:
        Hu, Ma and Eun, "Beyond self-repellent kernels: history-driven target towards efficient nonlinear MCMC on
        general graphs", 2025, arXiv:2505.18300.
    """

    graph: Any
    alpha: Any = 1.0
    decay: Any = 1.0

    def __post_init__(self):
        _setup(self)

    def init(self, x, key=None):
        """The state at node x."""
        return _begin(self, x)

    def step(self, key, state):
        """Propose and decide."""
        node, _, (share, count) = state
        propose, decide = jax.random.split(key)
        there = self.graph.neighbors[node][draw_categorical(propose, self.graph.log_prob[node])]

        def excess(i):
            return jnp.log(share[i]) - self.graph.log_mu[i]

        node, accept, _ = k.accept_step(k.log_uniform(decide), self.alpha * (excess(node) - excess(there)), there, node)
        return k.State(node, None, _visit(self, share, count, node)), _info(accept)


class Token(NamedTuple):
    """Where the token is and what it carries: the position of `TokenSGD`.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.Token(node=0, theta=1.0).theta
        1.0
    """

    node: Any
    theta: Any


@pytree
class TokenSGD:
    """Stochastic gradient descent carried by a token that walks over a graph of data owners.

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
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from jsamp import mcmc
        >>> walk = mcmc.SelfRepellentWalk(mcmc.walk_graph(np.full((3, 3), 1 / 3)), alpha=1.0, decay=0.6)
        >>> data = jnp.array([1.0, 2.0, 3.0])
        >>> kernel = mcmc.TokenSGD(walk, lambda theta, node: theta - data[node], decay=0.9)
        >>> mcmc.chain(jax.random.key(0), kernel, mcmc.Token(0, 0.0), 20).x.theta.shape
        (20,)

    Cost:
        One move of the walk and one gradient.

    References:
        Hu, Doshi and Eun, "Accelerating distributed stochastic optimization via self-repellent random walks", 2024,
        arXiv:2401.09665.
    """

    walk: Any
    gradient: Any
    decay: Any = 0.9
    scale: Any = 1.0

    def __post_init__(self):
        tree = k.as_tree("TokenSGD: gradient", self.gradient, "gradient(theta, node)")
        object.__setattr__(self, "gradient", tree)
        _checks.check_number("TokenSGD: decay", self.decay, low=0.5, high=1, open_low=True)
        _checks.check_number("TokenSGD: scale", self.scale, low=0, open_low=True)

    def init(self, x, key=None):
        """The state of the walk and theta."""
        theta = k.position("TokenSGD", x.theta, metropolis=False)
        inner = self.walk.init(x.node, key)
        return k.State(Token(inner.position, theta), None, (inner.memory, jnp.zeros((), jnp.int32)))

    def step(self, key, state):
        """One move and one gradient step."""
        (node, theta), _, (memory, count) = state
        inner, info = self.walk.step(key, k.refresh(self.walk, node, k.State(node, None, memory)))
        count = count + 1
        rate = self.scale * (count + 1).astype(jnp.float32) ** (-jnp.asarray(self.decay, jnp.float32))
        slope = k.like(k.call(self.gradient, theta, inner.position), theta)
        theta = k.like(jax.tree.map(lambda t, g: t - rate * g, theta, slope), theta)
        state = k.State(Token(inner.position, theta), None, (inner.memory, count))
        return state, info._replace(nfe=info.nfe + 1)
