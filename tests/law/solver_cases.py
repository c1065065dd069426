"""Every named solver with its options, on schedules and grids that it accepts, and one program that runs them all."""

import functools
import re

import jax
import numpy as np
from laws import denoiser

import jsamp as js

S = js.solve
VP = js.noise.VP()


# Every named solver with its options. A new solver, or a new option, adds one line.
SOLVERS = {
    "ddim": S.ddim,
    "ddim(eta=.5)": lambda s, g: S.ddim(s, g, eta=0.5),
    "ddim(eta=1)": lambda s, g: S.ddim(s, g, eta=1.0),
    "ddpm": S.ddpm,
    "ddpm(large)": lambda s, g: S.ddpm(s, g, variance="large"),
    "consistency": S.consistency,
    "tcd": S.tcd,
    "gradient_estimation": S.gradient_estimation,
    "dpm2_ancestral": S.dpm2_ancestral,
    "dpmpp_2s_ancestral": S.dpmpp_2s_ancestral,
    "dpmpp_sde": S.dpmpp_sde,
    "dpmpp_sde(eta=.5)": lambda s, g: S.dpmpp_sde(s, g, eta=0.5),
    "res_multistep": S.res_multistep,
    "res_multistep(eta=1)": lambda s, g: S.res_multistep(s, g, eta=1.0),
    "seeds": S.seeds,
    "seeds(3)": lambda s, g: S.seeds(s, g, order=3, eta=0.7),
    "seeds(phi_2)": lambda s, g: S.seeds(s, g, variant="phi_2"),
    "velocity_multistep": S.velocity_multistep,
    "velocity_multistep(4)": lambda s, g: S.velocity_multistep(s, g, order=4),
    "dpmpp(1)": lambda s, g: S.dpmpp(s, g, order=1),
    "dpmpp(2)": S.dpmpp,
    "dpmpp(2,reference)": lambda s, g: S.dpmpp(s, g, variant="reference"),
    "dpmpp(3)": lambda s, g: S.dpmpp(s, g, order=3),
    "dpmpp(3,reference)": lambda s, g: S.dpmpp(s, g, order=3, variant="reference"),
    "dpmpp(3,lower)": lambda s, g: S.dpmpp(s, g, order=3, lower_order_final=True),
    "dpmpp(2,sde)": lambda s, g: S.dpmpp(s, g, tau=1.0),
    "dpmpp(2,reference,sde)": lambda s, g: S.dpmpp(s, g, tau=0.7, variant="reference"),
    "dpm_solver(2)": S.dpm_solver,
    "dpm_solver(3)": lambda s, g: S.dpm_solver(s, g, order=3),
    "dpm_solver(3,reference)": lambda s, g: S.dpm_solver(s, g, order=3, variant="reference"),
    "dpm_solver(2,sde)": lambda s, g: S.dpm_solver(s, g, tau=1.0),
    "deis(1)": lambda s, g: S.deis(s, g, order=1),
    "deis(3)": S.deis,
    "deis(4)": lambda s, g: S.deis(s, g, order=4),
    "deis(3,rho)": lambda s, g: S.deis(s, g, variable="rho"),
    "deis(3,lam)": lambda s, g: S.deis(s, g, variable="lam"),
    "lms(4)": S.lms,
    "unipc(1)": lambda s, g: S.unipc(s, g, order=1),
    "unipc(3)": S.unipc,
    "unipc(2,eps)": lambda s, g: S.unipc(s, g, order=2, predicts="eps"),
    "unipc(2,bh1)": lambda s, g: S.unipc(s, g, order=2, variant="bh1"),
    "unipc(3,bh2)": lambda s, g: S.unipc(s, g, variant="bh2"),
    "unipc(2,last)": lambda s, g: S.unipc(s, g, order=2, corrector_last=True),
    "sa_solver": S.sa_solver,
    "sa_solver(few)": lambda s, g: S.sa_solver(s, g, predictor=2, corrector=2, variant="few_steps"),
    "sa_solver(last)": lambda s, g: S.sa_solver(s, g, predictor=2, corrector=2, corrector_last=True),
    "sa_solver(2,0)": lambda s, g: S.sa_solver(s, g, predictor=2, corrector=0, tau=0.5),
    "er_sde(1)": lambda s, g: S.er_sde(s, g, order=1),
    "er_sde(2)": S.er_sde,
    "er_sde(3)": lambda s, g: S.er_sde(s, g, order=3),
    "plms": S.plms,
    "plms(heun)": lambda s, g: S.plms(s, g, start="heun"),
    "ipndm(3)": lambda s, g: S.ipndm(s, g, order=3),
    "pndm(2)": lambda s, g: S.pndm(s, g, order=2),
    "pndm(4)": S.pndm,
    "ghvb": S.ghvb,
    "ghvb(3,variable)": lambda s, g: S.ghvb(s, g, order=3, spacing="variable"),
    "heavy_ball": lambda s, g: S.heavy_ball(S.plms(s, g), 0.8),
    "heavy_ball(bypass)": lambda s, g: S.heavy_ball(S.dpmpp(s, g, order=2), 0.8, first_order="bypass"),
    "nesterov": lambda s, g: S.nesterov(S.plms(s, g), 0.8),
    "heun": S.heun,
    "edm": S.edm,
    "edm(churn)": lambda s, g: S.edm(s, g, churn=2.0, noise=1.003),
    "dpm2": S.dpm2,
    **{
        f"rho_rk({name})": lambda s, g, name=name: S.rho_rk(s, g, tableau=name)
        for name in ("1euler", "2heun", "2mid", "3kutta", "3ral", "3heun", "3vdh", "3ssprk", "4rk")
    },
    "dpmpp_single(2)": S.dpmpp_single,
    "dpmpp_single(3)": lambda s, g: S.dpmpp_single(s, g, order=3),
    "dpmpp_single(2,grid)": lambda s, g: S.dpmpp_single(s, g, packing="grid", variant="reference"),
    "dpmpp_single(3,reference)": lambda s, g: S.dpmpp_single(s, g, order=3, variant="reference"),
    "dpm_single(2)": S.dpm_single,
    "dpm_single(3)": lambda s, g: S.dpm_single(s, g, order=3),
    "restart": lambda s, g: S.restart(S.heun(s, g), S.heun(s, g[:2]), repeats=2),
    "predictor_corrector": lambda s, g: S.predictor_corrector(S.ddpm(s, g), snr=0.1),
    "predictor_corrector(2)": lambda s, g: S.predictor_corrector(S.deis(s, g, order=2), snr=0.1, steps=2),
}  # fmt: skip
# Traced per-step rates, for the solvers that take them.
ONLY_VE = {"edm(churn)"}
CONCRETE_ONLY = {"restart", "heavy_ball(bypass)"} | {
    name for name in SOLVERS if re.match("dpm2_anc|dpmpp_2s|dpmpp_sde|res_|seeds", name)
}
# Lagrange builders in their exact form: their table depends on the grid behind a row through its history alone.
LAGRANGE = [
    name
    for name in SOLVERS
    if re.match(r"(dpmpp\(|dpm_solver|deis|lms|unipc|sa_solver|ddim|ddpm|er_sde)", name)
    and not re.search("reference|bh1|bh2|few", name)
]

