"""The solvers of diffusers' schedulers as plans: named builders, and rows where a scheduler lands off its own grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jsamp._core._checks import check_choice
from jsamp._core._pytree import replace
from jsamp.noise import Discrete
from jsamp.solve._ancestral import ddim, ddpm
from jsamp.solve._ancestral_stages import dpm2_ancestral
from jsamp.solve._columns import KEEP
from jsamp.solve._corrected import sa_solver, unipc
from jsamp.solve._fewstep import consistency
from jsamp.solve._index import adams
from jsamp.solve._multistep import deis, dpm_solver, dpmpp, lms
from jsamp.solve._plan import Plan
from jsamp.solve._rows import Row, assemble
from jsamp.solve._single import dpm_single, dpmpp_single
from jsamp.solve._stages import dpm2, heun

FEW = 15
"""Fewer steps than this lower the order of the last ones, where `lower_order_final` is on."""


class Read(NamedTuple):
    """Hold what a plan is built from: configuration, schedule, grid, number of steps, and the network's time steps."""

    options: Mapping[str, Any]
    schedule: Any
    grid: np.ndarray
    n: int
    timesteps: np.ndarray

    @property
    def clean(self) -> float:
        """The time without noise, beyond the grid."""
        return -1.0 if isinstance(self.schedule, Discrete) else 0.0

    def level(self, t: Any) -> tuple[Any, Any, Any]:
        """(t, alpha, sigma) at a time."""
        return float(t), float(self.schedule.alpha(t)), float(self.schedule.sigma(t))

    def landing(self, i: int) -> tuple[Any, Any, Any]:
        """Find where step i of an index scheduler lands: a set number of indices further, or at the end of its grid."""
        target = self.grid[i] - self.options["num_train_timesteps"] // self.n
        return self.level(target if target >= 0 else self.grid[-1])


def _ddim(read: Read) -> Plan:
    rows = [_transfer(read.level(t), read.landing(i), {i: 1.0}, "x0") for i, t in enumerate(read.grid[:-1])]
    return assemble(rows, kind="x0")


def _transfer(at: Any, to: Any, shares: Mapping[int, float], kind: str, **others: Any) -> Row:
    """A noiseless step from level to level with a mixture of predictions."""
    (_, alpha, sigma), (_, alpha_to, sigma_to) = others.pop("levels", (at, to))
    if kind == "x0":
        base = sigma_to / sigma
        weight = alpha_to - base * alpha
    else:
        base = alpha_to / alpha
        weight = sigma_to - base * sigma
    weights = {k: share * weight for k, share in shares.items()}
    return Row(at=at, to=to, state_coef=base, weights=weights, **others)


def _dpm_indexed(read: Read) -> Plan:
    """Stochastic steps of DPM-Solver++(2M) between indices; the first one, and one to the end, are of first order."""
    lam = lambda level: -np.inf if level[1] == 0 else np.inf if level[2] == 0 else np.log(level[1] / level[2])
    rows = []
    for i, t in enumerate(read.grid[:-1]):
        at, to = read.level(t), read.landing(i)
        h, after = lam(to) - lam(at), t - read.options["num_train_timesteps"] // read.n
        slope = 0.0
        if i and after >= 0:
            slope = h / (lam(at) - lam(read.level(read.grid[i - 1]))) / 2
        weight = -to[1] * np.expm1(-2 * h)
        weights = {i: weight * (1 + slope), **({i - 1: -weight * slope} if slope else {})}
        noise = to[2] * np.sqrt(-np.expm1(-2 * h))
        rows.append(Row(at, to, to[2] / at[2] * np.exp(-h), weights, noise_std=noise))
    return assemble(rows, kind="x0")


def _pndm(read: Read) -> Plan:
    """Pseudo linear multistep steps; `skip_prk_steps` starts with a step of Heun's in place of Runge-Kutta."""
    raw = read.options["prediction_type"] != "epsilon"
    if not read.options["skip_prk_steps"]:
        if raw:
            raise ValueError("from_diffusers: PNDMScheduler with Runge-Kutta steps takes an epsilon network.")
        return _runge_kutta_start(read)
    starts = [read.level(t) for t in read.grid[:-1]]
    rows = [_transfer(starts[0], read.landing(0), {0: 1.0}, "eps")]
    if read.n > 1:
        # The second evaluation repeats the first step with the mean of both; it is not remembered.
        again, levels = starts[1], (starts[0], starts[1])
        rows.append(_transfer(again, again, {0: 0.5, 1: 0.5}, "eps", take=KEEP, levels=levels))
        starts.insert(1, starts[0])
    for i in range(2, read.n + 1):
        held = [i, *range(i - 1, 1, -1), 0][: min(i, 4)]
        shares = dict(zip(held, adams(len(held)), strict=True))
        rows.append(_transfer(starts[i], read.landing(i - 1), shares, "eps"))
    plan = assemble(rows, kind="eps")
    return _on_raw_outputs(plan, np.array(starts)) if raw else plan


