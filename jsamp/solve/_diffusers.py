"""Published checkpoints: a `scheduler_config.json` of diffusers read as schedule, grid and plan."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core._callable import as_tree
from jsamp._core._checks import check_count, check_rows, shown
from jsamp._core._pytree import field, pytree, static
from jsamp.denoise import EDM, Denoiser, Threshold
from jsamp.noise import VE, Cosine, Discrete, Flow
from jsamp.solve import _diffusers_levels as levels
from jsamp.solve._diffusers_options import ELSEWHERE, PREDICTS, SCHEDULERS, options_of
from jsamp.solve._diffusers_plans import PLANS, Read
from jsamp.solve._plan import Plan


class Pretrained(NamedTuple):
    """Hold what a published checkpoint's configuration says about sampling from it.

    Args:
        schedule: the noise schedule of its network.
        predicts: what the network predicts, as `js.Denoiser` takes it.
        time_map: maps the schedule's time to what the network is given; None: the time itself.
        grid: [n + 1] the times of the scheduler; take it to another solver as it is.
        plan: the scheduler's own solver on that grid.
        timesteps: [n] what the network is given at each step, float64.
        sigmas: [n + 1] noise over signal of each step's start and of the last one's end (of a flow: its time).
        scale: standard deviation of the first state x, where the pipeline starts from.
        clip: None, or the options of `js.denoise.Threshold` that the scheduler applies to x0. Here eps moves with x0,
            as in diffusers with `use_clipped_model_output=True`.
        precondition: None, or how the network is wrapped in `js.denoise.EDM`: its sigma_data, whether it takes
            2 arctan(sigma) / pi in place of log(sigma) / 4, and the sign of its output.
        unused: fields of the configuration that say nothing about sampling.

    Example:
        >>> import jsamp as js
        >>> config = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "clip_sample": False}
        >>> js.solve.from_diffusers(config, 5).timesteps.tolist()
        [800.0, 600.0, 400.0, 200.0, 0.0]
    """

    schedule: Any
    predicts: str
    time_map: Any
    grid: np.ndarray
    plan: Plan
    timesteps: np.ndarray
    sigmas: np.ndarray
    scale: float
    clip: dict[str, Any] | None
    precondition: dict[str, Any] | None
    unused: tuple[str, ...]

    def denoiser(self, model: Any) -> Any:
        """Make the checkpoint's network a denoiser: its prediction, its time steps, its clipping of x0."""
        if self.precondition is not None:
            model = _preconditioned(model, **self.precondition)
        made = Denoiser(model, self.schedule, predicts=self.predicts, time_map=self.time_map)  # pyright: ignore
        return made if self.clip is None else Threshold(made, **self.clip)


@pytree
class _Adapted:
    """A network that is called by EDM, with its own coding of the noise level and the sign of its output."""

    model: Any = field(convert=lambda name, value: as_tree("denoiser: model", value, "model(x, t)"))
    sign: float = static()
    cosine: bool = static()

    def __call__(self, x: Any, level: Any) -> Any:
        coded = jnp.arctan(jnp.exp(4 * level)) * (2 / np.pi) if self.cosine else level
        return jax.tree.map(lambda out: self.sign * out, self.model(x, coded))


def _preconditioned(model: Any, *, sigma_data: float, cosine: bool, sign: float) -> EDM:
    return EDM(_Adapted(model, sign, cosine), sigma_data)


@pytree
class TimeMap:
    """Map times to a network's time steps, linearly between known pairs."""

    times: Any
    steps: Any

    def __call__(self, t: Any) -> Any:
        return jnp.interp(t, jnp.asarray(self.times, t.dtype), jnp.asarray(self.steps, t.dtype))


@pytree
class LogSigma:
    """Map times to a quarter of log(noise / signal)."""

    schedule: Any

    def __call__(self, t: Any) -> Any:
        return -0.25 * self.schedule.lam(t)


