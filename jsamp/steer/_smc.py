"""Sequential Monte Carlo over the particles of one run: exact conditioning, with evidence."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jsamp._core import _tree
from jsamp._core._log_weights import effective_size, log_mean_exp
from jsamp._core._pytree import construct, field, pytree, static
from jsamp._core._types import Model
from jsamp.denoise import _fields
from jsamp.denoise._protocol import aux_of, kick_of
from jsamp.denoise._twisted import Twist
from jsamp.estimate import Estimate
from jsamp.select import draw
from jsamp.solve import Plan
from jsamp.steer import _population
from jsamp.steer._protocol import Hooks

Scheme = Literal["systematic", "stratified", "multinomial"]
Combine = Literal["difference", "max", "sum"]


class SMCReport(NamedTuple):
    """Hold the report of `SMC`: `info.report` of the run.

    Args:
        log_evidence: `Estimate` of log Z, where Z, unbiased, is the mean of exp(final(x0)) over the denoiser's law. Its
            standard error comes from the spread over lineages; `ess` is that of the final weights.
        log_weight: [P] log-weights of the particles; Z is the mean of their exponentials.
        resampled: how many rows resampled.

    Example:
        >>> import jsamp as js
        >>> js.steer.SMCReport(log_evidence=None, log_weight=[0.0, 0.0], resampled=0).resampled
        0
    """

    log_evidence: Any
    log_weight: Any
    resampled: Any


class _Cloud(NamedTuple):
    log_weight: Any  # [P]
    log_potential: Any  # [P] cumulative log-potential of the lineage
    running: Any  # [P] last, largest or summed value along the lineage
    ancestor: Any  # [P] ancestor at row 0
    resampled: Any
    shift: Any  # twisted x0 minus plain x0, kick included: what the proposal did; None without a twist


@pytree
class SMC(Hooks):
    """Weight particles along the run and resample them: samples of p(x0) exp(final(x0)), with the evidence.

    x is [P, ...]: P particles on axis 0. After each evaluation log w += log G, and when the effective number of
    particles falls below ess P, particles are redrawn by weight, with their predictions, the solver's history and the
    states of other steers. G is made of r = potential(x, prediction, info), with `combine`:
    "difference": log G = r - r_before; "max": log G = the largest r so far; "sum": log G = the sum of r so far.
    At the end log w += final(x0) - log of all G so far, so intermediate values shape the search but not the answer: as
    P grows it is exact for any of them. Weights of rows that do not resample are carried on, and the evidence is
    accumulated across resamplings.

    With `js.denoise.Twisted` as the run's denoiser, potential None reads the twist, and log w gains the ratio of the
    plain transition to the twisted one, -(|d|^2 + 2 d.z) / (2 n^2) with d the shift of the mean, z the noise added and
    n its standard deviation. Rows that add no noise propose untwisted.

    Weigh the result by `info.report.log_weight`, or draw from it with `js.select.draw`. A particle of potential -inf is
    impossible and is replaced when the population is next redrawn. Look at the evidence before using a sample: -inf
    says that no particle was possible (its error is then NaN, its effective number 0), NaN that a potential was NaN;
    such weights redraw nothing.

    Args:
        potential: (x, prediction, info) -> [P], such as `lambda x, p, info: reward(p.x0)`; None with `Twisted`.
        final: x0 -> [P], the log-weight the answer shall have: a reward, or log p(y | x0).
        ess: resample when the effective number is below this share of P; 0 never, 1 whenever weights are uneven.
        scheme: "systematic", "stratified" or "multinomial" (static).
        every: rows between weightings.
        start, stop: first row that weighs, and the row before which it ends (None: the last).
        combine: "difference", "max" or "sum" (static).

    Raises:
        ValueError: for fewer than two particles, a plan without noise, a potential or final value that is not [P], or
            a twisted denoiser on a plan with stages, history or momentum.
        TypeError: when potential is None and the denoiser is not `Twisted`.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0]], stds=[1.0])
        >>> reward = lambda x0: -0.5 * (x0[:, 0] - 2) ** 2
        >>> plan = js.solve.ddpm(schedule, js.noise.logsnr_grid(schedule, 20))
        >>> steer = js.steer.SMC(lambda x, p, info: reward(p.x0), reward)
        >>> k0, k1 = jax.random.split(jax.random.key(0))
        >>> result = js.sample(k1, law, schedule.prior(k0, (256, 1)), plan, steer=steer)
        >>> weight = jax.nn.softmax(result.info.report.log_weight)
        >>> bool(abs(weight @ result.x[:, 0] - 1.0) < 0.3)
        True

    Cost:
        P network evaluations for each row, no more; P potentials for each row that weighs. Memory of P samples and at
        most 32 MiB: particles are reordered in place (an eps or v network that needs no more memory than its input
        adds the state that its x0 takes).

    References:
        Wu et al., "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models", 2023,
        arXiv:2306.17775. Singhal et al., "A General Framework for Inference-time Scaling and Steering of Diffusion
        Models", 2025, arXiv:2501.06848. Chan and Lai, "A general theory of particle filters in hidden Markov models
        and some applications", 2013 (the standard error).
    """

    potential: Any = field(convert=_fields.callable_as("potential(x, prediction, info)", optional=True))
    final_value: Model = field(convert=_fields.callable_as("final(x0)"))
    ess: Any = field(check=_fields.scalar(0, 1))
    every: Any
    start: Any
    stop: Any
    scheme: Scheme = static(check=_fields.one_of("systematic", "stratified", "multinomial"))
    combine: Combine = static(check=_fields.one_of("difference", "max", "sum"))

    stochastic = property(lambda self: True, doc="Resampling draws.")

    def __init__(
        self, potential: Any, final: Model, *, ess: Any = 0.5, scheme: Scheme = "systematic", every: Any = 1,
        start: Any = 0, stop: Any = None, combine: Combine = "difference",
    ):  # fmt: skip
        _population.check_rows("SMC", every, start, stop)
        values = {"potential": potential, "final_value": final, "ess": ess, "every": every, "start": start}
        construct(self, **values, stop=stop, scheme=scheme, combine=combine)

    @property
    def on_noise(self):
        """A twisted transition is weighed by the noise that the row drew."""
        return "reads" if self.potential is None else None

    def init(self, key, x, plan):
        """Start with equal weights."""
        count = _population.particles("SMC", x)
        _population.check_noise("SMC", plan)
        # Made from x, so that they vary over the mesh axes over which x does; weights of tokens are floating, too.
        total = _population.total(x)
        zero = jnp.zeros_like(total, jnp.result_type(total, jnp.float32))
        shift = None
        if self.potential is None:
            if not isinstance(plan, Plan):
                raise TypeError("SMC: a twist is for plans of Gaussian noise. Give a potential(x, prediction, info).")
            found = plan.having("take", "churn_std", "increment_rate", "prediction_rate", "relative")
            found += ("history",) * (plan.slots > 0)
            if found or plan.noise_std is None:
                raise ValueError(
                    f"SMC with a twist needs a plan whose rows are Gaussian transitions of their own; this one has "
                    f"{', '.join(found) or 'no noise'}. Use js.solve.ddpm or ddim(eta=1.0)."
                )
            shift = _tree.zeros_like(x)
        running = zero if self.combine != "max" else zero - jnp.inf
        return _Cloud(zero, zero, running, jnp.arange(count) + zero.astype(int), zero[0].astype(int), shift)

    def _weigh(self, g, x, prediction, info, weighs):
        """Return the log-potential of the row for each particle, and the new running value."""
        count, dtype = g.log_weight.shape[0], g.log_weight.dtype

        def value():
            if self.potential is None:
                return prediction.aux.value
            return self.potential(x, prediction, info)

        def weighed():
            r = _population.per_particle("SMC: potential", value(), count, dtype)
            if self.combine == "difference":
                return r - g.running, r
            r = jnp.maximum(g.running, r) if self.combine == "max" else g.running + r
            return r, r

        gain, running = jax.lax.cond(weighs, weighed, lambda: (jnp.zeros_like(g.running), g.running))
        return jnp.where(g.log_potential == -jnp.inf, 0, gain), running

    def mid(self, key, g, x, prediction, info):
        """Weigh the particles, and redraw them when their weights have become uneven."""
        if self.potential is None:
            g, prediction = _untwist(g, prediction, info)
        weighs = _population.active(info, self.every, self.start, self.stop)
        gain, running = self._weigh(g, x, prediction, info, weighs)
        log_weight = g.log_weight + gain
        mean = log_mean_exp(log_weight)
        count = log_weight.shape[0]
        share = jax.nn.softmax(log_weight)
        uneven = weighs & (jnp.sum(share**2) * self.ess * count > 1) & jnp.isfinite(mean)
        order = jnp.arange(count)
        scores = jnp.where(jnp.isfinite(mean), share, 1.0)
        index = jnp.where(uneven, draw(key, scores, count, scheme=self.scheme).index, order)
        log_weight = jnp.where(uneven, mean, log_weight)
        g = g._replace(log_potential=g.log_potential + gain, running=running)
        g, x, prediction = _population.take((g, x, prediction), index)
        return g._replace(log_weight=log_weight, resampled=g.resampled + uneven), x, prediction, index

    def post(self, key, g, x, info):
        """Weigh a twisted transition by the ratio of the plain one to it."""
        if self.potential is not None:
            return g, x, True
        safe = jnp.where(info.noise_std > 0, info.noise_std, 1)
        lift = lambda d, z: (d / safe) ** 2 + 2 * (d / safe) * (z / safe)
        ratio = -0.5 * _population.total(jax.tree.map(lift, g.shift, info.noise))
        return g._replace(log_weight=g.log_weight + jnp.where(info.noise_std > 0, ratio, 0)), x, True

    def reorder(self, g, index):
        """Follow particles that another steer reordered."""
        return _population.take(g, index)

    def final(self, g, x):
        """Report the true log-weights, and the evidence."""
        count = g.log_weight.shape[0]
        value = _population.per_particle("SMC: final", self.final_value(x), count, g.log_weight.dtype)
        # A lineage already ruled out stays so: -inf less -inf says nothing.
        log_weight = jnp.where(g.log_potential == -jnp.inf, -jnp.inf, g.log_weight + value - g.log_potential)
        share = jax.nn.softmax(log_weight)
        families = jnp.zeros_like(share).at[g.ancestor].add(share)
        stderr = jnp.sqrt(jnp.sum((families - 1 / count) ** 2) * count / (count - 1))
        evidence = Estimate(log_mean_exp(log_weight), stderr, effective_size(log_weight))
        return x, SMCReport(evidence, log_weight, g.resampled)


def _untwist(g, prediction, info):
    """Return the prediction with which the row moves, and by how much it shifts the mean of the transition."""
    if not isinstance(aux_of(prediction), Twist):
        raise TypeError(
            "SMC: potential is None, but the run's denoiser brings no twist. Use js.denoise.Twisted as the outermost "
            "denoiser, or give a potential(x, prediction, info)."
        )
    noisy, plain = info.noise_std > 0, prediction.aux.x0
    change = jax.tree.map(lambda q, p: jnp.where(noisy, q - p, 0), prediction.x0, plain)
    removed = jax.tree.map(lambda q, p: jnp.where(noisy, 0, q - p), prediction.x0, plain)
    ratio = info.alpha / info.sigma
    x0 = jax.tree.map(jnp.subtract, prediction.x0, removed)
    eps = jax.tree.map(lambda e, r: e + ratio * r, prediction.eps, removed)
    if kick_of(prediction) is not None:
        raise TypeError("SMC: a twisted proposal must not be kicked as well; remove DPS, CFGpp, ... from the denoiser.")
    shift = jax.tree.map(lambda d: info.data_coef * d, change)
    return g._replace(shift=shift), prediction._replace(x0=x0, eps=eps)
