"""Plans as files and as text."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from jsamp._core import _npz
from jsamp.solve._columns import columns
from jsamp.solve._plan import Plan, check_plan
from jsamp.solve._walk import amplification


def save(path: Any, plan: Plan) -> None:
    """Write a plan to one file of the `.npz` format, without loss.

    The file appears under its name when it is complete: an earlier one stays whole until then.

    Args:
        path: where to, taken as given; no suffix is added.
        plan: the plan, concrete.

    Raises:
        TypeError: for something that is not a plan, or is traced.

    Example:
        >>> import tempfile, jsamp as js
        >>> plan = js.solve.ddim(js.noise.VP(), js.noise.time_grid(js.noise.VP(), 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     js.solve.save(f"{folder}/plan.npz", plan)
        ...     js.solve.load(f"{folder}/plan.npz").nfe
        4

    Cost:
        One file of the size of the table.
    """
    check_plan("save", plan, concrete=True)
    arrays = {name: np.asarray(value) for name, value in columns(plan).items()}
    _npz.write(pathlib.Path(path), {"kind": np.array(plan.kind), **arrays})


def load(path: Any) -> Plan:
    """Read a plan written by `save`.

    Args:
        path: the file, named as it was for `save`.

    Returns:
        The plan, in the dtypes it was saved in.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged, or does not hold a plan that can run.

    Example:
        >>> import tempfile, jsamp as js
        >>> plan = js.solve.heun(js.noise.VP(), js.noise.logsnr_grid(js.noise.VP(), 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     js.solve.save(f"{folder}/plan.npz", plan)
        ...     bool((js.solve.load(f"{folder}/plan.npz").weights == plan.weights).all())
        True

    Cost:
        One pass over the file, with the checks of a plan.
    """
    try:
        with pathlib.Path(path).open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Plan(**{**arrays, "kind": str(arrays["kind"])})
    except FileNotFoundError:
        raise
    except _npz.DAMAGE as error:
        raise ValueError(
            f"load: {path} does not hold a plan; expected a file written by js.solve.save. ({error})"
        ) from error


LEGEND = {
    "state_coef": "coefficient of the state that the row starts from",
    "weights": "coefficients of the newest prediction, then of the history slots",
    "noise_std": "noise added after the row",
    "churn_std": "noise added before it evaluates",
    "relative": "whether the move and the noise are measured by the size of the prediction",
    "corrector_newest": "coefficient of the newest prediction in the row's own corrector",
    "corrector_state": "coefficient of the base in what the next row may correct",
    "prediction_rate": "rate of the moving average of predictions",
    "increment_rate": "rate of the moving average of increments",
}


def describe(plan: Plan) -> str:
    """Write a plan as a readable table: a line of facts, one line for each row, and what the columns mean.

    "amplifies" is the largest sum of |coefficients| with which the start and the predictions so far enter x: an error
    of size e in each of them moves x by at most so many e. Solvers on x0 stay near 1 on variance-preserving schedules;
    on eps it is about 1 / alpha of the start, and beyond some hundreds few-step runs lose their digits.

    Args:
        plan: a concrete plan.

    Returns:
        Text; print it.

    Raises:
        TypeError: for something that is not a plan, or is traced.
        ValueError: for a stack of plans.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.Flow()
        >>> print(js.solve.describe(js.solve.ddim(schedule, js.noise.time_grid(schedule, 2, t_min=0.0))))
        Plan: 2 rows, predicts x0, 0 history slots, deterministic, amplifies 1
        row         t    sigma  ->     t_next state_coef  weights
          0         1        1            0.5        0.5  0.5
          1       0.5      0.5              0          0  1
        state_coef: coefficient of the state that the row starts from
        weights: coefficients of the newest prediction, then of the history slots

    Cost:
        One pass over the table on the host; no network evaluation.
    """
    check_plan("describe", plan, concrete=True)
    plan = plan.astype(np.float64)
    kind = "stochastic" if plan.stochastic else "deterministic"
    extras = [name for name in LEGEND if name not in ("state_coef", "weights") and getattr(plan, name) is not None]
    facts = f"predicts {plan.kind}, {plan.slots} history slots, {kind}, amplifies {amplification(plan):.3g}"
    lines = [f"Plan: {plan.nfe} rows, {facts}"]
    header = f"row {'t':>9} {'sigma':>8}  -> {'t_next':>10} {'state_coef':>10}  weights"
    lines.append(header + "".join(f"  {name}" for name in extras))
    for r in range(plan.nfe):
        weights = " ".join(f"{w:.4g}" for w in np.asarray(plan.weights[r]))
        mark = "" if plan.take is None else {0: "  keep", 1: "", 2: "  correct"}[int(plan.take[r])]
        tail = "".join(f"  {name}={getattr(plan, name)[r]:.4g}" for name in extras)
        ends = f"{plan.t[r]:9.4g} {plan.sigma[r]:8.4g}     {plan.t_next[r]:10.4g} {plan.state_coef[r]:10.4g}"
        lines.append(f"{r:3d} {ends}  {weights}{tail}{mark}")
    return "\n".join([*lines, *(f"{name}: {LEGEND[name]}" for name in ("state_coef", "weights", *extras))])
