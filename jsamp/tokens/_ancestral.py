"""Decoders on a grid of times: ancestral steps with remasking, confidence-ordered decoding, tau-leaping."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jsamp._core import _fields
from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_scalar, is_traced, shown
from jsamp._core._pytree import field, pytree
from jsamp.tokens._decoding import Decoding, check_process
from jsamp.tokens._process import Masked, check_grid


def _largest(mask_prob: Any) -> Any:
    """The largest legal probability of remasking, min(1, (1 - alpha_s) / alpha_t), for each step t -> s."""
    xp = jnp if is_traced(mask_prob) else np
    before, after = mask_prob[:-1], mask_prob[1:]
    clean = 1 - before
    return xp.minimum(1.0, xp.where(clean > 0, after / xp.where(clean > 0, clean, 1), 1.0))


@pytree
class Cap:
    """Remask decoded tokens with probability min(eta, largest legal), in every step.

    A step t -> s may remask a clean site with any probability sigma <= min(1, (1 - alpha_s) / alpha_t), if masked
    sites are decoded with (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t): P(clean at s) stays alpha_s.

    Args:
        eta: limit of the probability.

    Example:
        >>> import numpy as np, jsamp as js
        >>> table = js.tokens.ancestral(js.tokens.Masked(9), np.linspace(1, 0, 5), remask=js.tokens.Cap(0.1))
        >>> [round(float(p), 3) for p in table.remask]
        [0.1, 0.1, 0.1, 0.0]

    Cost:
        Host arithmetic when the table is made; one uniform for each site and step of a run.

    References:
        Wang et al., "Remasking Discrete Diffusion Models with Inference-Time Scaling", 2025, arXiv:2503.00307.
    """

    eta: Any = field(default=0.008, check=_fields.scalar(0, 1))

    def schedule(self, process, grid):
        """P(mask) and remasking along the grid."""
        mask_prob = process.mask_prob(grid)
        xp = jnp if is_traced(mask_prob, self.eta) else np
        return mask_prob, xp.minimum(self.eta, _largest(mask_prob)), grid


@pytree
class Rescale:
    """Remask decoded tokens with probability eta times the largest legal one, in every step.

    Args:
        eta: the share.

    Example:
        >>> import numpy as np, jsamp as js
        >>> table = js.tokens.ancestral(js.tokens.Masked(9), np.linspace(1, 0, 3), remask=js.tokens.Rescale(0.5))
        >>> table.remask.tolist()
        [0.5, 0.0]

    Cost:
        Host arithmetic when the table is made; one uniform for each site and step of a run.

    References:
        Wang et al., "Remasking Discrete Diffusion Models with Inference-Time Scaling", 2025, arXiv:2503.00307.
    """

    eta: Any = field(default=0.015, check=_fields.scalar(0, 1))

    def schedule(self, process, grid):
        """P(mask) and remasking along the grid."""
        mask_prob = process.mask_prob(grid)
        return mask_prob, self.eta * _largest(mask_prob), grid


@pytree
class Loop:
    """Hold the share of clean tokens at `alpha` between two times, and remask there, so that errors are redrawn.

    Before `on`, alpha_t = (1 - t) alpha / (1 - on); after `off`, 1 - alpha_t = t (1 - alpha) / off; between, alpha_t =
    alpha and each step remasks with probability eta. The network is asked at the process's own time of that alpha_t
    (ours: the published code does not say).

    Args:
        eta: probability of remasking, at most (1 - alpha) / alpha.
        on, off: where the loop begins and ends, 1 >= on > off >= 0.
        alpha: share of clean tokens in the loop.

    Raises:
        ValueError: for eta above its limit, or times out of order.

    Example:
        >>> import numpy as np, jsamp as js
        >>> table = js.tokens.ancestral(js.tokens.Masked(9), np.linspace(1, 0, 21), remask=js.tokens.Loop())
        >>> int((table.remask > 0).sum())
        10

    Cost:
        Host arithmetic when the table is made; one uniform for each site and step of a run.

    References:
        Wang et al., "Remasking Discrete Diffusion Models with Inference-Time Scaling", 2025, arXiv:2503.00307.
    """

    eta: Any = field(default=0.02, check=_fields.scalar(0, 1))
    on: Any = field(default=0.55, check=_fields.scalar(0, 1))
    off: Any = field(default=0.05, check=_fields.scalar(0, 1))
    alpha: Any = field(default=0.9, check=_fields.scalar(0, 1))

    def __post_init__(self):
        if is_traced(self.eta, self.on, self.off, self.alpha):
            return
        if not self.off < self.on < 1 or self.off <= 0:
            raise ValueError(f"Loop: wanted 1 > on > off > 0, got on={self.on}, off={self.off}.")
        if not 0 < self.alpha < 1 or self.eta > (1 - self.alpha) / self.alpha:
            raise ValueError(
                f"Loop: eta must be at most (1 - alpha) / alpha, got eta={self.eta} with alpha={self.alpha}."
            )

    def schedule(self, process, grid):
        """P(mask), remasking and the network's times along the grid."""
        xp = jnp if is_traced(grid, self.eta, self.on, self.off, self.alpha) else np
        before = 1 - (1 - grid) * self.alpha / (1 - self.on)
        after = grid * (1 - self.alpha) / self.off
        mask_prob = xp.where(grid > self.on, before, xp.where(grid > self.off, 1 - self.alpha, after))
        inside = (grid[:-1] <= self.on + 1e-9) & (grid[1:] >= self.off - 1e-9)  # times of a grid are rounded
        return mask_prob, xp.where(inside, self.eta, 0.0), process.time(mask_prob)


