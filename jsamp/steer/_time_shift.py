"""Time-shift sampling: choose the time label whose noise variance matches the sample."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._pytree import field, pytree, static
from jsamp._core._sample_axes import check_event_ndim, per_sample, sample_axes
from jsamp.denoise import _fields
from jsamp.noise import Discrete
from jsamp.solve._plan import check_plan
from jsamp.steer._protocol import Hooks

MODES = ("paper", "target", "network_time")


class _Shift(NamedTuple):
    before: Any  # the state the row evaluated at
    t: Any  # the shifted time of that state
    target: Any  # the shifted time the row should land at
    clean: Any  # whether the plan combines predictions of x0


def _check_discrete(name: str, schedule: Any) -> None:
    if not isinstance(schedule, Discrete):
        raise TypeError(
            f"{name} must be a variance-preserving Discrete schedule, whose indices are matched; got "
            f"{type(schedule).__name__}. Use js.noise.Discrete."
        )


@pytree
class TimeShift(Hooks):
    """Replace a row's time by the one, within a window, whose noise variance the sample has: time-shift sampling.

    With V(i) = sigma^2 at index i, and var(x) the variance over the numbers of one sample (unbiased), t_s is the index
    nearest in V to var(x) among those within window // 2 of the nominal one; V increases, so it is a clipped inverse.
    Rows at times not above `cutoff`, and the first, are not shifted.

    mode="paper": after the step to t, match var(x) around t; t_s is the time of the next evaluation and the starting
    time of the next step. "target": match the variance of the current state around the next time, and land there; the
    network is still asked at the grid's times (what the authors' PNM code does). "network_time": only the network's
    time label is shifted (their DEIS code). The rescaled step keeps the solver's own combination of predictions, x0 or
    eps as the plan has it; for DDIM it is the published step in either form.

    Plans that "paper" and "target" refuse, since no single step leads from one time to another there: those with stages
    or a corrector (Heun, PNDM, UniPC, SA-Solver), with noise (DDPM, SDE variants) or momentum (GHVB, heavy ball); take
    "network_time" for these. DDIM and the multistep plans (dpmpp, DEIS, PLMS, iPNDM) run in every mode.

    It pays only for networks with exposure bias; on an exact denoiser it does nothing useful. Window 0 keeps the base
    sampler's own operations bit for bit; compiled, a compiler may round a one-term step differently beside the others.

    Args:
        schedule: a `Discrete` schedule; window and cutoff are in its indices.
        window: full width of the search, in indices, >= 0; 0 is the base sampler bit for bit.
        cutoff: index t_c; times at or below are not shifted.
        mode: "paper", "target" or "network_time" (static).
        event_ndim: trailing axes that make one sample; None means all of x (static).

    Raises:
        TypeError: for a schedule without indices.
        ValueError: for a negative window, an unknown mode, fewer than 16 numbers in a sample, or, in the modes that
            move the state, a plan with stages, a corrector, momentum or noise.

    Example:
        >>> import jax, jsamp as js
        >>> schedule = js.noise.Discrete.ddpm_linear()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0] * 16], stds=[0.1])
        >>> plan = js.solve.ddim(schedule, js.noise.index_grid(schedule, 10))
        >>> steer = js.steer.TimeShift(schedule, window=40, cutoff=300)
        >>> js.sample(None, law, schedule.prior(jax.random.key(0), (16,)), plan, steer=steer).x.shape
        (16,)

    Cost:
        One reduction over x for each row; no evaluation.

    References:
        Li et al., "Alleviating Exposure Bias in Diffusion Models through Sampling with Shifted Time Steps", 2024,
        arXiv:2305.15583.
    """

    schedule: Any = field(check=_check_discrete)
    window: Any = field(check=_fields.number(0))
    cutoff: Any = field(default=0, check=_fields.number(0))
    mode: Literal["paper", "target", "network_time"] = static(default="paper", check=_fields.one_of(*MODES))
    event_ndim: int | None = static(default=None, convert=check_event_ndim)

    def _match(self, x: Any, t: Any) -> Any:
        """Find the index near t whose noise variance is that of the sample; one for each sample."""
        leaves = jax.tree.leaves(x)
        if len(leaves) != 1:
            raise TypeError("TimeShift needs a single array as state.")
        (x,) = leaves
        axes = sample_axes(x, self.event_ndim)
        if int(np.prod([x.shape[a] for a in axes])) < 16:
            raise ValueError(
                f"TimeShift: the variance of a sample of shape {x.shape} says little; want 16 numbers or more."
            )
        spread = jnp.var(x, axis=axes, ddof=1)
        table = -jnp.expm1(2 * jnp.asarray(self.schedule.log_alpha, x.dtype))
        right = jnp.clip(jnp.searchsorted(table, spread), 1, table.shape[0] - 1)
        nearest = right - (spread - table[right - 1] <= table[right] - spread)
        half = jnp.asarray(self.window, x.dtype) // 2
        shifted = jnp.clip(nearest.astype(x.dtype), t - half, t + half)
        shifted = jnp.clip(shifted, 0, table.shape[0] - 1)
        return jnp.where((t > self.cutoff) & (half > 0), shifted, t)

    def init(self, key, x, plan):
        """Start with nothing shifted; refuse plans that the mode cannot follow."""
        check_plan("TimeShift", plan)
        if self.mode != "network_time":
            found = plan.having("take", "noise_std", "churn_std", "increment_rate", "prediction_rate")
            if found:
                raise ValueError(
                    f"TimeShift(mode={self.mode!r}) moves the state along one-row deterministic steps; this plan has "
                    f"{', '.join(found)}. Use a multistep plan, or mode='network_time'."
                )
            if plan.kind not in ("x0", "eps"):
                raise ValueError(f"TimeShift(mode={self.mode!r}) needs a plan in x0 or eps form, got {plan.kind!r}.")
        t = jnp.zeros_like(self._match(x, jnp.asarray(plan.t[0], jnp.result_type(x)))) + plan.t[0]
        return _Shift(x, t, t, jnp.asarray(plan.kind == "x0"))

    def time(self, g, x, t):
        """Ask the network at the shifted time of the state, in the modes that do."""
        if self.mode == "target":
            return t
        return g.t if self.event_ndim is None else per_sample(g.t, jax.tree.leaves(x)[0])

    def mid(self, key, g, x, prediction, info):
        """Remember where the row starts; in mode "target", choose where it lands."""
        target = g.target
        if self.mode == "target":
            target = jnp.where(info.index > 0, self._match(x, info.t_next), info.t_next)
        return _Shift(x, g.t, target, g.clean), x, prediction, None

    def post(self, key, g, x, info):
        """Move the end or the start of the step to the shifted time, with the step's own slope."""
        if self.mode == "target":
            moved = jax.tree.map(
                lambda old, new: self._rescale(old, new, g.target, info, g.clean, end=True), g.before, x
            )
            return g, moved, True
        if self.mode == "paper":
            x = jax.tree.map(lambda old, new: self._rescale(old, new, g.t, info, g.clean, end=False), g.before, x)
        return g._replace(t=self._match(x, info.t_next)), x, True

    def reorder(self, g, index):
        """Follow particles that another steer reordered."""
        return jax.tree.map(lambda leaf: leaf[index] if leaf.ndim else leaf, g)

    def _rescale(self, old, new, t, info, clean, end):
        """Move one end of the step old -> new to time t; where the time is not shifted it stays, bit for bit.

        A step whose rows combine x0 (`clean`) keeps that combination, and its eps is the one at the shifted time; one
        of eps keeps its eps: x / alpha is linear in sigma / alpha along it.
        """
        alpha, sigma = (per_sample(f(t), old) for f in (self.schedule.alpha, self.schedule.sigma))
        moved = per_sample(t != (info.t_next if end else info.t), old)
        rho, to = info.sigma / info.alpha, info.sigma_next / info.alpha_next
        eps = (new / info.alpha_next - old / info.alpha) / (to - rho)
        if end:
            return jnp.where(moved, alpha * (old / info.alpha + (sigma / alpha - rho) * eps), new)
        by_eps = info.alpha_next * (old / alpha + (to - sigma / alpha) * eps)
        share = info.sigma_next / info.sigma
        x0 = (new - share * old) / (info.alpha_next - share * info.alpha)
        ratio = info.sigma_next / sigma
        by_x0 = ratio * old + (info.alpha_next - ratio * alpha) * x0
        return jnp.where(moved, jnp.where(clean, by_x0, by_eps), new)
