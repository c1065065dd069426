"""Plans that run upwards: from a signal to the noise that a plan would draw it from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jsamp._core._checks import check_count
from jsamp._core._numerics import lagrange_basis, safe_log
from jsamp._core._pytree import replace
from jsamp.solve._algebra import join
from jsamp.solve._columns import CORRECT, KEEP, MIX
from jsamp.solve._multistep import build
from jsamp.solve._plan import Plan, check_plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._walk import gain
from jsamp.solve._weights import Path


def invert(plan: Plan, *, order: int = 3) -> Plan:
    """Turn a plan around: the plan that carries a signal up to the noise from which the plan would draw it.

    A plan of one row per step, x' = A x + sum_j W_j m_j, is undone step by step, x = (x' - sum_j W_j m_j) / A, so that
    the way back repeats its own errors: the predictions that are not known yet are extrapolated in lam through `order`
    known ones, and the step is corrected once its newest one is. The round trip is then exact up to O(h^order),
    whatever the order of the plan. A plan with stages, a corrector or momentum, or one whose long steps make its
    undoing come back less exactly on Gaussians, is inverted as the ODE that it solves: eps is interpolated through
    `order` points and corrected. A plan that ends without noise cannot be asked there: its last step is undone by
    fixed-point evaluations at the level above.

    Where modes are sharp and lie apart, a state between them is carried far by a small error. Repeat the round trip:
    `noise = noise + up - back` with up = sample(signal, invert(plan)) and back = sample(sample(noise, plan),
    invert(plan)) shrinks what is left by a factor. On a mixture of two Gaussians 6 standard deviations apart 50 steps
    of second order come back to 3e-2 or better at once, and to 1e-3 after one repetition on a quadratic grid, and two
    (`deis`, `heun`) to four (`dpmpp`) on uniform log-SNR. First-order plans need not converge.

    Args:
        plan: a deterministic plan, concrete, whose times fall.
        order: predictions that are interpolated (static, 1..4).

    Returns:
        A plan of one row per step of `plan`, and a few more where that ends without noise. Run it by `js.sample(None,
        denoiser, signal, js.solve.invert(plan))`.

    Raises:
        TypeError: for something that is not a plan, or is traced.
        ValueError: for a plan that draws noise, or goes up on its way.

    Example:
        >>> import jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.5]], stds=[0.3])
        >>> plan = js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, 50))
        >>> noise = js.sample(None, law, jnp.array([0.7]), js.solve.invert(plan)).x
        >>> bool(abs(js.sample(None, law, noise, plan).x - 0.7)[0] < 1e-3)
        True

    Cost:
        One denoiser call per row, `order` predictions held.

    References:
        Song, Meng and Ermon, "Denoising Diffusion Implicit Models", 2021, arXiv:2010.02502 (inversion of DDIM).
    """
    check_plan("invert", plan, concrete=True)
    check_count("invert: order", order, high=4)
    if plan.stochastic:
        raise ValueError("invert: the plan draws noise, which cannot be taken back. Build it with eta, tau, churn = 0.")
    plain = plan.take is None and plan.increment_rate is None and plan.prediction_rate is None
    path = _path("invert", plan)
    ode = _ascent(path, lambda last: _as_ode(path, last, order))
    if not plain:
        return ode
    undone = _ascent(path, lambda last: _undone(plan, path, last, order))
    # Long steps make the undoing of a high order unstable.
    down = gain(plan)
    return min(undone, ode, key=lambda up: _round_trip(up, down))


def as_ode(who: str, plan: Plan, *, order: int = 3) -> Plan:
    """Make the plan up to the noise that follows the ODE, whatever the errors of the plan itself."""
    path = _path(who, plan)
    return _ascent(path, lambda last: _as_ode(path, last, order))


def _round_trip(up: Plan, down: np.ndarray) -> float:
    """The largest relative error of Gaussian data that come back from their noise; `down` is the gain of the plan."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.nan_to_num(np.max(np.abs(gain(up) * down - 1)), nan=np.inf))


def _ascent(path: Path, noisy: Callable[[int], Plan]) -> Plan:
    """The way up: the first step from a signal without noise, if the plan ends in one, then `noisy(last node)`."""
    clean = bool(path.noiseless[-1])
    last = path.steps - clean
    up = join("concatenate", [*([_from_clean(path)] if clean else []), *([noisy(last)] if last else [])])
    # No rows of a way down, so that what weighs those by their number goes by the time.
    return replace(up, number=-1 - np.arange(up.nfe, dtype=np.int32))


def _path(who: str, plan: Plan) -> Path:
    """The nodes where the steps of a plan begin and end."""
    ends = np.ones(plan.nfe, bool) if plan.ends_step is None else np.asarray(plan.ends_step, bool)
    columns = (plan.t, plan.t_next), (plan.alpha, plan.alpha_next), (plan.sigma, plan.sigma_next)
    levels = [np.append(np.asarray(a, np.float64)[0], np.asarray(b, np.float64)[ends]) for a, b in columns]
    # A corrector after the last step stays where it evaluates.
    moves = np.append(True, np.diff(levels[0]) != 0)
    t, alpha, sigma = (level[moves] for level in levels)
    if not np.all(np.diff(t) < 0):
        raise ValueError(f"{who}: the times of the plan must fall; this one goes up on its way (a restart or jump).")
    signalless, noiseless = alpha <= 0, sigma <= 0
    lam = safe_log(np, np.where(signalless, 1, alpha)) - safe_log(np, np.where(noiseless, 1, sigma))
    lam = np.where(noiseless, np.roll(lam, 1) + 1, np.where(signalless, np.roll(lam, -1) - 1, lam))
    return Path(np, None, t, alpha, sigma, lam, noiseless, signalless)  # pyright: ignore


