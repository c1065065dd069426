"""Classes of diffusers' schedulers with the fields that they read, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jsamp._core._checks import check_choice, check_number, shown

PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}


def options_of(name: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], tuple]:
    """The configuration over the class's defaults, and the names of fields that say nothing about sampling."""
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = sorted(given.keys() - IDLE)
    if unknown:
        raise ValueError(
            f"from_diffusers: {name} has no rule for {', '.join(map(repr, unknown))}. Drop what does not act on "
            f"sampling, or build the plan by hand with js.solve."
        )
    own = {key: _value(key, value, defaults[key]) for key, value in given.items() if key in defaults}
    options = {**defaults, **own}
    for key in options.keys() & CHOICES.keys():
        check_choice(f"from_diffusers: {key}", options[key], tuple(CHOICES[key]))
    for key in options.keys() & POSITIVE:
        check_number(f"from_diffusers: {key}", options[key], low=0, open_low=True)
    return options, tuple(sorted(given.keys() - defaults.keys()))


def _value(key: str, value: Any, default: Any) -> Any:
    """A field in the type of its default: JSON may hold 1000.0 for 1000, and null for false."""
    if default is None or isinstance(default, list):
        return value
    if isinstance(default, bool) and (value is None or isinstance(value, (bool, int))):
        return bool(value)
    if isinstance(default, str) and isinstance(value, str):
        return value
    if not isinstance(default, (bool, str)) and isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(default, float) or value != value or value in (np.inf, -np.inf):
            return value
        if value == int(value):
            return int(value)
    raise ValueError(
        f"from_diffusers: {key} must be like its default {default!r}, got {shown(value)}. Leave it out for the default."
    )


SOLVER_TYPES = ("midpoint", "heun", "logrho", "bh1", "bh2")
"""Of every multistep class: each takes its own ones, and its default for those of the others."""
CHOICES = {
    "prediction_type": PREDICTS, "timestep_spacing": ("linspace", "leading", "trailing"),
    "final_sigmas_type": ("zero", "sigma_min"), "interpolation_type": ("linear", "log_linear"),
    "timestep_type": ("discrete", "continuous"), "time_shift_type": ("exponential", "linear"),
    "sigma_schedule": ("karras", "exponential"), "solver_type": SOLVER_TYPES,
}  # fmt: skip
POSITIVE = frozenset((
    "num_train_timesteps", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "shift",
    "original_inference_steps", "timestep_scaling", "sigma_data", "rho", "snr_shift_scale", "solver_order",
    "predictor_order",
))  # fmt: skip


NETWORK = {"prediction_type": "epsilon"}
TABLE = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "timestep_spacing": "leading", "steps_offset": 0, **NETWORK,
}  # fmt: skip
CLIPS = {"clip_sample": True, "clip_sample_range": 1.0}
THRESHOLDS = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
DDIM = {**TABLE, **CLIPS, **THRESHOLDS, "set_alpha_to_one": True, "rescale_betas_zero_snr": False}
RULED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
EULER = {**TABLE, "timestep_spacing": "linspace", **RULED}
KATHERINE = {**EULER, "beta_start": 0.00085, "beta_end": 0.012}
DISTILLED = {
    **DDIM,
    **KATHERINE,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "original_inference_steps": 50,
}
SHIFTS = {
    "use_dynamic_shifting": False, "time_shift_type": "exponential", "base_shift": 0.5, "max_shift": 1.15,
    "base_image_seq_len": 256, "max_image_seq_len": 4096,
}  # fmt: skip
SOLVER = {
    **EULER, **THRESHOLDS, **SHIFTS, "solver_order": 2, "solver_type": "midpoint", "lower_order_final": True,
    "use_flow_sigmas": False, "flow_shift": 1.0,
}  # fmt: skip
DPM = {
    **SOLVER, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero", "use_lu_lambdas": False,
    "lambda_min_clipped": -np.inf, "euler_at_final": False, "variance_type": None, "rescale_betas_zero_snr": False,
}  # fmt: skip
UNIPC = {
    **SOLVER, "solver_type": "bh2", "predict_x0": True, "disable_corrector": [], "solver_p": None,
    "final_sigmas_type": "zero", "rescale_betas_zero_snr": False, "sigma_min": None, "sigma_max": None,
    "shift_terminal": None,
}  # fmt: skip
SA = {
    **EULER, **THRESHOLDS, "predictor_order": 2, "corrector_order": 2, "tau_func": None, "lower_order_final": True,
    "algorithm_type": "data_prediction", "lambda_min_clipped": -np.inf, "variance_type": None,
    "use_flow_sigmas": False, "flow_shift": 1.0,
}  # fmt: skip
FLOW = {"num_train_timesteps": 1000, "shift": 1.0}
EDM_OPTIONS = {
    "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras", "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "rho": 7.0, "final_sigmas_type": "zero",
}  # fmt: skip
EDM_DPM = {
    **EDM_OPTIONS, **THRESHOLDS, "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint",
    "lower_order_final": True, "euler_at_final": False,
}  # fmt: skip

