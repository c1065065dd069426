"""Samplers under the names of k-diffusion, ComfyUI and diffusers, and the calls that build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsamp._core._foreign import explains

CALLS = {
    "euler": "solve.ddim(schedule, grid)",
    "euler_a": "solve.ddim(schedule, grid, eta=1.0)",
    "euler_ancestral": "solve.ddim(schedule, grid, eta=1.0)",
    "dpm_2": "solve.dpm2(schedule, grid)",
    "dpm_2_ancestral": "solve.dpm2_ancestral(schedule, grid)",
    "dpmpp_2s": "solve.dpmpp_single(schedule, grid)",
    "dpmpp_2s_a": "solve.dpmpp_2s_ancestral(schedule, grid)",
    "dpmpp_2m": "solve.dpmpp(schedule, grid, order=2)",
    "dpmpp_3m": "solve.dpmpp(schedule, grid, order=3)",
    "dpmpp_2m_sde": "solve.dpmpp(schedule, grid, order=2, tau=1.0)",
    "dpmpp_3m_sde": "solve.dpmpp(schedule, grid, order=3, tau=1.0)",
    "dpm_fast": "solve.dpm_single(schedule, grid, order=3)",
    "dpm_adaptive": "solve.adaptive(key, denoiser, x, schedule)",
    "res_2m": "solve.res_multistep(schedule, grid)",
    "res_multistep_ancestral": "solve.res_multistep(schedule, grid, eta=1.0)",
    "seeds_2": "solve.seeds(schedule, grid, order=2)",
    "seeds_3": "solve.seeds(schedule, grid, order=3)",
    "uni_pc": 'solve.unipc(schedule, grid, variant="bh1")',
    "uni_pc_bh2": 'solve.unipc(schedule, grid, variant="bh2")',
    "ipndm_v": "solve.lms(schedule, grid)",
    "lcm": "solve.consistency(schedule, grid)",
    "ctm": "solve.tcd(schedule, grid)",
    "langevin": "solve.predictor_corrector(js.solve.ddpm(schedule, grid))",
    "pc": "solve.predictor_corrector(js.solve.ddpm(schedule, grid))",
}

if not TYPE_CHECKING:  # what checks types should go on refusing every other name
    __getattr__ = explains("solve", CALLS)
