"""Accept/reject around a proposal, from a log-density or from a score alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jsamp._core import _checks, _fields, _tree
from jsamp._core._callable import as_tree
from jsamp._core._like import match
from jsamp._core._mesh import vary
from jsamp._core._numerics import gauss_legendre
from jsamp._core._pytree import field, pytree, replace, static
from jsamp._core._types import LogDensity, Model, Scalar, Tree
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._metric import push
from jsamp.mcmc._protocol import Kernel


def line_integral(score: Any, x: Any, y: Any, nodes: int) -> Any:
    """Log-density difference along the segment: the integral of score(x + s (y - x)).(y - x), Gauss-Legendre."""
    s, w = gauss_legendre(nodes)
    dtype = k.dtype_of(x)
    move = jax.tree.map(jnp.subtract, y, x)

    def term(total, node):
        place, weight = node
        slope = match("the score", k.call(score, k.axpy(place, move, x)), x)
        return total + weight * _tree.dot(slope, move).astype(dtype), None

    zero = vary(jnp.zeros((), dtype), x, y, score)
    return jax.lax.scan(term, zero, (jnp.asarray(s, dtype), jnp.asarray(w, dtype)))[0]


@pytree
class _Metropolized:
    """A proposal with an accept step."""

    proposal: Any
    logdensity: Any = None
    score: Any = None
    nodes: int = static(default=8)

    def retarget(self, change):
        """Change the target of the accept step, and that of a proposal which has one."""
        held = {name: getattr(self, name) for name in ("logdensity", "score")}
        changes = {name: change(name, target) for name, target in held.items() if target is not None}
        if protocol.has_target(self.proposal):
            changes["proposal"] = protocol.retarget("metropolize", self.proposal, change)
        return replace(self, **changes)

    def init(self, x, key=None):
        """Start at x."""
        x = k.position("metropolize", x)
        return k.State(x, None if self.logdensity is None else k.evaluate_value(self.logdensity, x), None)

    @property
    def caches(self):
        """The log-density, unless the target is a score."""
        return None if self.logdensity is None else "value"

    def step(self, key, state):
        """Propose a move and accept or reject it; `info.aux` is the log acceptance ratio."""
        draw, decide = jax.random.split(key)
        x = state.position
        y, log_ratio = protocol.proposal_of(self.proposal)(draw, x)
        y = match("metropolize: the proposal", y, x)
        if self.logdensity is None:
            log_ratio = log_ratio + line_integral(self.score, x, y, self.nodes)
            point, nfe = None, self.nodes
        else:
            point, nfe = k.evaluate_value(self.logdensity, y), 1
            log_ratio = log_ratio + point.logdensity - state.cache.logdensity
        log_ratio = jnp.asarray(log_ratio, k.dtype_of(x))
        log_uniform = k.log_uniform(decide, log_ratio.dtype)
        state, accept, bad = k.accept_step(log_uniform, log_ratio, k.State(y, point, None), state)
        nfe = nfe + protocol.proposal_cost(self.proposal)
        return state, k.info(x, accept=accept, nfe=nfe, diverged=bad, aux=log_ratio)


def metropolize(
    proposal: Any, logdensity: LogDensity | None = None, *, score: Model | None = None, nodes: int = 8
) -> Kernel:
    """Accept or reject the moves of any proposal with a known log ratio, with a log-density or with a score only.

    Accepts y with log ratio l(y) - l(x) + r, r = log q(x | y) - log q(y | x) plus the log Jacobian of a map. With a
    score, l(y) - l(x) is its line integral along the segment by `nodes` Gauss-Legendre points: exact for a smooth
    conservative score as nodes grows, approximate for a learned one (whose integral depends on the path).

    Args:
        proposal: a kernel with `propose` (`ULA`, `RandomWalk`), or a function `proposal(key, x) -> (y, r)`.
        logdensity: of one sample up to a constant; or
        score: its gradient. Give exactly one.
        nodes: Gauss-Legendre points for the score (static).

    Returns:
        A kernel. `metropolize(ULA(f, h), f)` is MALA at twice its cost (no cache).

    Raises:
        TypeError: for a proposal that cannot be called.
        ValueError: for both or neither of logdensity and score.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> walk = lambda key, x: (x + jax.random.normal(key, x.shape), 0.0)
        >>> kernel = js.mcmc.metropolize(walk, score=lambda x: -x)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        The proposal, plus one log-density or `nodes` scores.

    References:
        Sjöberg, Lindholm and Schön, "MCMC-correction of score-based diffusion models for model composition", 2023,
        arXiv:2307.14012 (line integral).
    """
    if (logdensity is None) == (score is None):
        raise ValueError("metropolize: give exactly one of logdensity and score.")
    if protocol.proposal_of(proposal) is proposal:
        proposal = as_tree("metropolize: proposal", proposal, "proposal(key, x)")
    if logdensity is not None:
        logdensity = as_tree("metropolize: logdensity", logdensity, "logdensity(x)")
    else:
        score = as_tree("metropolize: score", score, "score(x)")
    return _Metropolized(proposal, logdensity, score, _checks.check_count("metropolize: nodes", nodes))


@pytree
class ReconstructionScore:
    """Give the score that a denoising auto-encoder has learned: (r(x) - x) / sigma^2.

    For the optimal r this is exactly the score of the data law smoothed by sigma (not of the data law itself). In
    float32 the difference loses digits for sigma below 1e-3 |x|.

    Args:
        reconstruct: r(x), the trained auto-encoder, a callable tree or a bare function.
        sigma: its training noise > 0.

    Raises:
        ValueError: for sigma that is not positive.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> js.mcmc.ReconstructionScore(lambda x: 0.75 * x, 0.5)(jnp.ones(1)).tolist()
        [-1.0]

    Cost:
        One call of r.

    References:
        Alain and Bengio, "What regularized auto-encoders learn from the data-generating distribution", 2014,
        arXiv:1211.4246.
    """

    reconstruct: Model = field(convert=_fields.callable_as("reconstruct(x)"))
    sigma: Scalar = field(convert=k.positive)

    def __call__(self, x):
        """Evaluate the score at x."""
        k.check_numbers(self)
        r = match("ReconstructionScore: the reconstruction", self.reconstruct(x), x)
        return jax.tree.map(lambda r, x: (r - x) / self.sigma**2, r, x)


@pytree
class AutoencoderMH:
    """Sample the smoothed data law of an auto-encoder by Metropolis-Hastings, with no density in sight.

    A symmetric Gaussian proposal of standard deviation `step_size`, accepted on the line integral of
    `ReconstructionScore` by `nodes` Gauss-Legendre points. The paper accepts on the first-order energy change, whose
    error is of the size of the quantity at useful steps; the quadrature's falls below 0.03 at 8 nodes.

    Args:
        reconstruct: r(x), the trained auto-encoder, a callable tree or a bare function.
        sigma: its training noise > 0. The chain samples the data law smoothed by it.
        step_size: proposal standard deviation > 0.
        metric: None, a number, variances (a tree like x) or a `DenseMetric`, for the proposal.
        nodes: Gauss-Legendre points (static).

    Raises:
        ValueError: for sigma or a step size that is not positive, or fewer than one node.
        TypeError: for an auto-encoder whose output has another shape than x.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.AutoencoderMH(lambda x: 0.8 * x, sigma=0.5, step_size=1.0)
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros(2), 10).x.shape
        (10, 2)

    Cost:
        `nodes` calls of r per step.

    References:
        Alain and Bengio, "What regularized auto-encoders learn from the data-generating distribution", 2014,
        arXiv:1211.4246.
    """

    reconstruct: Model = field(convert=_fields.callable_as("reconstruct(x)"))
    sigma: Scalar = field(convert=k.positive)
    step_size: Scalar = field(default=1.0, convert=k.positive)
    metric: Tree = field(default=None, convert=k.metric)
    nodes: int = static(default=8, convert=_checks.check_count)

    accept_target = 0.234
    tuning_damping = 0.3

    def init(self, x, key=None):
        """Start at x."""
        return k.State(k.begin(self, x), None, None)

    def step(self, key, state):
        """Propose a move and accept or reject it; `info.aux` is the estimated change of the log-density."""
        x = state.position
        noise, log_uniform = k.noise(key, x)
        y = k.axpy(self.step_size, push(self.metric, noise), x)
        change = line_integral(ReconstructionScore(self.reconstruct, self.sigma), x, y, self.nodes)
        state, accept, bad = k.accept_step(log_uniform, change, k.State(y, None, None), state)
        return state, k.info(x, accept=accept, nfe=self.nodes, diverged=bad, aux=change)
