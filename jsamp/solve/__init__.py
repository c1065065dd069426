"""Diffusion solvers as tables: (schedule, grid, options) -> Plan, and the runner."""

from jsamp.solve._adaptive import AdaptiveInfo as AdaptiveInfo
from jsamp.solve._adaptive import adaptive as adaptive
from jsamp.solve._algebra import concat as concat
from jsamp.solve._algebra import heavy_ball as heavy_ball
from jsamp.solve._algebra import nesterov as nesterov
from jsamp.solve._algebra import restart as restart
from jsamp.solve._algebra import stack as stack
from jsamp.solve._ancestral import ddim as ddim
from jsamp.solve._ancestral import ddpm as ddpm
from jsamp.solve._ancestral_stages import dpm2_ancestral as dpm2_ancestral
from jsamp.solve._ancestral_stages import dpmpp_2s_ancestral as dpmpp_2s_ancestral
from jsamp.solve._ancestral_stages import dpmpp_sde as dpmpp_sde
from jsamp.solve._ancestral_stages import res_multistep as res_multistep
from jsamp.solve._ancestral_stages import seeds as seeds
from jsamp.solve._corrected import er_sde as er_sde
from jsamp.solve._corrected import sa_solver as sa_solver
from jsamp.solve._corrected import unipc as unipc
from jsamp.solve._diffusers import Pretrained as Pretrained
from jsamp.solve._diffusers import from_diffusers as from_diffusers
from jsamp.solve._fewstep import consistency as consistency
from jsamp.solve._fewstep import ddgan as ddgan
from jsamp.solve._fewstep import tcd as tcd
from jsamp.solve._files import describe as describe
from jsamp.solve._files import load as load
from jsamp.solve._files import save as save
from jsamp.solve._index import ghvb as ghvb
from jsamp.solve._index import gradient_estimation as gradient_estimation
from jsamp.solve._index import ipndm as ipndm
from jsamp.solve._index import plms as plms
from jsamp.solve._index import pndm as pndm
from jsamp.solve._interpolate import interpolant_ode as interpolant_ode
from jsamp.solve._interpolate import interpolant_sde as interpolant_sde
from jsamp.solve._invert import invert as invert
from jsamp.solve._jumps import jumps as jumps
from jsamp.solve._jumps import sdedit as sdedit
from jsamp.solve._kernel import KernelInfo as KernelInfo
from jsamp.solve._kernel import KernelState as KernelState
from jsamp.solve._kernel import PlanKernel as PlanKernel
from jsamp.solve._kernel import kernel as kernel
from jsamp.solve._langevin import predictor_corrector as predictor_corrector
from jsamp.solve._likelihood import bits_per_dimension as bits_per_dimension
from jsamp.solve._likelihood import likelihood as likelihood
from jsamp.solve._multistep import deis as deis
from jsamp.solve._multistep import dpm_solver as dpm_solver
from jsamp.solve._multistep import dpmpp as dpmpp
from jsamp.solve._multistep import lms as lms
from jsamp.solve._names import __getattr__ as __getattr__  # pyright: ignore[reportAttributeAccessIssue]
from jsamp.solve._plan import Plan as Plan
from jsamp.solve._rows import Row as Row
from jsamp.solve._rows import assemble as assemble
from jsamp.solve._run import sample as sample
from jsamp.solve._run import step as step
from jsamp.solve._single import dpm_single as dpm_single
from jsamp.solve._single import dpmpp_single as dpmpp_single
from jsamp.solve._stages import dpm2 as dpm2
from jsamp.solve._stages import edm as edm
from jsamp.solve._stages import heun as heun
from jsamp.solve._stages import rho_rk as rho_rk
from jsamp.solve._starts import OptimisedStart as OptimisedStart
from jsamp.solve._starts import StartSearch as StartSearch
from jsamp.solve._starts import optimal_start as optimal_start
from jsamp.solve._starts import optimise_start as optimise_start
from jsamp.solve._starts import regenerate as regenerate
from jsamp.solve._state import SampleInfo as SampleInfo
from jsamp.solve._state import SolveState as SolveState
from jsamp.solve._state import StepInfo as StepInfo
from jsamp.solve._state import init as init
from jsamp.solve._state import output as output
from jsamp.solve._velocity import velocity_multistep as velocity_multistep

__all__ = [
    "AdaptiveInfo", "KernelInfo", "KernelState", "OptimisedStart", "Plan", "PlanKernel", "Pretrained", "Row",
    "SampleInfo", "SolveState", "StartSearch", "StepInfo", "adaptive", "assemble", "bits_per_dimension", "concat",
    "consistency", "ddgan", "ddim", "ddpm", "deis", "describe", "dpm2", "dpm2_ancestral", "dpm_single",
    "dpm_solver", "dpmpp", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_single", "edm", "er_sde", "from_diffusers",
    "ghvb", "gradient_estimation", "heavy_ball", "heun", "init", "interpolant_ode", "interpolant_sde", "invert",
    "ipndm", "jumps", "kernel", "likelihood", "lms", "load", "nesterov", "optimal_start", "optimise_start",
    "output", "plms", "pndm", "predictor_corrector", "regenerate", "res_multistep", "restart", "rho_rk", "sa_solver",
    "sample", "save", "sdedit", "seeds", "stack", "step", "tcd", "unipc", "velocity_multistep",
]  # fmt: skip
