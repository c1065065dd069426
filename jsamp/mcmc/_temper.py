"""Tempered targets and parallel tempering."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._pytree import pytree, replace, static
from jsamp.mcmc import _kernel as k
from jsamp.mcmc._drive import as_kernel, start


@pytree
class Tempered:
    """The log-density on the path between two: (1 - beta) reference(x) + beta target(x).

    Args:
        target: log-density at beta = 1.
        beta: inverse temperature, a leaf.
        reference: log-density at beta = 0, or None for a flat one.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.Tempered(lambda x: -x**2, 0.5)(2.0)
        -2.0

    Cost:
        One call of each.
    """

    target: Any
    beta: Any
    reference: Any = None

    def __call__(self, x):
        """The mixed log-density."""
        value = self.beta * self.target(x)
        # Outside the target's support the path has no mass either, whatever beta.
        return value if self.reference is None else value + (1 - self.beta) * self.reference(x)


def tempered(kernel: Any, beta: Any, *, reference: Any = None) -> Any:
    """The kernel with its target flattened: log-density (1 - beta) reference + beta target.

    Args:
        kernel: a kernel with a `logdensity`.
        beta: inverse temperature >= 0, a leaf: annealing it in a scan does not recompile.
        reference: log-density at beta = 0, or None for a flat one.

    Returns:
        A kernel of the same kind; on a tempered kernel beta is replaced, not nested.

    Raises:
        TypeError: for a kernel without a log-density.
        ValueError: for negative beta.

    Example:
        >>> from jsamp import mcmc
        >>> kernel = mcmc.tempered(mcmc.MALA(lambda x: -x**2), 0.1)
        >>> float(kernel.logdensity(1.0))
        -0.1

    Cost:
        As the kernel, plus the reference.
    """
    _checks.check_number("tempered: beta", beta, low=0)
    if getattr(kernel, "logdensity", None) is None:
        raise TypeError(f"tempered: {type(kernel).__name__} has no logdensity to temper.")
    if reference is not None:
        reference = k.as_tree("tempered: reference", reference, "reference(x)")
    if isinstance(kernel.logdensity, Tempered):
        kept = kernel.logdensity
        return replace(
            kernel, logdensity=Tempered(kept.target, beta, kept.reference if reference is None else reference)
        )
    return replace(kernel, logdensity=Tempered(kernel.logdensity, beta, reference))


class SwapInfo(NamedTuple):
    """Extras of a tempering step: swap probability per replica (NaN without a partner), and which start sits where.

    Example:
        >>> from jsamp import mcmc
        >>> mcmc.SwapInfo(probability=None, labels=[0, 1]).labels
        [0, 1]
    """

    probability: Any
    labels: Any


@pytree
class ParallelTempering:
    """Replicas at several temperatures that exchange places: crosses between separated modes.

    Every step moves each replica with the kernel at its beta, then swaps neighbours, even pairs and odd pairs in turn
    (the deterministic, non-reversible schedule). A pair swaps with log ratio
    (beta_i - beta_j) (l(x_j) - l(x_i)), l = target - reference.

    Position: the kernel's position with a leading axis of replicas; replica 0 is the one at betas[0].

    Args:
        kernel: a kernel with a `logdensity` (the target), for one replica.
        betas: [K] decreasing inverse temperatures, betas[0] = 1 the target.
        reference: log-density at beta = 0, or None for a flat one.
        step_sizes: [K] step sizes for the replicas, or None: the kernel's own over sqrt(beta) (over beta for ULA and
            MALA, whose step size is a time).
        moves: kernel steps between swaps (static).

    Raises:
        TypeError: for a kernel without a log-density.
        ValueError: for fewer than two betas, or betas that do not decrease.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.ParallelTempering(mcmc.RandomWalk(lambda x: -jnp.sum(x**2)), jnp.array([1.0, 0.5]))
        >>> mcmc.chain(jax.random.key(0), kernel, jnp.zeros((2, 3)), 10).x.shape
        (10, 2, 3)

    Cost:
        K moves kernel steps and 2 K model calls (the swap, and caches rebuilt after it) per step.

    References:
        Swendsen and Wang, 1986; Geyer, 1991; Okabe et al., 2001; Syed et al., "Non-reversible parallel tempering",
        2021, arXiv:1905.02939.
    """

    kernel: Any
    betas: Any
    reference: Any = None
    step_sizes: Any = None
    moves: int = static(default=1)

    def __post_init__(self):
        object.__setattr__(self, "kernel", as_kernel(self.kernel))
        if getattr(self.kernel, "logdensity", None) is None:
            raise TypeError(f"ParallelTempering: {type(self.kernel).__name__} has no logdensity to temper.")
        if self.reference is not None:
            tree = k.as_tree("ParallelTempering: reference", self.reference, "reference(x)")
            object.__setattr__(self, "reference", tree)
        _checks.check_number("ParallelTempering: betas", self.betas, low=0)
        betas = _checks.concrete(self.betas)
        if betas is not None and (betas.ndim != 1 or betas.size < 2 or np.any(np.diff(betas) >= 0)):
            raise ValueError(f"ParallelTempering: betas must be [K >= 2] and decrease, got {self.betas}.")
        object.__setattr__(self, "betas", jnp.asarray(self.betas))
        _checks.check_count("ParallelTempering: moves", self.moves)

    def _steps(self):
        if self.step_sizes is not None:
            return jnp.asarray(self.step_sizes)
        if not hasattr(self.kernel, "step_size"):
            return None
        # The flattest levels may have beta = 0: their width is bounded by the next one.
        floor = jnp.maximum(self.betas, self.betas[-2] / 4)
        power = 1.0 if type(self.kernel).__name__ in ("ULA", "MALA", "Barker") else 0.5
        return self.kernel.step_size * floor**-power

    def init(self, x, key=None):
        """One state per replica; the memory holds the replicas' memories and the parity."""
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
        num = self.betas.shape[0]
        if sizes != {(num,)}:
            raise ValueError(f"ParallelTempering: x needs a leading axis of {num} replicas, got {sorted(sizes)}.")
        keys = None if key is None else jax.random.split(key, num)
        x = k.arrays(x)
        memories = self._over(lambda x, key, level: start(level, x, key).memory, x, keys)
        return k.State(x, None, (memories, jnp.zeros((), jnp.int32), jnp.arange(num, dtype=jnp.int32)))

    def step(self, key, state):
        """Move every replica, then swap neighbours; `info.aux` holds the swaps."""
        x, _, (memories, parity, labels) = state
        move, swap = jax.random.split(key)
        num = self.betas.shape[0]

        def moved(args, key, level):
            inner = k.refresh(level, args[0], k.State(args[0], None, args[1]))
            cost = int(isinstance(inner.cache, k.Point))

            def one(inner, i):
                inner, info = level.step(jax.random.fold_in(key, i), inner)
                return inner, (info.accept, info.nfe, info.diverged)

            inner, (accept, nfe, bad) = jax.lax.scan(one, inner, jnp.arange(self.moves))
            return inner.position, inner.memory, jnp.mean(accept), jnp.sum(nfe) + cost, jnp.any(bad)

        keys = jax.random.split(move, num)
        x, memories, accept, nfe, bad = self._over(moved, (x, memories), keys)
        gap = jax.vmap(self._gap)(x)
        i = jnp.arange(num)
        first = i - (i + parity) % 2
        partner = jnp.where(first == i, i + 1, first)
        alone = (partner < 0) | (partner >= num)
        partner = jnp.where(alone, i, partner)
        log_ratio = (self.betas[i] - self.betas[partner]) * (gap[partner] - gap[i])
        probability = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio), 0))
        u = jax.random.uniform(swap, (num,), probability.dtype)[jnp.minimum(i, partner)]
        index = jnp.where((u < probability) & ~alone, partner, i)
        x = jax.tree.map(lambda leaf: leaf[index], x)
        aux = SwapInfo(jnp.where(alone, jnp.nan, probability), labels[index])
        state = k.State(x, None, (memories, 1 - parity, labels[index]))
        return state, k.info(x, accept=jnp.mean(accept), nfe=jnp.sum(nfe) + num, diverged=jnp.any(bad), aux=aux)

    def _gap(self, x):
        target = self.kernel.logdensity
        target = target.target if isinstance(target, Tempered) else target
        value = k.value(target, x)
        return value if self.reference is None else value - k.value(self.reference, x)

    def _over(self, function, args, keys):
        steps = self._steps()

        def one(args, key, beta, step):
            level = tempered(self.kernel, beta, reference=self.reference)
            return function(args, key, level if step is None else replace(level, step_size=step))

        axes = (0, None if keys is None else 0, 0, None if steps is None else 0)
        return jax.vmap(one, in_axes=axes)(args, keys, self.betas, steps)