def from_diffusers(
    config: Mapping[str, Any] | str | os.PathLike,
    num: int,
    *,
    tokens: int | None = None,
    sigmas: Any = None,
) -> Pretrained:
    """Read a checkpoint's `scheduler_config.json` as schedule, prediction, grid and plan, in `num` steps.

    Every field that acts on sampling is honoured; a class or a field that no class knows is refused, and fields of
    other classes, which pipelines carry along, are listed in `unused`. Options that diffusers takes at run time have
    its defaults (eta 0 for DDIM, eta 0.3 for TCD, order 4 for LMS). Steps of no length, with which some schedulers end,
    are left out. A learned variance is taken at its lower end (`fixed_small`): split its channels off in the model, and
    scale `plan.noise_std` where the upper end is wanted. States are alpha x0 + sigma eps: those of Euler, LMS, Heun and
    DPM2 are divided by their first alpha.

    Args:
        config: the contents of the file, or its path.
        num: number of steps n (static).
        tokens: number of image tokens, for configurations with `use_dynamic_shifting` (Flux: height width / 256).
        sigmas: [n] times of a flow that the pipeline passes to its scheduler, before shifting (Flux passes
            linspace(1, 1 / n, n)); None: the scheduler's own.

    Returns:
        A `Pretrained`.

    Raises:
        ValueError: for an unknown class, field or choice, a missing number of tokens, or sigmas of another length.
        TypeError: for a configuration that is neither a mapping nor a path.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> config = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
        >>> read = js.solve.from_diffusers(config, 10)
        >>> denoiser = read.denoiser(lambda x, t: jnp.zeros_like(x))
        >>> js.sample(None, denoiser, read.scale * jnp.ones(2), read.plan).x.shape
        (2,)

    Cost:
        Host arithmetic; the plan's evaluations are those of the scheduler.
    """
    config = _contents(config)
    num = check_count("from_diffusers: num", num)
    name = config.get("_class_name", "")
    if not isinstance(name, str) or name not in SCHEDULERS:
        hint = f"here it is {ELSEWHERE[name]}; " if isinstance(name, str) and name in ELSEWHERE else ""
        raise ValueError(
            f"from_diffusers: unknown _class_name {name!r}; {hint}known are {', '.join(sorted(SCHEDULERS))}."
        )
    family, defaults = SCHEDULERS[name]
    options, unused = options_of(name, config, defaults)
    return FAMILIES[family](name, options, num, tokens, sigmas)._replace(unused=unused)


def _contents(config: Any) -> Mapping[str, Any]:
    if isinstance(config, (str, os.PathLike)):
        path = pathlib.Path(config)
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"from_diffusers: {path} is not a readable JSON file: {error}.") from error
    if not isinstance(config, Mapping):
        raise TypeError(f"from_diffusers: config must be a mapping or the path of a JSON file, got {shown(config)}.")
    return config


def _clip(options: Mapping[str, Any]) -> dict[str, Any] | None:
    if options.get("thresholding"):
        top, ratio = options["sample_max_value"], options["dynamic_thresholding_ratio"]
        return {"quantile": ratio, "limit": 1.0, "largest": top}
    return {"limit": options["clip_sample_range"]} if options.get("clip_sample") else None


def _pretrained(name, options, timesteps, sigmas, read, scale=1.0):
    grid, schedule = read.grid, read.schedule
    regular = len(grid) == len(timesteps) + 1
    times = grid[: len(timesteps)] if regular else np.append(grid, grid[-1])[: len(timesteps)]
    same = np.allclose(times, timesteps, rtol=0, atol=1e-9)
    rising = np.argsort(times, kind="stable")
    time_map = None if same else TimeMap(times[rising], timesteps[rising])
    predicts = PREDICTS[options.get("prediction_type", "epsilon")]
    plan = PLANS[name](read)
    return Pretrained(
        schedule, predicts, time_map, grid, plan, timesteps, sigmas, float(scale), _clip(options), None, ()
    )


def _indexed(name, options, n, tokens, sigmas):
    """Schedulers that step between integer indices of their table: DDIM, PNDM, DDPM, LCM, TCD."""
    _none(name, tokens=tokens, sigmas=sigmas)
    product = levels.table(options, finite=False)
    num = options["num_train_timesteps"]
    if n > num:
        raise ValueError(f"from_diffusers: num must be at most the table's {num} steps, got {n}.")
    if "original_inference_steps" in options:
        steps = _distilled(options, n)
    else:
        steps = levels.spaced(options, n, last=num, points=n, rounded=True)
    if steps[0] > num - 1 or steps[-1] < 0:
        offset = options["steps_offset"]
        raise ValueError(f"from_diffusers: steps_offset={offset} leads out of the table's {num} steps at num={n}.")
    first = np.sqrt(1 / product[0] - 1)
    last = 0.0 if options.get("set_alpha_to_one", True) else first
    with np.errstate(divide="ignore"):
        sigmas = np.append(levels.ratio(product)[steps.astype(int)], last)
    schedule = Discrete(product)
    grid = np.append(steps, -1.0 if last == 0 else 0.0)
    return _pretrained(name, options, steps, sigmas, Read(options, schedule, grid, n, steps))


