"""Grids under the names of k-diffusion, ComfyUI and diffusers, and the calls that build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsamp._core._foreign import explains
from jsamp.noise._spacings import SPACINGS

CALLS = {
    **{name: f'noise.spaced_grid(schedule, n, "{name}")' for name in SPACINGS},
    "karras": "noise.karras_grid(schedule, n)",
    "ays": 'noise.spaced_grid(schedule, n, "ays_sd15")',
    "align_your_steps": 'noise.spaced_grid(schedule, n, "ays_sd15")',
    "ddim_uniform": 'noise.index_grid(schedule, n, "leading")',
    "leading": 'noise.index_grid(schedule, n, "leading")',
    "trailing": 'noise.index_grid(schedule, n, "trailing")',
    "linspace": 'noise.index_grid(schedule, n, "linspace")',
    "lu_lambdas": "noise.logsnr_grid(schedule, n)",
}

if not TYPE_CHECKING:  # what checks types should go on refusing every other name
    __getattr__ = explains("noise", CALLS)
