"""Plans of stochastic interpolants: an ODE, or an SDE whose noise is chosen when sampling, from t = 0 to 1 or back."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from jsamp._core._checks import check_choice, check_number, is_traced
from jsamp._core._pytree import replace
from jsamp._core._types import Grid
from jsamp.solve._columns import KEEP
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._stages import TABLEAUS
from jsamp.solve._weights import check_grid_is_array


def interpolant_ode(interpolant: Any, grid: Grid, *, tableau: str = "2heun") -> Plan:
    """Integrate dx/dt = b(x, t), the flow of an interpolant from one law to the other, by a Runge-Kutta method.

    Run it with a `js.denoise.Bridge` or `BridgeMixture` as the denoiser: the plan moves by the prediction's x0, which
    is b there.

    Args:
        interpolant: as `js.noise.Interpolant`.
        grid: [n + 1] times in [0, 1] that rise, or fall to go back from x1 to x0.
        tableau: as in `js.solve.rho_rk` (static); "1euler" on the one-sided linear path is `ddim` on `Flow`.

    Returns:
        A plan of stages * n rows.

    Raises:
        TypeError: for no interpolant or no grid.
        ValueError: for times outside [0, 1] or not in order, or an unknown tableau.

    Example:
        >>> import jax.numpy as jnp, numpy as np, jsamp as js
        >>> path = js.noise.Interpolant("linear")
        >>> law = lambda mean: js.denoise.GaussianMixture(js.noise.VE(), weights=[1.0], means=[[mean]], stds=[0.5])
        >>> bridge = js.denoise.BridgeMixture(path, law(-1.0), law(1.0))
        >>> plan = js.solve.interpolant_ode(path, np.linspace(0, 1, 21))
        >>> js.sample(None, bridge, jnp.array([-1.0]), plan).x.round(3).tolist()
        [1.0]

    Cost:
        One denoiser call a stage; stages - 1 predictions held.

    References:
        Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        2023, arXiv:2303.08797.
    """
    t = _times("interpolant_ode", interpolant, grid)
    check_choice("interpolant_ode: tableau", tableau, tuple(TABLEAUS))
    c, a, b = TABLEAUS[tableau]
    at, rows = _reader(interpolant), []
    for start, end in itertools.pairwise(t):
        h, first = end - start, len(rows)
        points = [at(start + share * h) if share < 1 else at(end) for share in c]
        for j, combination in enumerate([*a[1:], b]):
            to = points[j + 1] if j + 1 < len(points) else at(end)
            weights = {first + k: h * w for k, w in enumerate(combination)}
            rows.append(Row(points[j], to, 1.0, weights, take=KEEP if j else 1))
    return assemble(rows, kind="x0")


def interpolant_sde(interpolant: Any, grid: Grid, *, eps: Any = 1.0) -> Plan:
    """Integrate dx = (b + eps s) dt + sqrt(2 eps) dW by Heun's method: the law of the interpolant at every time.

    eps is chosen here, not in training: 0 is the ODE; more noise forgets errors of b, if s is good, and needs more
    steps. Backwards in time the drift is b - eps s. The noise is added once in a step, so the weak order is 2. A step
    that ends where gamma = 0, where s cannot be asked, is an Euler step.

    Args:
        interpolant: as `js.noise.Interpolant`.
        grid: [n + 1] times in [0, 1] that rise, or fall to go back. Where eps > 0, gamma must not be 0 at its start:
            begin at 0.001, say.
        eps: a number >= 0, one for each time [n + 1], or a function of t.

    Returns:
        A stochastic plan of 2 n rows, one less where it ends at gamma = 0.

    Raises:
        TypeError: for no interpolant or no grid.
        ValueError: for times outside [0, 1] or not in order, eps < 0, or eps > 0 where gamma = 0 at the start.

    Example:
        >>> import numpy as np, jsamp as js
        >>> js.solve.interpolant_sde(js.noise.Interpolant("linear"), np.linspace(0.01, 1, 101), eps=0.5).nfe
        199

    Cost:
        2 n evaluations of the network, each asked for velocity and score; no history.

    References:
        Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        2023, arXiv:2303.08797.
    """
    t = _times("interpolant_sde", interpolant, grid)
    if is_traced(eps):
        raise TypeError("interpolant_sde: eps must be concrete, not traced: the table is made on the host.")
    eps = [eps(s) for s in t] if callable(eps) else eps
    check_number("interpolant_sde: eps", eps, low=0)
    levels = np.asarray(eps, np.float64)
    if levels.shape not in ((), t.shape):
        raise ValueError(f"interpolant_sde: eps must be one number or one for each time {t.shape}, got {levels.shape}.")
    eps = np.broadcast_to(levels, t.shape)
    at, rows, shares = _reader(interpolant), [], []
    points = [at(s) for s in t]
    quiet = [point[2] <= 0 < level for point, level in zip(points, eps, strict=True)]
    if any(quiet[:-1]):
        raise ValueError(
            f"interpolant_sde: eps > 0 at t={t[int(np.argmax(quiet))]:g}, where gamma = 0 and the score cannot be "
            f"asked. Start the grid inside, such as at 0.001, or give eps as a function that is 0 there."
        )
    for i, h in enumerate(np.diff(t)):
        first, end = len(rows), points[i + 1]
        noise = np.sqrt(abs(h) * (eps[i] + eps[i + 1]))
        share = lambda j, h=h: (1.0, -np.sign(h) * eps[j] / points[j][2] if eps[j] else 0.0)
        rows.append(Row(points[i], end, 1.0, {first: h}, noise_std=noise))
        shares.append(share(i))
        if not quiet[i + 1]:
            rows.append(Row(end, end, 1.0, {first: h / 2, first + 1: h / 2}, take=KEEP))
            shares.append(share(i + 1))
    return replace(assemble(rows, kind="x0"), kind="mixed", mix=np.array(shares))


def _times(name: str, interpolant: Any, grid: Any) -> np.ndarray:
    missing = [m for m in ("beta", "gamma") if not callable(getattr(interpolant, m, None))]
    if missing or isinstance(interpolant, type):
        raise TypeError(f"{name}: interpolant must have beta(t) and gamma(t), as js.noise.Interpolant() has.")
    if is_traced(grid, interpolant):
        raise TypeError(f"{name}: interpolant and grid must be concrete, not traced: the table is made on the host.")
    check_grid_is_array(name, grid)
    check_number(f"{name}: grid", grid, low=0, high=1)
    t = np.asarray(grid, np.float64)
    if t.ndim != 1 or t.size < 2 or not (np.all(np.diff(t) > 0) or np.all(np.diff(t) < 0)):
        raise ValueError(f"{name}: grid must be a vector of n + 1 >= 2 times that rise, or fall to go back.")
    return t


def _reader(interpolant: Any):
    """Make the function t -> (t, beta, gamma), which stand in the places of (t, alpha, sigma)."""
    level = lambda f, t: float(np.asarray(f(t)))
    return lambda t: (float(t), level(interpolant.beta, t), level(interpolant.gamma, t))