def _distilled(options, n):
    """Steps of a distilled model: some of those that its teacher took."""
    num, teacher = options["num_train_timesteps"], options["original_inference_steps"]
    if n > teacher:
        raise ValueError(f"from_diffusers: num must be at most original_inference_steps = {teacher}, got {n}.")
    steps = (np.arange(1, teacher + 1) * (num // teacher) - 1.0)[::-1]
    return steps[np.floor(np.linspace(0, teacher, n, endpoint=False)).astype(int)]


def _karras_style(name, options, n, tokens, sigmas):
    """Schedulers whose state is x / alpha: Euler, Heun, LMS, DPM2 and their ancestral forms."""
    _none(name, tokens=tokens, sigmas=sigmas)
    product = levels.table(options, finite=True)
    num, table = options["num_train_timesteps"], levels.ratio(product)
    steps = levels.spaced(options, n, last=num, points=n, rounded=False)
    inner = np.interp(steps, np.arange(num), table)
    last = table[0] if options.get("final_sigmas_type") == "sigma_min" else 0.0
    if options.get("interpolation_type") == "log_linear":
        *inner, last = np.geomspace(table[-1], table[0], n + 1)
        inner = np.array(inner)
    if chosen := levels.rule(options):
        low, high = options.get("sigma_min") or inner[-1], options.get("sigma_max") or inner[0]
        inner = levels.respaced(chosen, low, high, n)
        steps = levels.time_of(inner, product)
        steps = steps.round() if chosen == "karras_sigmas" and name.startswith("KDPM2") else steps
    sigmas = np.append(inner, last)
    continuous = options.get("timestep_type") == "continuous" and options["prediction_type"] == "v_prediction"
    if continuous:
        steps = 0.25 * np.log(inner)
    inside = table[0] * (1 - 1e-6) <= inner.min() and inner.max() <= table[-1] * (1 + 1e-6)
    schedule = Discrete(product) if inside else Cosine()
    grid = _times(schedule, sigmas)
    alpha = 1 / np.sqrt(1 + inner.max() ** 2)
    exact = options["timestep_spacing"] == "leading"
    scale = 1.0 if exact else inner.max() * alpha
    made = _pretrained(name, options, steps, sigmas, Read(options, schedule, grid, n, steps), scale)
    return made._replace(time_map=LogSigma(schedule)) if continuous else made


def _solver_style(name, options, n, tokens, sigmas):
    """Schedulers of exponential integrators: DPM-Solver, UniPC, DEIS; on a table or on a flow."""
    product = levels.table(options, finite=True)
    num, table = options["num_train_timesteps"], levels.ratio(product)
    if options["use_flow_sigmas"]:
        return _flow_solver(name, options, n, tokens, sigmas)
    _none(name, tokens=tokens, sigmas=sigmas)
    clipped = np.searchsorted(-np.log(table)[::-1], options.get("lambda_min_clipped", -np.inf))
    steps = levels.spaced(options, n, last=num - int(clipped), points=n + 1, rounded=True)
    inner = np.interp(steps, np.arange(num), table)
    if chosen := levels.rule(options):
        low, high = options.get("sigma_min") or table[0], options.get("sigma_max") or table[-1]
        inner = levels.respaced(chosen, low, high, n)
        steps = levels.time_of(inner, product)
        whole = chosen in ("karras_sigmas", "lu_lambdas")
        whole &= options["beta_schedule"] != "squaredcos_cap_v2" or name.startswith("SA")
        steps = np.floor(steps.round() if whole else steps)
    end = options.get("final_sigmas_type", "sigma_min")
    repeats = chosen and (name.startswith(("DEIS", "SA")) or (end == "sigma_min" and name.startswith("UniPC")))
    last = 0.0 if end == "zero" else inner[-1] if repeats else table[0]
    sigmas = np.append(inner, last)
    schedule = Discrete(product)
    grid = _times(schedule, sigmas)
    return _pretrained(name, options, steps, sigmas, Read(options, schedule, grid, n, steps))


def _flow_solver(name, options, n, tokens, sigmas):
    if chosen := levels.rule(options):
        raise ValueError(f"from_diffusers: use_flow_sigmas and use_{chosen} are two rules for sigmas; drop one.")
    num, mu = options["num_train_timesteps"], _mu(name, options, tokens)
    if name.startswith("UniPC"):
        inner = np.linspace(1, 1 / num, n + 1)[:-1] if sigmas is None else _sigmas(sigmas, n)
        inner = levels.stretched(levels.shifted(inner, mu, options["flow_shift"]), options.get("shift_terminal"))
        inner[0] -= 1e-6 if abs(inner[0] - 1) < 1e-6 else 0.0
    else:
        _none(name, sigmas=sigmas)
        inner = levels.shifted(1 - np.linspace(1, 1 / num, n + 1), mu, options["flow_shift"])[::-1][:-1]
    last = 0.0 if options.get("final_sigmas_type", "sigma_min") == "zero" else inner[-1]
    return _on_flow(name, options, np.floor(inner * num + 1e-4), np.append(inner, last), n)


def _flow(name, options, n, tokens, sigmas):
    """Schedulers of flow matching: Euler and Heun in time."""
    if options.get("invert_sigmas"):
        raise ValueError(
            "from_diffusers: under invert_sigmas time runs from 0 at noise to 1 at data, the velocity backwards. "
            "Drop the field, and give the model as lambda x, t: -model(x, 1000 - t)."
        )
    num, mu = options["num_train_timesteps"], _mu(name, options, tokens)
    factor = 1.0 if mu is not None else options["shift"]
    ends = levels.shifted(np.array([1.0, 1 / num]), None, factor)
    inner = np.linspace(ends[0], ends[1], n) if sigmas is None else _sigmas(sigmas, n)
    inner = levels.shifted(inner, mu, factor, options.get("time_shift_type", "exponential"))
    inner = levels.stretched(inner, options.get("shift_terminal"))
    if chosen := levels.rule(options):
        inner = levels.respaced(chosen, inner[-1], inner[0], n)
    return _on_flow(name, options, inner * num, np.append(inner, 0.0), n)


def _on_flow(name, options, steps, sigmas, n):
    schedule, grid = Flow(), _distinct(sigmas)
    options = {"prediction_type": "flow_prediction", **options}
    return _pretrained(name, options, steps, sigmas, Read(options, schedule, grid, n, steps))


def _edm(name, options, n, tokens, sigmas):
    """Schedulers of EDM: noise levels without a table, a preconditioned network."""
    _none(name, tokens=tokens, sigmas=sigmas)
    low, high = options["sigma_min"], options["sigma_max"]
    inner = levels.respaced(f"{options['sigma_schedule']}_sigmas", low, high, n, options["rho"])
    if n == 1 and options["sigma_schedule"] == "exponential":
        inner = np.array([low])
    last = low if options["final_sigmas_type"] == "sigma_min" else 0.0
    sigmas = np.append(inner, last)
    cosine = name.startswith("Cosine")
    steps = np.arctan(inner) / np.pi * 2 if cosine else 0.25 * np.log(inner)
    schedule, grid = VE(sigma_min=low, sigma_max=high), _distinct(sigmas)
    sign = -1.0 if options["prediction_type"] == "v_prediction" else 1.0
    inside = {"sigma_data": options["sigma_data"], "cosine": cosine, "sign": sign}
    read = Read(options, schedule, grid, n, steps)
    made = _pretrained(name, {**options, "prediction_type": "sample"}, steps, sigmas, read)
    return made._replace(scale=float(np.sqrt(high**2 + 1)), time_map=None, precondition=inside)


def _times(schedule: Any, sigmas: np.ndarray) -> np.ndarray:
    """Times of noise levels in a table; equal levels at the end are one time."""
    sigmas = _distinct(sigmas)
    with np.errstate(divide="ignore"):
        return schedule.time(-np.log(sigmas))


def _distinct(sigmas: np.ndarray) -> np.ndarray:
    """Noise levels without repeats: some schedulers end with a step of no length, which needs no evaluation."""
    distinct = sigmas[np.append(True, np.diff(sigmas) < -1e-7 * sigmas[:-1])]
    if len(distinct) < 2:
        raise ValueError("from_diffusers: this configuration takes no step with num=1, it starts where it ends.")
    return distinct


def _mu(name, options, tokens):
    if not options.get("use_dynamic_shifting"):
        _none(name, tokens=tokens)
        return None
    if tokens is None:
        raise ValueError(f"from_diffusers: this {name} shifts by the image's size; pass tokens= (height width / 256).")
    return levels.dynamic_shift(options, check_count("from_diffusers: tokens", tokens))


def _sigmas(sigmas, n):
    check_rows("from_diffusers: sigmas", sigmas, num=n, ndim=1)
    return np.array(sigmas, np.float64)


def _none(name, **given):
    for key, value in given.items():
        if value is not None:
            raise ValueError(f"from_diffusers: {name} takes no {key} under this configuration; leave it out.")


FAMILIES: dict[str, Callable[..., Pretrained]] = {
    "indexed": _indexed,
    "karras_style": _karras_style,
    "solver_style": _solver_style,
    "flow": _flow,
    "edm": _edm,
}
