"""Exact answers, written independently of the library: a table interpreter in numpy, closed-form predictions and
flow maps, and the affine recursion that gives a solver's output moments without Monte Carlo."""

import numpy as np


class Mixture:
    """Predictions of a mixture of diagonal Gaussians at any (alpha, sigma), in numpy float64."""

    def __init__(self, weights, means, variances):
        self.weights, self.means, self.variances = (np.asarray(a, float) for a in (weights, means, variances))
        self.variances = np.broadcast_to(self.variances.reshape(len(self.weights), -1), self.means.shape)

    def __call__(self, x, alpha, sigma):
        residual = x[:, None, :] - alpha * self.means
        total = alpha**2 * self.variances + sigma**2
        log = np.log(self.weights) - 0.5 * np.sum(np.log(total) + residual**2 / total, axis=-1)
        share = np.exp(log - log.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        pull = residual / total
        x0 = np.einsum("nk,nkd->nd", share, self.means + alpha * self.variances * pull)
        return x0, sigma * np.einsum("nk,nkd->nd", share, pull)


class Gaussian(Mixture):
    """One Gaussian N(mean, rotation diag(variances) rotation^T)."""

    def __init__(self, mean, variances, rotation=None):
        self.mean, self.spread = np.asarray(mean, float), np.asarray(variances, float)
        self.rotation = np.eye(len(self.mean)) if rotation is None else np.asarray(rotation, float)

    def __call__(self, x, alpha, sigma):
        pull = ((x - alpha * self.mean) @ self.rotation) / (alpha**2 * self.spread + sigma**2)
        back = self.rotation.T
        return self.mean + (alpha * self.spread * pull) @ back, (sigma * pull) @ back

    def flow(self, x, start, end):
        """The exact probability-flow map between (alpha, sigma) pairs."""
        (a0, s0), (a1, s1) = start, end
        ratio = np.sqrt((a1**2 * self.spread + s1**2) / (a0**2 * self.spread + s0**2))
        return a1 * self.mean + (((x - a0 * self.mean) @ self.rotation) * ratio) @ self.rotation.T


def mix(plan, r, x0, eps):
    """The prediction that row r combines."""
    if plan.kind == "mixed":
        return plan.mix[r, 0] * x0 + plan.mix[r, 1] * eps
    return {"x0": x0, "eps": eps, "velocity": eps - x0}[plan.kind]


def run_table(plan, predict, x, noise=None, state=None):
    """Interpret a plan row by row, as its docstring says, in numpy. `noise(r, stream)` supplies draws.

    `state` may hold seeded "history" [K, ...] and "velocity". Returns the final x.
    """
    assert noise is not None or not plan.stochastic, "a stochastic plan needs noise(r, stream)"
    state = state or {}
    x = np.array(x, float)
    history = np.array(state.get("history", np.zeros((plan.slots, *x.shape))))
    carry = x, x, np.array(state.get("velocity", np.zeros_like(x))), np.zeros_like(x), history
    for r in range(plan.nfe):
        carry = run_row(plan, r, predict, carry, noise)
    return carry[0]


def run_row(plan, r, predict, carry, noise=None):
    """One row: (x, what is held for the next row, velocity, drift, history). Without `noise` no noise is added."""
    x, held, v, drift, history = carry
    if plan.churn_std is not None and noise is not None:
        x = x + plan.churn_std[r] * noise(r, 1)
    m = mix(plan, r, *predict(x, float(plan.alpha[r]), float(plan.sigma[r])))
    if plan.prediction_rate is not None:
        m = v = (1 - plan.prediction_rate[r]) * v + plan.prediction_rate[r] * m
    base = start_of_step(plan, r, x, held, m)
    u = plan.weights[r, 0] * m + sum(plan.weights[r, k + 1] * history[k] for k in range(plan.slots))
    if plan.increment_rate is not None:
        drift = (1 - plan.increment_rate[r]) * drift + plan.increment_rate[r] * u
        u = plan.gain[r] * ((1 - plan.increment_blend[r]) * drift + plan.increment_blend[r] * u)
    z = np.zeros_like(x) if plan.noise_std is None or noise is None else plan.noise_std[r] * noise(r, 0)
    if plan.relative is not None and plan.relative[r]:  # one sample a row
        ratio = np.sqrt(m.shape[1] / np.sum(m**2, axis=1, keepdims=True))
        u, z = ratio**2 * u, ratio * z
    held = hold(plan, r, base, m, history) + z
    history = history.copy()
    if plan.slots:
        history[plan.slot[r]] = m
    return plan.state_coef[r] * base + u + z, held, v, drift, history


def start_of_step(plan, r, x, held, m):
    """The state that row r moves on from."""
    if plan.take is None or plan.take[r] == 1:
        return x
    return held if plan.take[r] == 0 else held + plan.corrector_newest[r] * m


def hold(plan, r, base, m, history):
    """What row r leaves for the next one to start from, but for noise."""
    if plan.corrector_weights is None:
        return base
    return plan.corrector_state[r] * base + sum(
        w * p for w, p in zip(plan.corrector_weights[r], [m, *history], strict=True)
    )


def output_moments(plan, mean, std, start_mean=None, start_std=None):
    """Exact mean and variance of a plan's output on data N(mean, std^2), x started from its own noised law.

    Every plan is affine on Gaussian data: the joint state (x, held, v, history) is propagated row by row.
    """
    size = 3 + plan.slots
    a0, s0 = float(plan.alpha[0]), float(plan.sigma[0])
    first_mean = a0 * mean if start_mean is None else start_mean
    first_std = np.sqrt(a0**2 * std**2 + s0**2) if start_std is None else start_std
    m, cov = np.zeros(size), np.zeros((size, size))
    m[:2] = first_mean
    cov[:2, :2] = first_std**2
    law = Gaussian([mean], [std**2])
    for r in range(plan.nfe):
        if plan.churn_std is not None:
            cov[0, 0] += float(plan.churn_std[r]) ** 2

        row = lambda s, r=r: packed_row(plan, r, law, s)
        zero = row(np.zeros(size))
        jacobian = np.stack([row(e) - zero for e in np.eye(size)], axis=1)
        m, cov = jacobian @ m + zero, jacobian @ cov @ jacobian.T
        if plan.noise_std is not None:
            gain = np.zeros(size)
            gain[0] = float(plan.noise_std[r])
            gain[1] = gain[0]
            cov += np.outer(gain, gain)
    return m[0], cov[0, 0]


def packed_row(plan, r, predict, s):
    """One row without noise on the packed state (x, held, velocity or drift, history), each one number."""
    at = lambda k: s[k].reshape(1, 1)
    carry = at(0), at(1), at(2), at(2), s[3:].reshape(-1, 1, 1)
    x, held, v, drift, history = run_row(plan, r, predict, carry)
    average = v if plan.increment_rate is None else drift
    return np.concatenate([np.ravel(part) for part in (x, held, average, history)])


def slope(errors):
    """Convergence orders between successive halvings."""
    errors = np.asarray(errors)
    return np.log2(errors[:-1] / errors[1:])