@pytree
class Confident:
    """Remask the tokens that were least probable when they were drawn.

    In each step the largest legal probability sigma is shared out over the decoded sites, sigma_l = sigma
    softmax_l(-p_l), with p_l the probability of token l when it was drawn. As many more masks are decoded, on average,
    as tokens are masked again, so the expected number of clean sites keeps following alpha (ours: the paper leaves
    masked sites at sigma = 0, after which there are fewer). Rare tokens are redrawn more often, so texts vary less than
    the model's.

    Example:
        >>> import numpy as np, jsamp as js
        >>> table = js.tokens.ancestral(js.tokens.Masked(9), np.linspace(1, 0, 5), remask=js.tokens.Confident())
        >>> [round(float(p), 3) for p in table.remask]
        [1.0, 1.0, 0.5, 0.0]

    Cost:
        Host arithmetic when the table is made; one uniform for each site and step of a run.

    References:
        Wang et al., "Remasking Discrete Diffusion Models with Inference-Time Scaling", 2025, arXiv:2503.00307.
    """

    by_confidence = True

    def schedule(self, process, grid):
        """P(mask) and the probability to share out along the grid."""
        mask_prob = process.mask_prob(grid)
        return mask_prob, _largest(mask_prob), grid


def ancestral(process: Masked, grid: Any, *, remask: Any = None) -> Decoding:
    """Make the table of ancestral steps along a grid, with or without remasking.

    In a step t -> s a masked site is decoded with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t), and a
    decoded one is masked again with probability sigma (0 without `remask`). Which sites those are is drawn before the
    network is asked, so a step in which none is decoded calls nothing: N (1 - (1 - 1/N)^(B L)) calls on average for a
    population of B and alpha linear, and the token itself is a full 64-bit draw.

    Args:
        process: the absorbing process.
        grid: [N + 1] decreasing times, from 1 to 0.
        remask: None, `Cap(eta)`, `Rescale(eta)`, `Loop(...)`, `Confident()`, or an object with their `schedule`.

    Returns:
        A `Decoding` of N rows.

    Raises:
        ValueError: for a grid that does not decrease in [0, 1], or remasking beyond its limit.
        TypeError: for a number of steps in place of the grid, or an object that does not remask.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, jsamp as js
        >>> process = js.tokens.Masked(mask=3)
        >>> table = js.tokens.ancestral(process, np.linspace(1, 0, 5))
        >>> [round(float(p), 3) for p in table.unmask]
        [0.25, 0.333, 0.5, 1.0]

    Cost:
        Host arithmetic; a run of the table calls the network once for each of its n rows.

    References:
        Austin et al., "Structured Denoising Diffusion Models in Discrete State-Spaces", 2021, arXiv:2107.03006.
    """
    check_process("ancestral", process)
    grid = check_grid("ancestral: grid", grid)
    if remask is None:
        mask_prob, sigma, t = process.mask_prob(grid), None, grid
    elif hasattr(remask, "schedule"):
        mask_prob, sigma, t = remask.schedule(process, grid)
    else:
        raise TypeError(f"ancestral: remask must be Cap, Rescale, Loop or Confident, got {shown(remask)}.")
    _check_remask(sigma, mask_prob)
    before, after = mask_prob[:-1], mask_prob[1:]
    xp = jnp if is_traced(mask_prob, sigma) else np
    safe = xp.where(before > 0, before, 1)
    by_confidence = bool(getattr(remask, "by_confidence", False))
    unmask = xp.where(before > 0, (before - after) / safe, 1.0)
    if sigma is not None and not by_confidence:
        unmask = xp.minimum(1.0, unmask + sigma * (1 - before) / safe)
    columns = {"unmask": unmask, "remask": sigma, "by_confidence": by_confidence}
    return Decoding(t=t[:-1], t_next=t[1:], mask=process.mask, **columns)


