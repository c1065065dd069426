"""Plan: a diffusion solver as a table. One row is one network evaluation; one scan body runs every plan."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._checks import check_choice, is_traced, shown
from jsamp._core._pytree import field, pytree, static
from jsamp.solve._columns import DTYPES, KINDS, VECTORS, columns
from jsamp.solve._cut import cut

WORDS = {
    "take": "stages or a corrector",
    "noise_std": "noise",
    "churn_std": "noise before its rows",
    "prediction_rate": "momentum on predictions",
    "increment_rate": "momentum",
    "relative": "Langevin rows",
}
"""What the rows of a plan do beyond a plain step, by the column that says it."""


def as_column(name: str, value: Any) -> Any:
    """Return a column as an array; lists are converted, what holds no numbers is refused."""
    if value is None or is_traced(value) or isinstance(value, jax.Array):
        return value
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):
        found = np.asarray(None)
    if not (jnp.issubdtype(found.dtype, jnp.number) or found.dtype == bool) or np.iscomplexobj(found):
        raise TypeError(f"{name} must be a vector of real numbers, one for each row; got {shown(value)}.")
    return found


@pytree
class Plan:
    """Tabulate a diffusion solver in R rows, one network evaluation each.

    A row evaluates the denoiser at (x, t), forms the prediction m (x0, eps, or eps - x0), overwrites history[slot] with
    m before the history is read, and moves on:

        x <- x + churn_std noise                                        before the evaluation
        m <- (1 - prediction_rate) v + prediction_rate m, v <- m        momentum on predictions
        base = x, left, or left + corrector_newest m                    as `take` says: accept, keep, correct
        u = weights.(m, history)
        v <- (1 - increment_rate) v + increment_rate u                  momentum on increments
        u <- gain (v + increment_blend (u - v))
        z = noise_std noise
        u <- r^2 u, z <- r z with r = sqrt(size of x) / |m|             where `relative`: Langevin correctors
        x <- state_coef base + u + z                                    the next row evaluates here, at t_next
        left <- corrector_state base + corrector_weights.(m, history) + z      what the next row may keep or correct

    The next row keeps the base when corrector_state = 1 and corrector_weights = 0 (what a missing column means); such a
    row adds no noise. A corrector takes its new prediction, corrector_newest m, in the row that evaluates it. For
    example DDIM in two rows, corrected once (UniPC), with mk the prediction of row k:

        row 0   take 1   x1 = state_coef x0 + weights m0      left = corrector_state x0 + corrector_weights m0
        row 1   take 2   base = left + corrector_newest m1    x2 = state_coef base + weights.(m1, m0)

    Columns that a solver does not need are None and cost nothing. Build plans with `js.solve.dpmpp`, `deis`, ..., or
    write your own rows with `js.solve.Row` and `js.solve.assemble`. Numbers are leaves, so plans can be vmapped
    (`js.solve.stack`), differentiated and swapped without retracing.

    Args:
        t, alpha, sigma: [R] where each row evaluates.
        node: [R] coordinate in which the solver interpolates predictions.
        t_next, alpha_next, sigma_next: [R] where each row lands.
        state_coef: [R] coefficient of the base state.
        weights: [R, K + 1] coefficients of the newest prediction (column 0) and of the K history slots.
        slot: [R] history slot that receives the row's prediction; None when K = 0, for first-order rows alone.
        noise_std: [R] standard deviation of the noise added after the row.
        churn_std: [R] standard deviation of the noise added before the row evaluates.
        take: [R] what the row starts from: 0 keeps what the row before left, 1 accepts x, 2 corrects what it left.
        ends_step: [R] whether the row ends a step, where kicks of guidance act; None when every row does.
        corrector_newest: [R] coefficient of m in the row's own corrector.
        corrector_state: [R] coefficient of the base in what the row leaves for the next one.
        corrector_weights: [R, K + 1] coefficients of the predictions in what the row leaves for the next one.
        prediction_rate: [R] rate of the moving average of predictions (GHVB's beta).
        gain: [R] factor of the averaged increment.
        increment_rate: [R] rate of the moving average of increments (heavy ball's beta).
        increment_blend: [R] share of the plain increment that is blended in again (Nesterov).
        relative: [R] whether the row measures its move and its noise by the size of m.
        mix: [R, 2] weights of x0 and eps in m, for plans of kind "mixed".
        number: [R] number of each row in the run that it was cut from, by which its noise is drawn; None counts from 0.
        visit: [R] how often that run has gone back up in noise before the row; None counts here.
        kind: prediction the rows combine: "x0", "eps", "velocity" or "mixed" (static).

    Raises:
        ValueError: for columns of the wrong shape, an unknown kind, a slot that does not exist, or weights on a slot
            that holds no earlier prediction.

    Example:
        >>> import jsamp as js
        >>> plan = js.solve.dpmpp(js.noise.VP(), js.noise.logsnr_grid(js.noise.VP(), 10))
        >>> plan.nfe, plan.slots, plan.stochastic, plan[5:].nfe
        (10, 2, False, 5)
    """

    t: Any = field(convert=as_column)
    alpha: Any = field(convert=as_column)
    sigma: Any = field(convert=as_column)
    node: Any = field(convert=as_column)
    t_next: Any = field(convert=as_column)
    alpha_next: Any = field(convert=as_column)
    sigma_next: Any = field(convert=as_column)
    state_coef: Any = field(convert=as_column)
    weights: Any = field(convert=as_column)
    slot: Any = field(default=None, convert=as_column)
    noise_std: Any = field(default=None, convert=as_column)
    churn_std: Any = field(default=None, convert=as_column)
    take: Any = field(default=None, convert=as_column)
    ends_step: Any = field(default=None, convert=as_column)
    corrector_newest: Any = field(default=None, convert=as_column)
    corrector_state: Any = field(default=None, convert=as_column)
    corrector_weights: Any = field(default=None, convert=as_column)
    prediction_rate: Any = field(default=None, convert=as_column)
    gain: Any = field(default=None, convert=as_column)
    increment_rate: Any = field(default=None, convert=as_column)
    increment_blend: Any = field(default=None, convert=as_column)
    relative: Any = field(default=None, convert=as_column)
    mix: Any = field(default=None, convert=as_column)
    number: Any = field(default=None, convert=as_column)
    visit: Any = field(default=None, convert=as_column)
    kind: str = static(default="x0")

    def __post_init__(self):
        check_columns(self)

    @property
    def nfe(self) -> int:
        """Network evaluations: the number of rows."""
        return self.state_coef.shape[-1]

    @property
    def slots(self) -> int:
        """Predictions held in memory, the newest included; 0 where no row combines several."""
        return self.weights.shape[-1] - 1

    @property
    def stochastic(self) -> bool:
        """Whether the plan draws noise and needs a key."""
        return self.noise_std is not None or self.churn_std is not None

    def having(self, *names: str) -> tuple[str, ...]:
        """Say in words which of the named columns the plan has; who cannot follow such rows refuses it with them."""
        return tuple(WORDS[name] for name in names if getattr(self, name) is not None)

    def astype(self, dtype: Any) -> Plan:
        """Convert the floating columns to `dtype`, a floating one."""
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"Plan.astype: dtype must be floating point, got {dtype!r}. Integers would empty the table."
            )

        def cast(a):
            a = a if isinstance(a, (jax.Array, np.ndarray)) else np.asarray(a)
            return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

        return jax.tree.map(cast, self)

    def __len__(self) -> int:
        return self.nfe

    def __getitem__(self, rows: slice) -> Plan:
        """Rows i:j as a plan that starts without history: missing predictions are extrapolated from those it has.

        It draws the noise of those rows of the whole run, so that a plan without history, run in parts with one key,
        draws what it draws in one piece.
        """
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"a plan is cut by a slice of step 1, plan[i:j]; got {rows!r}.")
        if np.ndim(self.state_coef) != 1:
            raise TypeError("a stack of plans cannot be cut; cut the plans and stack again.")
        first, last, _ = rows.indices(self.nfe)
        if first >= last:
            raise ValueError(f"plan[{first}:{last}] is empty; the plan has {self.nfe} rows.")
        return cut(self, first, last)


def check_plan(who: str, plan: Any, *, concrete: bool = False, stacked: bool = False) -> None:
    """Refuse what is not a plan, a stack of plans unless `stacked`, and a traced plan where it must be `concrete`."""
    if not isinstance(plan, Plan):
        raise TypeError(f"{who}: plan must be a Plan, got {type(plan).__name__}. Build one, e.g. js.solve.dpmpp(...).")
    if concrete and is_traced(plan):
        raise TypeError(f"{who}: the plan must be concrete, not traced: its rows are looked at on the host.")
    if not stacked and np.ndim(plan.state_coef) != 1:
        raise ValueError(
            f"{who}: this is a stack of plans. Use jax.vmap(lambda p: js.sample(key, denoiser, x, p))(plan)."
        )


def check_row(who: str, row: Any) -> None:
    """Refuse what is no row of a plan: another object, or a whole plan."""
    if not isinstance(row, Plan):
        raise TypeError(f"{who}: row must be a row of a Plan, got {type(row).__name__}. Scan over a plan.")
    if np.ndim(row.state_coef) != 0:
        raise ValueError(f"{who}: row is a whole plan. Take one row: jax.tree.map(lambda a: a[i], plan).")


def check_columns(plan: Plan) -> None:
    """Refuse a table that the runner would misread; a traced one is checked by its shapes alone."""
    check_choice("Plan: kind", plan.kind, KINDS)
    shape = np.shape(plan.state_coef)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"Plan: state_coef must be a vector [R] with R >= 1, got shape {shape}.")
    width = np.shape(plan.weights)[-1:]
    for name, column in columns(plan).items():
        wanted = (*shape, *width) if name in VECTORS else (*shape, 2) if name == "mix" else shape
        if np.shape(column) != wanted or (name in VECTORS and not width):
            raise ValueError(
                f"Plan: {name} must have shape {wanted} beside state_coef {shape}, got {np.shape(column)}."
            )
        dtype = column.dtype if hasattr(column, "dtype") else np.asarray(column).dtype
        if not jnp.issubdtype(dtype, DTYPES.get(name, np.floating)) and not jnp.issubdtype(dtype, np.integer):
            raise TypeError(f"Plan: {name} must hold numbers, got {dtype}.")
    if (plan.mix is None) == (plan.kind == "mixed"):
        raise ValueError('Plan: kind="mixed" needs the column mix, and other kinds have none.')
    if plan.slots and plan.slot is None:
        raise ValueError(f"Plan: weights have {plan.slots} history slots, so slot [R] must say where each row writes.")
    if not plan.slots and plan.slot is not None:
        raise ValueError(
            f"Plan: slot must be None where weights [R, 1] have no history slots, got weights of shape "
            f"{np.shape(plan.weights)}. Weights of K slots are [R, K + 1]."
        )
    if not is_traced(plan):
        _check_values(plan)


def _check_values(plan: Plan) -> None:
    for name, column in columns(plan).items():
        known = np.asarray(column, np.float64)
        if np.any(np.isnan(known)) or (name != "node" and not np.all(np.isfinite(known))):
            raise ValueError(f"Plan: {name} must be finite, got {known[~np.isfinite(known)][0]}.")
    if plan.take is not None and not np.all(np.isin(plan.take, (0, 1, 2))):
        raise ValueError(f"Plan: take must hold 0 (keep), 1 (accept) or 2 (correct), got {np.asarray(plan.take)}.")
    if not plan.slots:
        return
    slot = np.asarray(plan.slot)
    if np.any((slot < 0) | (slot >= plan.slots)):
        raise ValueError(f"Plan: slot must lie in 0..{plan.slots - 1} (weights have {plan.slots} slots), got {slot}.")
    written = np.zeros(plan.slots, bool)
    for name in VECTORS:
        written[:] = False
        for r, weights in enumerate(np.asarray(getattr(plan, name) if getattr(plan, name) is not None else [])):
            # The slot of the row itself holds m by now, whose coefficient stands in column 0.
            readable = written & (np.arange(plan.slots) != slot[r])
            if np.any(weights[1:][~readable] != 0):
                k = int(np.argmax((weights[1:] != 0) & ~readable))
                raise ValueError(
                    f"Plan: {name}[{r}, {k + 1}] reads slot {k}, which holds no earlier prediction at row {r}. A row "
                    f"overwrites its slot before it reads. Write rows with js.solve.Row and js.solve.assemble."
                )
            written[slot[r]] = True