COGVIDEO = {
    **DDIM, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "snr_shift_scale": 3.0,
}  # fmt: skip

ELSEWHERE = {
    "IPNDMScheduler": "js.solve.ipndm", "DPMSolverSDEScheduler": "js.solve.dpmpp_sde",
    "DDIMInverseScheduler": "js.solve.invert of the plan of DDIMScheduler",
    "DPMSolverMultistepInverseScheduler": "js.solve.invert of the plan of DPMSolverMultistepScheduler",
    "ScoreSdeVeScheduler": "js.solve.predictor_corrector of js.solve.ddpm on js.noise.VE",
    "KarrasVeScheduler": "js.solve.edm", "CMStochasticIterativeScheduler": "js.solve.consistency",
    "FlowMatchLCMScheduler": "js.solve.consistency on js.noise.Flow", "RePaintScheduler": "js.steer.Repaint",
    "UnCLIPScheduler": "js.solve.ddpm", "VQDiffusionScheduler": "js.tokens.tau_leap",
    "AmusedScheduler": "js.tokens.confidence",
}  # fmt: skip
"""What stands here for classes that are not read."""
SCHEDULERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "DDIMScheduler": ("indexed", DDIM),
    "DDIMParallelScheduler": ("indexed", DDIM),
    "DDPMParallelScheduler": ("indexed", {**DDIM, "variance_type": "fixed_small"}),
    "CogVideoXDDIMScheduler": ("indexed", COGVIDEO),
    "CogVideoXDPMScheduler": ("indexed", {k: v for k, v in COGVIDEO.items() if k not in {**CLIPS, **THRESHOLDS}}),
    "DDPMScheduler": ("indexed", {**DDIM, "variance_type": "fixed_small"}),
    "PNDMScheduler": ("indexed", {**TABLE, "set_alpha_to_one": False, "skip_prk_steps": False}),
    "LCMScheduler": ("indexed", {**DISTILLED, "timestep_scaling": 10.0}),
    "TCDScheduler": ("indexed", {**DISTILLED, "timestep_scaling": 10.0}),
    "EulerDiscreteScheduler": (
        "karras_style",
        {**EULER, "interpolation_type": "linear", "sigma_min": None, "sigma_max": None, "timestep_type": "discrete",
         "rescale_betas_zero_snr": False, "final_sigmas_type": "zero"},
    ),
    "EulerAncestralDiscreteScheduler": ("karras_style", {**EULER, "rescale_betas_zero_snr": False}),
    "LMSDiscreteScheduler": ("karras_style", EULER),
    "HeunDiscreteScheduler": ("karras_style", {**KATHERINE, "clip_sample": False, "clip_sample_range": 1.0}),
    "KDPM2DiscreteScheduler": ("karras_style", KATHERINE),
    "KDPM2AncestralDiscreteScheduler": ("karras_style", KATHERINE),
    "DPMSolverMultistepScheduler": ("solver_style", DPM),
    "DPMSolverSinglestepScheduler": ("solver_style", {**DPM, "lower_order_final": False}),
    "UniPCMultistepScheduler": ("solver_style", UNIPC),
    "DEISMultistepScheduler": ("solver_style", {**SOLVER, "algorithm_type": "deis", "solver_type": "logrho"}),
    "SASolverScheduler": ("solver_style", SA),
    "FlowMatchEulerDiscreteScheduler": (
        "flow",
        {**FLOW, **SHIFTS, **RULED, "shift_terminal": None, "invert_sigmas": False, "stochastic_sampling": False},
    ),
    "FlowMatchHeunDiscreteScheduler": ("flow", FLOW),
    "EDMEulerScheduler": ("edm", EDM_OPTIONS),
    "EDMDPMSolverMultistepScheduler": ("edm", EDM_DPM),
    "CosineDPMSolverMultistepScheduler": (
        "edm",
        {**EDM_DPM, "sigma_min": 0.3, "sigma_max": 500.0, "sigma_data": 1.0, "sigma_schedule": "exponential",
         "prediction_type": "v_prediction", "algorithm_type": "sde-dpmsolver++"},
    ),
}  # fmt: skip
"""Family and defaults of every class that is read."""
IDLE = frozenset().union(*(defaults for _, defaults in SCHEDULERS.values()))
"""Fields that some class knows: pipelines carry them from one class to another, where they say nothing."""