def _from_clean(path: Path, num: int = 3) -> Plan:
    """The step up from zero noise: x = alpha x0 + sigma eps, with eps at the level above asked `num` times."""
    n = path.steps
    at, ratio = path.at(n - 1), path.alpha[n - 1] / path.alpha[n]
    stages = range(num)
    return assemble([Row(at, at, ratio, {r: at[2]}, take=KEEP if r else 1) for r in stages], kind="eps")


def _undone(plan: Plan, path: Path, last: int, order: int) -> Plan:
    """Rows that undo the first `last` rows of a plan, the last of them first; `made[k]` is the row that asks at k."""
    steps, rows, made = _in_eps(plan, path), [], {}
    first = int(path.signalless[0])

    def undo(i, newest):
        """1 / A of step i of the plan, and weights of the eps at nodes `newest`, ..., by the row that made them."""
        if path.signalless[i]:  # x is its noise
            return 0.0, {made[i + 1]: path.sigma[i]}
        known = [k for k in range(newest, newest + order) if k in made]
        inverse, weights = 1 / steps[i][0], dict.fromkeys((made[k] for k in known), 0.0)
        for j, weight in enumerate(steps[i][1]):
            basis = lagrange_basis([path.lam[k] for k in known], path.lam[j])
            for k, share in zip(known, basis, strict=True):
                weights[made[k]] -= inverse * weight * share
        return inverse, weights

    for k in range(last, first - 1, -1):
        # After the last step one more row asks at node 0, to correct it.
        at, made[k] = path.at(k), len(rows)
        coef, weights = undo(k - 1, k) if k else (1.0, {})
        row = Row(at, path.at(k - 1) if k else at, coef, weights, node=path.lam[k])
        if rows:
            coef, weights = undo(k, k)
            own = weights.pop(made[k])
            rows[-1] = rows[-1]._replace(corrector_state=coef, corrector_weights=weights)
            row = row._replace(take=CORRECT, corrector_newest=own)
        rows.append(row)
    return assemble(rows, kind="eps")


def _in_eps(plan: Plan, path: Path) -> list[tuple[float, np.ndarray]]:
    """A and the weights of eps_0, ..., eps_i, for each step x_(i+1) = A x_i + sum_k weights_k eps_k of a plan.

    x0_j = (x_j - sigma_j eps_j) / alpha_j, and an earlier x_j is what the steps since, undone, make of x_i. Undoing a
    step by eps is a contraction where undoing it by x0 is none.
    """
    steps: list[tuple[float, np.ndarray]] = []
    for i, sources in enumerate(_sources(plan)):
        if path.signalless[0] and i:
            # x0 of a state without signal is no more than that of the next one.
            sources[1] = sources.get(1, 0.0) + sources.pop(0, 0.0)
        coef, weights = float(plan.state_coef[i]), np.zeros(i + 1)
        share, of_eps = 1.0, np.zeros(i + 1)  # x_j = share x_i + of_eps . eps, for j from i down
        for j in range(i, min(sources) - 1, -1):
            if j < i:
                share, of_eps = share / steps[j][0], of_eps / steps[j][0]
                of_eps[: j + 1] -= steps[j][1] / steps[j][0]
            x0_share, eps_share = MIX[plan.kind] if plan.mix is None else np.asarray(plan.mix)[j]
            weight = sources.get(j, 0.0)
            if path.signalless[j]:
                break
            coef += weight * x0_share / path.alpha[j] * share
            weights += weight * x0_share / path.alpha[j] * of_eps
            weights[j] += weight * (eps_share - x0_share * path.sigma[j] / path.alpha[j])
        steps.append((coef, weights))
    return steps


def _sources(plan: Plan) -> list[dict[int, float]]:
    """The weights of each row by the row that made the prediction, not by its slot."""
    holder, found = np.full(plan.slots, -1), []
    for r in range(plan.nfe):
        weights = np.asarray(plan.weights, np.float64)[r]
        if plan.slots:
            holder[np.asarray(plan.slot)[r]] = -1
        found.append({r: weights[0], **{int(h): weights[k + 1] for k, h in enumerate(holder) if h >= 0}})
        if plan.slots:
            holder[np.asarray(plan.slot)[r]] = r
    return found


def _as_ode(path: Path, last: int, order: int) -> Plan:
    """Rows of x / alpha moved by eps d(sigma / alpha), from node `last` up to node 0."""
    signalless = bool(path.signalless[0])
    up = lambda level: level[int(signalless) : last + 1][::-1]
    parts = []
    if last > signalless:
        levels = [up(level) for level in (path.t, path.alpha, path.sigma, path.lam, path.noiseless, path.signalless)]
        parts.append(build(Path(np, None, *levels), kind="eps", order=order, corrector=-1))  # pyright: ignore
    if signalless:
        # Without signal x is its noise.
        parts.append(assemble([Row(path.at(1), path.at(0), 0.0, {0: path.sigma[0]})], kind="eps"))
    return join("concatenate", parts)