def _check_remask(sigma: Any, mask_prob: Any) -> None:
    """Refuse probabilities of remasking after which too few sites would be clean."""
    if sigma is None or is_traced(sigma, mask_prob):
        return
    sigma, largest = np.asarray(sigma, np.float64), _largest(np.asarray(mask_prob, np.float64))
    if np.shape(sigma) != largest.shape:
        raise ValueError(f"ancestral: remask must give one probability per step {largest.shape}, got {sigma.shape}.")
    illegal = ~((sigma >= 0) & (sigma <= largest + 1e-6))
    if np.any(illegal):
        i = int(np.argmax(illegal))
        raise ValueError(
            f"ancestral: remask in step {i} must be in [0, min(1, (1 - alpha_s) / alpha_t)] = [0, {largest[i]:.4g}], "
            f"got {sigma[i]:.4g}. Take js.tokens.Rescale, a share of the largest one."
        )


def confidence(process: Masked, steps: int, *, temperature: Any) -> Decoding:
    """Make the table of confidence-ordered decoding (MaskGIT): the most certain tokens first, in a few parallel steps.

    Each step draws a token at every masked site and keeps those of largest log p + temperature (1 - r) Gumbel, so many
    that a share cos(pi r / 2) of the masks is left after the fraction r of steps. Fast, and biased towards probable
    texts; as the temperature grows it becomes random-order parallel decoding.

    Args:
        process: the absorbing process; its alpha translates the share of masks into the network's time.
        steps: n, the number of network calls, static.
        temperature: of the choice, >= 0; 0 keeps the most probable tokens.

    Returns:
        A `Decoding` of n rows.

    Raises:
        ValueError: for steps < 1 or a negative temperature.

    Example:
        >>> import jsamp as js
        >>> table = js.tokens.confidence(js.tokens.Masked(9), 4, temperature=1.0)
        >>> [round(float(share), 3) for share in table.left]
        [0.924, 0.707, 0.383, 0.0]

    Cost:
        n calls, and a draw at each site that is masked in each of them.

    References:
        Chang et al., "MaskGIT: Masked Generative Image Transformer", 2022, arXiv:2202.04200.
    """
    check_process("confidence", process)
    steps = check_count("confidence: steps", steps)
    check_scalar("confidence: temperature", temperature, low=0)
    left = np.cos(np.arange(steps + 1) * (np.pi / 2 / steps))
    left[-1] = 0.0
    times = process.time(left)
    heat = temperature * (1 - np.arange(1, steps + 1) / steps)
    return Decoding(t=times[:-1], t_next=times[1:], left=left[1:], heat=heat, mask=process.mask)


def tau_leap(rates: Any, grid: Any) -> Decoding:
    """Make the table of tau-leaping along a grid: each site jumps with its own rates, frozen during a step.

    In a step of length d a site of total rate r stays with probability exp(-r d), and else jumps to v with
    probability rate_v / r: no probability is negative, so none is clipped. For any jump process, such as uniform
    noise; first order in d. Masks want `first_hitting`, which is exact.

    Args:
        rates: (x [L], t, logits [L, V]) -> [L, V] rates >= 0 in reverse time, such as `Masked(...).rates`; the rate of
            a site's own token is not read.
        grid: [N + 1] decreasing times.

    Returns:
        A `Decoding` of N rows, without a mask: every site moves.

    Raises:
        TypeError: for rates that cannot be called.
        ValueError: for a grid that does not decrease.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, jsamp as js
        >>> flip = lambda x, t, logits: jnp.full(logits.shape, 5.0)
        >>> model = lambda x, t: jnp.zeros((x.shape[0], 2))
        >>> table = js.tokens.tau_leap(flip, np.linspace(1, 0, 9))
        >>> x = js.tokens.decode(jax.random.key(0), model, jnp.zeros(400, int), table).x
        >>> bool(abs(x.mean() - 0.5) < 0.15)
        True

    Cost:
        N network calls, and one draw of V for each site that jumps.

    References:
        Campbell et al., "A Continuous Time Framework for Discrete Denoising Models", 2022, arXiv:2205.14987.
    """
    grid = check_grid("tau_leap: grid", grid)
    return Decoding(t=grid[:-1], t_next=grid[1:], rates=as_tree("tau_leap: rates", rates, "rates(x, t, logits)"))
