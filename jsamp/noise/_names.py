"""Grids under the names of k-diffusion, ComfyUI and diffusers, and the calls that build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsamp._core._foreign import explains
from jsamp.noise._spacings import SPACINGS

CALLS = {
    **{name: f'noise.spaced_grid(schedule, steps, "{name}")' for name in SPACINGS},
    "karras": "noise.karras_grid(schedule, steps)",
    "ays": 'noise.spaced_grid(schedule, steps, "ays_sd15")',
    "align_your_steps": 'noise.spaced_grid(schedule, steps, "ays_sd15")',
    "ddim_uniform": 'noise.index_grid(schedule, steps, "leading")',
    "leading": 'noise.index_grid(schedule, steps, "leading")',
    "trailing": 'noise.index_grid(schedule, steps, "trailing")',
    "linspace": 'noise.index_grid(schedule, steps, "linspace")',
    "lu_lambdas": "noise.logsnr_grid(schedule, steps)",
}

if not TYPE_CHECKING:  # what checks types should go on refusing every other name
    __getattr__ = explains("noise", CALLS)
