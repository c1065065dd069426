"""Tempered targets and parallel tempering."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _fields
from jsamp._core._callable import as_tree
from jsamp._core._pytree import field, pytree, replace, static
from jsamp._core._types import Array, LogDensity, Scalar
from jsamp.mcmc import _kernel as k
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._drive import as_kernel, check_start, walk
from jsamp.mcmc._protocol import Kernel


def weighted(weight: Any, value: Any) -> Any:
    """Weight times value, with 0 times infinity = 0: what has no weight says nothing."""
    return jnp.where(weight == 0, 0, weight * value)


def mixed(beta: Any, target: Any, reference: Any) -> Any:
    """The log-density (1 - beta) reference + beta target from the two values; reference None is 0."""
    value = weighted(beta, target)
    return value if reference is None else value + weighted(1 - beta, reference)


def _held(weight: Any, x: Any) -> Any:
    """X, without slopes for a term of no weight: 0 times a slope that is no number would be none."""
    return jax.tree.map(lambda leaf: jnp.where(weight == 0, jax.lax.stop_gradient(leaf), leaf), x)


@pytree
class _Tempered:
    """The log-density on the path between two: (1 - beta) reference(x) + beta target(x)."""

    target: Any
    beta: Any
    reference: Any = None

    def __call__(self, x):
        target = self.target(_held(self.beta, x))
        return mixed(self.beta, target, None if self.reference is None else self.reference(_held(1 - self.beta, x)))


@pytree
class _TemperedScore:
    """The score on the path between two log-densities, the target's score given."""

    target: Any
    beta: Any
    reference: Any = None

    def __call__(self, x):
        if self.reference is None:
            return jax.tree.map(lambda s: weighted(self.beta, s), self.target(x))
        return jax.tree.map(lambda s, r: mixed(self.beta, s, r), self.target(x), jax.grad(self.reference)(x))


def _temper(beta, reference):
    def change(name, target):
        kind = _TemperedScore if name == "score" else _Tempered
        # A kernel that knows its prior already has the reference in itself.
        far = None if name == "loglikelihood" else reference
        if isinstance(target, kind):
            return kind(target.target, beta, target.reference if far is None else far)
        return kind(target, beta, far)

    return change


def tempered(kernel: Kernel, beta: Scalar, *, reference: LogDensity | None = None) -> Any:
    """Flatten the target of a kernel: its log-density becomes (1 - beta) reference + beta target.

    A term of weight 0 does not count, even where it is infinite: at beta = 0 only the reference is sampled, at 1 only
    the target. Kernels made of kernels pass the change on to all of them.

    Args:
        kernel: a kernel with a `logdensity`, a `score`, or a `loglikelihood` (`EllipticalSlice`: beta weighs the
            likelihood, the prior stays, and a reference must be that prior).
        beta: inverse temperature >= 0, a leaf: annealing it in a scan does not recompile.
        reference: log-density at beta = 0, or None for a flat one.

    Returns:
        A kernel of the same kind; on a tempered kernel beta is replaced, not nested.

    Raises:
        TypeError: for a kernel without a log-density.
        ValueError: for negative beta.

    Example:
        >>> import jsamp as js
        >>> kernel = js.mcmc.tempered(js.mcmc.MALA(lambda x: -x**2), 0.1)
        >>> round(float(kernel.logdensity(1.0)), 6)
        -0.1

    Cost:
        As the kernel, plus the reference.
    """
    _checks.check_scalar("tempered: beta", beta, low=0)
    if reference is not None:
        reference = as_tree("tempered: reference", reference, "reference(x)")
    return protocol.retarget("tempered", as_kernel(kernel), _temper(k.as_float(beta), reference))


def untempered(target: Any) -> Any:
    """The log-density at beta = 1 of a target that may be tempered."""
    return target.target if isinstance(target, _Tempered) else target


class SwapInfo(NamedTuple):
    """Hold the extras of a tempering step: swap probability per replica (NaN if alone), and which start sits where.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.SwapInfo(probability=None, labels=[0, 1]).labels
        [0, 1]
    """

    probability: Any
    labels: Any


