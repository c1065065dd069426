"""Plans that go back up in noise, and runs that start part of the way down from a given signal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._checks import check_count, check_key, check_scalar, is_traced
from jsamp._core._like import as_arrays
from jsamp._core._pytree import replace
from jsamp._core._types import Key, Model, Result, Tree
from jsamp.solve._algebra import check_plain, join, lifted
from jsamp.solve._columns import KEEP
from jsamp.solve._plan import Plan, check_plan
from jsamp.solve._run import sample
from jsamp.solve._state import SampleInfo, check_signal


def jumps(plan: Plan, *, length: int = 10, repeats: int = 10) -> Plan:
    """Resample by jumps: every `length` rows go back up in noise by as many rows, and run them again, `repeats` times.

    Where the plan lands after 1 + k length rows before its end (k = 0, 1, ..., with `length` rows above), x <- (a_up /
    a) x + sqrt(s_up^2 - (a_up / a)^2 s^2) z, and the `length` rows above run again, until they have run so often.
    Going up is merged into the row that landed, so each row is still one evaluation. With `js.steer.Repaint` this is
    RePaint; 250 rows, length 10, repeats 10 make its 2410.

    Args:
        plan: a plan with one row per step, concrete.
        length: rows of a jump (static, >= 1).
        repeats: how often each group of rows runs (static, >= 1); 1 is the plan itself.

    Returns:
        A stochastic plan. Plans with history start anew after each jump.

    Raises:
        TypeError: for something that is not a plan, or is traced.
        ValueError: for length >= the number of rows, or a plan with stages, a corrector or momentum.

    Example:
        >>> import jsamp as js
        >>> schedule = js.noise.VP()
        >>> plan = js.solve.ddpm(schedule, js.noise.time_grid(schedule, 250, final="zero"))
        >>> js.solve.jumps(plan, length=10, repeats=10).nfe
        2410

    Cost:
        One network evaluation for each row: about `repeats` times those of the plan.

    References:
        Lugmayr et al., "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", 2022, arXiv:2201.09865.
    """
    check_plan("jumps", plan, concrete=True)
    check_count("jumps: length", length)
    check_count("jumps: repeats", repeats)
    n = plan.nfe
    if length >= n:
        raise ValueError(f"jumps: length={length} must be below the number of rows, {n}.")
    check_plain("jumps", plan)
    if repeats == 1:
        return plan
    if plan.noise_std is None:
        plan = replace(plan, noise_std=np.zeros(n))
    parts, row = [], 0
    for end in range(1 + (n - 2) % length, n, length):
        # Rows end - length .. end - 1 have just run; the last of them lands where a jump begins.
        if end < length:
            continue
        first = end - length
        if row < end:
            parts.append(_up(plan[row:end], plan, first))
        parts += [_up(plan[first:end], plan, first)] * (repeats - 2)
        parts.append(plan[first:end])
        row = end
    return join("concatenate", [*parts, plan[row:]])


def _up(part: Plan, plan: Plan, first: int) -> Plan:
    """The part with its last row landing at the noise where row `first` of the plan starts."""
    alpha, sigma = plan.alpha[first], plan.sigma[first]
    lift = alpha / part.alpha_next[-1]
    variance = sigma**2 - (lift * part.sigma_next[-1]) ** 2
    part = lifted(part, lift)
    changes = {"noise_std": np.hypot(part.noise_std[-1], np.sqrt(variance))}
    changes |= {"t_next": plan.t[first], "alpha_next": alpha, "sigma_next": sigma}

    def last(column, value):
        column = np.array(column)
        column[-1] = value
        return column

    return replace(part, **{name: last(getattr(part, name), value) for name, value in changes.items()})


def sdedit(
    key: Key, denoiser: Model, x: Tree, plan: Plan, *, strength: float, steer: Any = None, keep: Any = None
) -> Result:
    """Edit a signal: noise it part of the way up, and run the plan down from there.

    The last round(strength n) of the plan's n rows run, from alpha x + sigma z at the first of them. strength = 1 keeps
    of x what the schedule leaves at its start; 0 returns x.

    Args:
        key: one key.
        denoiser: callable tree (x, t, *, key) -> Prediction.
        x: the signal, noiseless, any shape or tree.
        plan: the solver, concrete where it is cut. In a plan with stages the nearest whole step is taken.
        strength: in [0, 1], a Python number: it fixes how many rows run.
        steer: as in `js.sample`.
        keep: as in `js.sample`.

    Returns:
        `Result(x, info)` as `js.sample`; `info.nfe` counts the rows that ran.

    Raises:
        ValueError: for strength outside [0, 1].
        TypeError: for a traced strength, or a key, plan or x of the wrong type.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[0.5, 0.5], means=[[-1.0], [1.0]], stds=[0.1, 0.1])
        >>> plan = js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, 20))
        >>> result = js.solve.sdedit(jax.random.key(0), law, jnp.full(1, 0.7), plan, strength=0.5)
        >>> result.info.nfe, bool(abs(result.x[0] - 1) < 0.4)
        (10, True)

    Cost:
        One network evaluation for each row that is left, strength times those of the plan.

    References:
        Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", 2022,
        arXiv:2108.01073.
    """
    check_key(key, "sdedit")
    check_signal("sdedit: x", x)
    x = as_arrays(x)
    check_plan("sdedit", plan)
    if is_traced(strength):
        raise TypeError("sdedit: strength fixes how many rows run, so it cannot be traced. Pass a Python number.")
    check_scalar("sdedit: strength", strength, low=0, high=1)
    first = plan.nfe - int(np.floor(float(strength) * plan.nfe + 0.5))
    while plan.take is not None and first < plan.nfe and np.asarray(plan.take)[first] == KEEP:
        first += 1
    if first == plan.nfe:
        return Result(x, SampleInfo(_tree.all_finite(x), 0, None, None))
    plan = plan[first:]
    own, rest = jax.random.split(key)
    noise = _tree.normal_like(own, x)
    dtype = jnp.result_type(*jax.tree.leaves(x))
    alpha, sigma = jnp.asarray(plan.alpha[0], dtype), jnp.asarray(plan.sigma[0], dtype)
    start = jax.tree.map(lambda v, z: (alpha * v + sigma * z).astype(v.dtype), x, noise)
    return sample(rest, denoiser, start, plan, steer=steer, keep=keep)
