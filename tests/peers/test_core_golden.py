"""One recorded run for each distinct algorithm at ten steps, through `js.sample` itself, in float64 and float32."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_golden import Unmatched, on_path

import jsamp as js
from jsamp import solve
from jsamp._core._pytree import replace
from jsamp.solve._multistep import build
from jsamp.solve._weights import check_grid


def common(name, schedule, grid):
    """Plans for the runs that several peers made on one grid."""
    family, *rest = name.split("-")
    if name.startswith(("dpmsolver++-", "dpmsolver-")):
        rule, kind = rest[0], "++" in family
        if rule[1] == "S":
            packing = "grid" if "diffusers" in name else "fast"
            make = solve.dpmpp_single if kind else solve.dpm_single
            return make(schedule, grid, order=int(rule[0]), variant="reference", packing=packing)
        variant = "exact" if "taylor" in name else "reference"
        make = solve.dpmpp if kind else solve.dpm_solver
        return make(schedule, grid, order=int(rule[0]), variant=variant, lower_order_final=False)
    if name.startswith("DEIS-logrho"):
        return solve.deis(schedule, grid, order=int(rest[-1]), variable="lam", lower_order_final=False)
    if name.startswith("UniP-"):
        order = int(rest[0])
        return build(check_grid("unip", schedule, grid), kind="x0", order=order, variant="bh2")
    if name.startswith("UniPC"):
        order, variant, kind = int(rest[0]), rest[1], rest[2]
        if variant == "vary" and order > 1:
            raise Unmatched("D2: the published vary_coeff code is first order for p >= 2")
        variant = "exact" if variant == "vary" else variant
        return solve.unipc(schedule, grid, order=order, predicts=kind, variant=variant, lower_order_final=False)
    if name.startswith("SA-"):
        p, c = int(rest[0][1]), int(rest[0][3])
        path = check_grid("sa", schedule, grid)
        return build(path, kind="x0", order=p, variant="bh1", corrector=c, lower_order_final=True)
    if name.startswith("LMS"):
        return solve.lms(schedule, grid, order=int(rest[0]))
    if name.startswith(("GHVB", "HB", "NT")):
        order = math.ceil(float(rest[0]))
        beta = float(rest[0]) - order + 1
        if family == "GHVB":
            return solve.ghvb(schedule, grid, order=order, beta=beta)
        momentum = solve.heavy_ball if family == "HB" else solve.nesterov
        return momentum(solve.plms(schedule, grid, order=order), beta)
    return {"euler": solve.ddim, "heun": solve.heun, "dpm_2": solve.dpm2}[family](schedule, grid)


def diffusers(entry, schedule, grid):
    o, name = entry["options"], entry["solver"]
    if name == "DPMSolverMultistepScheduler":
        return solve.dpmpp(schedule, grid, order=o["solver_order"], variant="reference", lower_order_final=True)
    if name == "UniPCMultistepScheduler":
        return solve.unipc(schedule, grid, order=o["solver_order"], variant="bh2", lower_order_final=True)
    if name == "DEISMultistepScheduler":
        # D7: its last node is repeated; the step of zero width takes the first-order turn of the lowering.
        order = o["solver_order"]
        plan = solve.deis(schedule, grid, order=order, variable="lam", lower_order_final=False)
        if order < 3:
            return plan
        lower = solve.deis(schedule, grid, order=2, variable="lam", lower_order_final=False)
        last = np.zeros(plan.slots + 1)
        last[[0, 1 + plan.slot[-2]]] = lower.weights[-1][[0, 1 + lower.slot[-2]]]
        return replace(plan, weights=np.concatenate([plan.weights[:-1], last[None]]))
    return solve.heun(schedule, grid) if "Heun" in name else solve.ddim(schedule, grid)


def plan_of(entry, alpha, sigma):
    keep = np.isfinite(alpha) & np.isfinite(sigma)
    alpha, sigma = alpha[keep], sigma[keep]
    if entry["start"]["alpha"] == 1:  # a peer whose state lives in x / alpha
        alpha, sigma = np.ones_like(alpha), sigma / alpha
    schedule, grid = on_path(alpha, sigma)
    # Two-stage peers list a node once for each stage that meets there (D7: others repeat their last one).
    grid = grid[np.append(True, np.diff(grid) < 0)]
    if entry["peer"].startswith("common_grid"):
        singlestep = entry["solver"][-1] == "S" and "dpm_solver_torch" in entry["peer"]
        if singlestep and "logSNR" in entry["grid"] and "3S" in entry["solver"]:
            raise Unmatched("D8: its outer nodes are uniform in log-SNR; compared with its own nodes in test_golden")
        if singlestep:
            grid = js.noise.VP().time(np.linspace(*js.noise.VP().lam(np.array([1, 1e-3])), 11))
            grid = js.noise.time_grid(js.noise.VP(), 10, 2) if "quadratic" in entry["grid"] else grid
        return schedule, common(entry["solver"], schedule, grid)
    if entry["peer"] == "diffusers":
        return schedule, diffusers(entry, schedule, grid)
    if entry["peer"] == "nvlabs_edm":
        return schedule, solve.edm(schedule, grid)
    raise Unmatched("compared in test_golden")


@pytest.fixture(scope="module")
def core(shared):
    folder = shared / "golden"
    return (
        json.loads((folder / "core.json").read_text()),
        np.load(folder / "core.npz"),
        np.load(folder / "problems.npz"),
    )


@jax.jit
def run(law, x, plan):
    return js.sample(None, law, x, plan).x


def test_ten_step_runs_through_sample(core):
    entries, arrays, p = core
    finals, alphas, sigmas = arrays["final_ring"], arrays["grid_alpha"], arrays["grid_sigma"]
    failures, reasons, compared, worst, medians = [], set(), 0, 0.0, []
    for entry in entries:
        row = entry["core_row"]
        try:
            schedule, plan = plan_of(entry, alphas[row], sigmas[row])
        except Unmatched as reason:
            reasons.add(str(reason))
            continue
        law = js.denoise.GaussianMixture(schedule, weights=p["ring_w"], means=p["ring_mu"], stds=np.sqrt(p["ring_var"]))
        start = entry["start"]["scale"] * p["z_ring"]
        with jax.enable_x64(True):
            got = np.asarray(run(law, jnp.asarray(start), plan))
        compared += 1
        error = np.abs(got - finals[row]).max() / max(1.0, np.abs(finals[row]).max())
        if not error < 1e-10:
            failures.append((row, entry["peer"], entry["solver"], entry["grid"][:20], float(error)))
        if compared % 4 == 1:  # single precision says the same of every table
            single = np.asarray(run(law, jnp.asarray(start, jnp.float32), plan))
            gap = np.abs(single - got) / np.maximum(1.0, np.abs(got))
            worst = max(worst, float(gap.max()))
            medians.append(np.median(gap))
    assert not failures, failures
    assert compared > 130
    assert np.median(medians) < 5e-7
    print(f"{compared} compared; float32 worst {worst:.1e}, median {np.median(medians):.1e}; not: {sorted(reasons)}")