@pytree
class ParallelTempering:
    """Run replicas at several temperatures that exchange places: it crosses between separated modes.

    Every step moves each replica with the kernel at its beta, then swaps neighbours, even pairs and odd pairs in turn
    (the deterministic, non-reversible schedule). A pair swaps with log ratio
    (beta_i - beta_j) (l(x_j) - l(x_i)), l = target - reference.

    Position: the kernel's position with a leading axis of replicas; replica 0 is the one at betas[0].

    Args:
        kernel: a kernel for one replica, with a `logdensity` (the target) or made of such kernels.
        betas: [K] decreasing inverse temperatures, betas[0] = 1 the target.
        reference: log-density at beta = 0, or None for a flat one.
        step_sizes: [K] step sizes for the replicas, or None: the kernel's own over sqrt(beta) (over beta for kernels
            whose step size is a time, such as MALA).
        moves: kernel steps between swaps (static).

    Raises:
        TypeError: for a kernel without a log-density.
        ValueError: for fewer than two betas, or betas that do not decrease from 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jsamp as js
        >>> kernel = js.mcmc.ParallelTempering(js.mcmc.RandomWalk(lambda x: -jnp.sum(x**2)), jnp.array([1.0, 0.5]))
        >>> js.mcmc.chain(jax.random.key(0), kernel, jnp.zeros((2, 3)), 10).x.shape
        (10, 2, 3)

    Cost:
        K moves kernel steps and 2 K model calls (the swap, and caches rebuilt after it) per step.

    References:
        Swendsen and Wang, 1986; Geyer, 1991; Okabe et al., 2001; Syed et al., "Non-reversible parallel tempering",
        2021, arXiv:1905.02939.
    """

    kernel: Any = field(convert=lambda name, value: as_kernel(value))
    betas: Array = field(convert=lambda name, value: _check_betas(name, value))
    reference: LogDensity | None = field(default=None, convert=_fields.callable_as("reference(x)", optional=True))
    step_sizes: Array | None = None
    moves: int = static(default=1, convert=_checks.check_count)

    refresh_cost = 0

    def __post_init__(self):
        if self._target() is None:
            raise TypeError(f"ParallelTempering: {type(self.kernel).__name__} has no logdensity to temper.")
        if self.step_sizes is None:
            return
        _checks.check_number("ParallelTempering: step_sizes", self.step_sizes, low=0, open_low=True)
        if not protocol.has_step_size(self.kernel) or np.shape(self.step_sizes) != self.betas.shape:
            raise ValueError(
                f"ParallelTempering: step_sizes must be {self.betas.shape}, one per beta, for a kernel that has a step "
                f"size; got {np.shape(self.step_sizes)} for {type(self.kernel).__name__}."
            )

    def _target(self):
        target = protocol.target_of(self.kernel)
        return untempered(protocol.likelihood_of(self.kernel) if target is None else target)

    @property
    def logdensity(self):
        """The joint log-density of all replicas, each at its own temperature."""
        return _Replicas(self._target(), self.betas, self.reference)

    def init(self, x, key=None):
        """Start one replica per beta; the memory holds the replicas' memories, the parity and the labels."""
        num = self.betas.shape[0]
        x = k.position("ParallelTempering", x)
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
        if sizes != {(num,)}:
            raise ValueError(f"ParallelTempering: x needs a leading axis of {num} replicas, got {sorted(sizes)}.")
        keys = None if key is None else jax.random.split(key, num)
        cold = jax.tree.map(lambda leaf: leaf[0], x)
        check_start("ParallelTempering", self.kernel, cold, protocol.start(self.kernel, cold, key))
        memories = self._over(lambda x, key, level: protocol.memory_of(protocol.start(level, x, key)), x, keys)
        return k.State(x, None, (memories, jnp.zeros((), jnp.int32), jnp.arange(num, dtype=jnp.int32)))

    def refresh(self, x, state):
        """Move the replicas to x: their caches are rebuilt at every step."""
        return k.State(x, None, state.memory)

    def step(self, key, state):
        """Move every replica, then swap neighbours; `info.aux` holds the swaps."""
        x, _, (memories, parity, labels) = state
        move, swap = jax.random.split(key)
        num = self.betas.shape[0]
        x, memories, (accept, nfe, bad) = self._over(self._moved, (x, memories), jax.random.split(move, num))
        index, probability = self._swaps(swap, x, parity)
        x = jax.tree.map(lambda leaf: leaf[index], x)
        aux = SwapInfo(probability, labels[index])
        state = k.State(x, None, (memories, 1 - parity, labels[index]))
        nfe = jnp.sum(nfe) + num
        return state, k.info(x, accept=jnp.mean(accept), nfe=nfe, diverged=jnp.any(bad), aux=aux)

    def _moved(self, args, key, level):
        """Take `moves` steps of one replica."""
        inner = protocol.refreshed(level, *args)
        cost = protocol.refresh_cost(level, inner)
        inner, (accept, nfe, bad) = walk(key, level, inner, self.moves)
        return inner.position, protocol.memory_of(inner), (accept, nfe + cost, bad)

    def _swaps(self, key, x, parity):
        """Pair neighbours by parity: [K] indices after the swaps, [K] swap probabilities (NaN without a partner)."""
        num = self.betas.shape[0]
        i = jnp.arange(num)
        first = i - (i + parity) % 2
        partner = jnp.where(first == i, i + 1, first)
        alone = (partner < 0) | (partner >= num)
        partner = jnp.where(alone, i, partner)
        log_ratio = self._log_ratio(x, i, partner)
        probability = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio), 0))
        u = jax.random.uniform(key, (num,), probability.dtype)[jnp.minimum(i, partner)]
        index = jnp.where((u < probability) & ~alone, partner, i)
        return index, jnp.where(alone, jnp.nan, probability)

    def _log_ratio(self, x, i, j):
        target, reference = _values(self._target(), self.reference, x)
        gap = target - reference
        ratio = (self.betas[i] - self.betas[j]) * (gap[j] - gap[i])
        # Where a density is zero the difference of the two is no number; the four terms say what becomes of the pair.
        at = lambda level, place: mixed(self.betas[level], target[place], reference[place])
        whole = at(i, j) + at(j, i) - at(i, i) - at(j, j)
        known = jnp.isfinite(target) & jnp.isfinite(reference)
        return jnp.where(known[i] & known[j], ratio, whole)

    def _over(self, function, args, keys):
        """Map a function over the replicas, each with the kernel of its level."""

        def one(args, key, beta, after, step):
            level = tempered(self.kernel, beta, reference=self.reference)
            # The flattest level may have beta = 0: its width is bounded by the next one.
            level = protocol.cooled(level, jnp.maximum(beta, after)) if step is None else replace(level, step_size=step)
            return function(args, key, level)

        floor = jnp.full_like(self.betas, self.betas[-2] / 4)
        steps = None if self.step_sizes is None else jnp.asarray(self.step_sizes)
        axes = (0, None if keys is None else 0, 0, 0, None if steps is None else 0)
        return jax.vmap(one, in_axes=axes)(args, keys, self.betas, floor, steps)


def _check_betas(name, value):
    _checks.check_number(name, value, low=0)
    known = _checks.concrete(value)
    if known is not None and (known.ndim != 1 or known.size < 2 or known[0] != 1 or np.any(np.diff(known) >= 0)):
        raise ValueError(f"{name} must be [K >= 2] and decrease from 1, the target, got {value}.")
    return jnp.asarray(value, None if hasattr(value, "dtype") else jnp.result_type(float))


def _values(target, reference, x):
    """Log-densities of target and reference at every replica; NaN counts as outside the support."""
    values = jax.vmap(lambda x: k.value(target, x))(x)
    far = jnp.zeros_like(values) if reference is None else jax.vmap(lambda x: k.value(reference, x))(x)
    return tuple(jnp.where(jnp.isnan(v), -jnp.inf, v) for v in (values, far))


@pytree
class _Replicas:
    """The joint log-density of replicas."""

    target: Any
    betas: Any
    reference: Any = None

    def __call__(self, x):
        return jnp.sum(mixed(self.betas, *_values(self.target, self.reference, x)))