SCHEDULES = {
    "VP": js.noise.VP(),
    "Cosine": js.noise.Cosine(),
    "VE": js.noise.VE(0.01, 20.0),
    "Flow": js.noise.Flow(),
    "Discrete": js.noise.Discrete.ddpm_linear(100, 1e-3, 0.15),
}


def grid_of(schedule, n, final="sigma_min"):
    if isinstance(schedule, js.noise.VE):
        return js.noise.karras_grid(schedule, n, 3.0, final=final)
    if isinstance(schedule, js.noise.Discrete):
        return js.noise.index_grid(schedule, n, "linspace", final=final)
    return js.noise.time_grid(schedule, n, 2 if isinstance(schedule, js.noise.VP) else 1, final=final)


@functools.cache
def plans(n=5):
    """Every solver on a gentle grid, by name, each on a schedule that it accepts."""
    return {name: make(schedule_of(name), grid_for(name, n)) for name, make in SOLVERS.items()}


def schedule_of(name):
    return SCHEDULES["VE"] if name in ONLY_VE else VP


def grid_for(name, n):
    return grid_of(schedule_of(name), n)


KEY = jax.random.key(3)
START = np.array([0.9, -0.4, 0.2], np.float32)


def run(key, models, x, tables):
    """Every plan from the same start; one program."""
    out = {}
    for name, plan in tables.items():
        scale = 20.0 if name in ONLY_VE else 1.0
        out[name] = js.sample(key, models[name in ONLY_VE], jax.tree.map(lambda v, s=scale: v * s, x), plan).x
    return out


MODELS = (denoiser(VP, "eps"), denoiser(SCHEDULES["VE"], "x0"))
RUN = jax.jit(run)


@functools.cache
def structures():
    """One plan for each set of columns: numbers are data, so plans of one structure run one program."""
    found = {}
    for name, plan in plans().items():
        found.setdefault((plan.kind, frozenset(columns(plan)), name in ONLY_VE), name)
    return {name: plans()[name] for name in found.values()}


@functools.cache
def reference():
    return RUN(KEY, MODELS, START, plans())


def columns(plan):
    return {k: v for k, v in vars(plan).items() if v is not None and k != "kind"}


def built_in_trace(names, n):
    grids = {name: grid_for(name, n) for name in names}

    def build(grids):
        return {name: SOLVERS[name](schedule_of(name), grids[name]) for name in names}

    return grids, build


TRACEABLE = [name for name in SOLVERS if name not in CONCRETE_ONLY]