def _runge_kutta_start(read: Read) -> Plan:
    """Three classical Runge-Kutta steps, then four-point multistep ones; halves of an odd stride are rounded apart."""
    if read.n < 4:
        raise ValueError(f"from_diffusers: PNDMScheduler with Runge-Kutta steps takes num >= 4, got {read.n}.")
    half = read.options["num_train_timesteps"] // read.n // 2
    rows: list[Row] = []
    for i in range(3):
        start, end, r = read.level(read.grid[i]), read.level(read.grid[i + 1]), len(rows)
        middle = read.level(read.grid[i + 1] + half)
        stages = (
            (start, read.level(read.grid[i] - half), {r: 1.0}), (middle, middle, {r + 1: 1.0}),
            (middle, read.level(read.grid[i + 1]), {r + 2: 1.0}),
            (end, end, {r: 1 / 6, r + 1: 1 / 3, r + 2: 1 / 3, r + 3: 1 / 6}),
        )  # fmt: skip
        for at, to, shares in stages:
            take = {} if at is start else {"take": KEEP}
            rows.append(_transfer(at, to, shares, "eps", levels=(start, to), **take))
    for i in range(3, read.n):
        made = [4 * k if k < 3 else 9 + k for k in range(i, i - 4, -1)]
        shares = dict(zip(made, adams(4), strict=True))
        rows.append(_transfer(read.level(read.grid[i]), read.landing(i), shares, "eps"))
    return assemble(rows, kind="eps")


def _on_raw_outputs(plan: Plan, starts: np.ndarray) -> Plan:
    """A plan in eps that combines a v network's raw outputs, and takes eps = alpha v + sigma x where a step starts."""
    _, alpha, sigma = starts.T
    coef = plan.state_coef + plan.weights.sum(1) * sigma
    mix = np.stack([-plan.sigma, plan.alpha], axis=1)
    return replace(plan, state_coef=coef, weights=plan.weights * alpha[:, None], mix=mix, kind="mixed")


def _ddpm(read: Read) -> Plan:
    """Ancestral steps. A learned variance starts from its lower end, the small one: its share is the network's."""
    kind = read.options["variance_type"]
    known = ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")
    check_choice("from_diffusers: variance_type", kind, known)
    plan = ddpm(read.schedule, read.grid)
    if kind != "fixed_large":
        return plan
    large = np.sqrt(1 - (plan.alpha / plan.alpha_next) ** 2)
    return replace(plan, noise_std=np.where(plan.sigma_next > 0, large, 0.0))


def _lcm(read: Read) -> Plan:
    """Predict x0 with the boundary scalings of the distilled model, and noise it to the next level."""
    rows = []
    for i, t in enumerate(read.grid[:-1]):
        at, last = read.level(t), i == read.n - 1
        _, alpha, sigma = to = (-1.0, 1.0, 0.0) if last else read.level(read.grid[i + 1])
        scaled = t * read.options["timestep_scaling"]
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / np.sqrt(scaled**2 + 0.25)
        rows.append(Row(at=at, to=to, state_coef=alpha * skip, weights={i: alpha * out}, noise_std=sigma))
    return assemble(rows, kind="x0")


def _tcd(read: Read, eta: float = 0.3) -> Plan:
    """Step to a share 1 - eta of the next index without noise, then noise back up to it."""
    rows = []
    for i, t in enumerate(read.grid[:-1]):
        last = i == read.n - 1
        after = 0.0 if last else read.grid[i + 1]
        low = read.level(np.floor((1 - eta) * after))
        step = _transfer(read.level(t), low, {i: 1.0}, "x0")
        if last:
            rows.append(step)
            continue
        _, alpha, _ = to = read.level(after)
        lift = alpha / low[1]
        scaled = {k: lift * w for k, w in step.weights.items()}
        noise = np.sqrt(1 - lift**2)
        rows.append(step._replace(to=to, state_coef=lift * step.state_coef, weights=scaled, noise_std=noise))
    return assemble(rows, kind="x0")


def _dpm(read: Read) -> Plan:
    o, kind = read.options, read.options["algorithm_type"]
    kind = "dpmsolver++" if kind == "deis" else kind
    known = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
    check_choice("from_diffusers: algorithm_type", kind, known)
    variant = "exact" if o["solver_type"] == "heun" else "reference"
    make = dpmpp if kind.endswith("++") else dpm_solver
    options = {"variant": variant, "tau": 1.0 if kind.startswith("sde") else 0.0}
    plan = _ended(read, lambda grid, **ends: make(read.schedule, grid, **options, **ends))
    if not o["euler_at_final"] or len(read.grid) != read.n + 1:
        return plan
    # Weights sum to that of the first-order step.
    weights = np.where(np.arange(plan.slots + 1) == 0, plan.weights[-1].sum(), 0.0)
    return replace(plan, weights=np.concatenate([plan.weights[:-1], weights[None]]))


def _ended(read: Read, make: Callable[..., Plan]) -> Plan:
    """A multistep plan with its last steps lowered; one of no length is left out after it has had its turn."""
    options = {"order": min(read.options["solver_order"], read.n)}
    options["lower_order_final"] = bool(read.options["lower_order_final"]) and read.n < FEW
    if len(read.grid) == read.n + 1:
        return make(read.grid, **options)
    return make(np.append(read.grid, read.clean), **options)[: read.n - 1]


def _dpm_single(read: Read) -> Plan:
    o = read.options
    make = {"dpmsolver++": dpmpp_single, "dpmsolver": dpm_single}
    check_choice("from_diffusers: algorithm_type", o["algorithm_type"], tuple(make))
    return make[o["algorithm_type"]](
        read.schedule, read.grid, order=o["solver_order"], packing="grid", variant="reference"
    )


def _unipc(read: Read) -> Plan:
    o = read.options
    if o["solver_p"] is not None or o["disable_corrector"]:
        raise ValueError(
            "from_diffusers: solver_p and disable_corrector have no plan; drop them or use js.solve.unipc."
        )
    whole = len(read.grid) == read.n + 1
    plan = unipc(
        read.schedule, read.grid if whole else np.append(read.grid, read.clean), order=min(o["solver_order"], read.n),
        variant=o["solver_type"] if o["solver_type"].startswith("bh") else "bh2",
        predicts="x0" if o["predict_x0"] else "eps", lower_order_final=bool(o["lower_order_final"]),
    )  # fmt: skip
    return plan if whole else _staying(plan)


def _sa(read: Read) -> Plan:
    """Stochastic Adams steps, with noise at time steps from 200 to 800."""
    o, kind = read.options, read.options["algorithm_type"]
    predictor, corrector = min(o["predictor_order"], read.n), o["corrector_order"]
    check_choice("from_diffusers: algorithm_type", kind, ("data_prediction",))
    if o["tau_func"] is not None or not 2 <= corrector <= predictor + 1:
        raise ValueError(
            "from_diffusers: tau_func, and a corrector_order outside 2..predictor_order + 1, have no plan; drop them, "
            "or use js.solve.sa_solver."
        )
    whole = len(read.grid) == read.n + 1
    plan = sa_solver(
        read.schedule, read.grid if whole else np.append(read.grid, read.clean), predictor=predictor,
        corrector=corrector, tau=1.0 * ((read.timesteps >= 200) & (read.timesteps <= 800)), variant="few_steps",
        lower_order_final=bool(o["lower_order_final"]),
    )  # fmt: skip
    return plan if whole else _staying(plan)


def _staying(plan: Plan) -> Plan:
    """The plan whose last row corrects the step before it and goes nowhere."""
    last = np.arange(plan.nfe) == plan.nfe - 1
    ends = {f"{name}_next": np.where(last, getattr(plan, name), getattr(plan, f"{name}_next"))
            for name in ("t", "alpha", "sigma")}  # fmt: skip
    coef, weights = np.where(last, 1.0, plan.state_coef), np.where(last[:, None], 0.0, plan.weights)
    noise = None if plan.noise_std is None else np.where(last, 0.0, plan.noise_std)
    return replace(plan, state_coef=coef, weights=weights, noise_std=noise, **ends)


def _deis(read: Read) -> Plan:
    return _ended(read, lambda grid, **ends: deis(read.schedule, grid, variable="lam", **ends))


def _flow_euler(read: Read) -> Plan:
    """Euler in time, or x0 noised anew to the next time."""
    make = consistency if read.options["stochastic_sampling"] else ddim
    return make(read.schedule, read.grid)


def _euler(read: Read) -> Plan:
    return _unscaled(ddim(read.schedule, read.grid))


def _unscaled(plan: Plan) -> Plan:
    """A plan whose result is x / alpha, as that of schedulers with this state: it differs where noise is left."""
    lift = np.ones(plan.nfe)
    lift[-1] = 1 / plan.alpha_next[-1]
    return replace(plan, state_coef=plan.state_coef * lift, weights=plan.weights * lift[:, None])


PLANS: dict[str, Callable[[Read], Plan]] = {
    "DDIMScheduler": _ddim,
    "DDIMParallelScheduler": _ddim,
    "DDPMParallelScheduler": _ddpm,
    "CogVideoXDDIMScheduler": _ddim,
    "CogVideoXDPMScheduler": _dpm_indexed,
    "DDPMScheduler": _ddpm,
    "PNDMScheduler": _pndm,
    "LCMScheduler": _lcm,
    "TCDScheduler": _tcd,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": lambda read: ddim(read.schedule, read.grid, eta=1.0),
    "LMSDiscreteScheduler": lambda read: lms(read.schedule, read.grid, order=4),
    "HeunDiscreteScheduler": lambda read: heun(read.schedule, read.grid),
    "KDPM2DiscreteScheduler": lambda read: dpm2(read.schedule, read.grid),
    "KDPM2AncestralDiscreteScheduler": lambda read: dpm2_ancestral(read.schedule, read.grid),
    "DPMSolverMultistepScheduler": _dpm,
    "DPMSolverSinglestepScheduler": _dpm_single,
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
    "SASolverScheduler": _sa,
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "FlowMatchHeunDiscreteScheduler": lambda read: heun(read.schedule, read.grid),
    "EDMEulerScheduler": _euler,
    "EDMDPMSolverMultistepScheduler": _dpm,
    "CosineDPMSolverMultistepScheduler": _dpm,
}
"""The builder of every class that is read."""
