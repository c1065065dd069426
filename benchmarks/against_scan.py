"""Cost of `js.sample` beside a hand-written `lax.scan` of the same solver, on a state of 64 x 32 x 32 x 3.

Both programs run the same network and the same coefficients. The hand-written one is what a user would write for one
solver: it carries x and the predictions it needs and nothing else. The two are timed in turns, A B A B, so that a busy
machine slows both alike; the table gives the ratio of the fastest runs and the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import machine
import numpy as np

import jsamp as js

RESULTS = pathlib.Path(__file__).parent / "results"
SHAPE = (64, 32, 32, 3)
STEPS = 20


def interleave(calls: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, measured in turns; the order of a round is reversed every second round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for turn in range(repeats):
        names = list(calls) if turn % 2 == 0 else list(calls)[::-1]
        for name in names:
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(time.perf_counter() - start)
    return times


def load_line() -> str:
    """What else ran on the machine, for the reader of the table."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    warning = " The machine was busy: trust ratios near 1 to a tenth, and no timing of two threads."
    busy = warning if load > 2 * cores else ""
    return f"Load average at the end: {load:.1f} on {cores} cores.{busy}"


def ratios(times: dict[str, list[float]], name: str, base: str) -> tuple[float, float]:
    """Ratio of the fastest runs, and median of the ratios of neighbours."""
    pairs = [a / b for a, b in zip(times[name], times[base], strict=True)]
    return min(times[name]) / min(times[base]), statistics.median(pairs)


def normalise(x):
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def mixer(weights, x, t):
    """A patch mixer that predicts eps: 16 tokens of 8 x 8 pixels, matrix products only."""
    batch = x.shape[0]
    tokens = x.reshape(batch, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(batch, 16, 192)
    time_features = jnp.concatenate([jnp.sin(t * weights["freq"]), jnp.cos(t * weights["freq"])])
    h = tokens @ weights["embed"] + (time_features @ weights["time"]) + weights["place"]
    for block in weights["blocks"]:
        mixed = normalise(h).swapaxes(1, 2) @ block["token_up"]
        h = h + (jax.nn.gelu(mixed) @ block["token_down"]).swapaxes(1, 2)
        h = h + jax.nn.gelu(normalise(h) @ block["channel_up"]) @ block["channel_down"]
    out = (normalise(h) @ weights["head"]).reshape(batch, 4, 4, 8, 8, 3)
    return out.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


def make_mixer(width: int = 128, blocks: int = 3):
    keys = iter(jax.random.split(jax.random.key(0), 64))

    def dense(rows, cols):
        return jax.random.normal(next(keys), (rows, cols)) / np.sqrt(rows)

    weights = {
        "freq": jnp.exp(jnp.linspace(0.0, 6.0, 32)),
        "embed": dense(192, width),
        "time": dense(64, width),
        "place": 0.1 * dense(16, width),
        "head": dense(width, 192),
        "blocks": [
            {
                "token_up": dense(16, 64),
                "token_down": dense(64, 16),
                "channel_up": dense(width, 2 * width),
                "channel_down": dense(2 * width, width),
            }
            for _ in range(blocks)
        ],
    }
    return jax.tree_util.Partial(mixer, weights)


def rotation(weights, x, t):
    """A near-free model that XLA cannot fuse away: one 32 x 32 matrix product, scaled by time."""
    return (x.reshape(-1, 32) @ weights).reshape(x.shape) * (1 + 0.1 * t)


def make_rotation():
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))
    return jax.tree_util.Partial(rotation, jnp.asarray(q, jnp.float32))


def solvers(n: int) -> dict[str, js.Plan]:
    schedule = js.noise.VP()
    grid = js.noise.logsnr_grid(schedule, n)
    return {
        "DDIM": js.solve.ddim(schedule, grid),
        "DPM++ 2M": js.solve.dpmpp(schedule, grid, order=2),
        "DEIS-t 4": js.solve.deis(schedule, grid, order=4),
    }


def hand_tables(plan: js.Plan) -> dict[str, jax.Array]:
    """The coefficients of a multistep plan by age of the prediction, as a user's own loop would hold them."""
    n, slots = plan.nfe, plan.slots
    by_age = np.zeros((n, slots + 1))
    holder = np.full(slots, -1)
    for r in range(n):
        by_age[r, 0] = plan.weights[r, 0]
        for k, source in enumerate(holder):
            if source >= 0 and plan.weights[r, k + 1] != 0:
                by_age[r, r - source] = plan.weights[r, k + 1]
        if slots:
            holder[plan.slot[r]] = r
    table = {"t": plan.t, "alpha": plan.alpha, "sigma": plan.sigma, "a": plan.state_coef, "w": by_age}
    return {name: jnp.asarray(column, jnp.float32) for name, column in table.items()}


def hand_ddim(model, x, table):
    def body(x, row):
        eps = model(x, row["t"])
        x0 = (x - row["sigma"] * eps) / row["alpha"]
        return row["a"] * x + row["w"][0] * x0, None

    return jax.lax.scan(body, x, table)[0]


def hand_2m(model, x, table):
    def body(carry, row):
        x, before = carry
        eps = model(x, row["t"])
        x0 = (x - row["sigma"] * eps) / row["alpha"]
        return (row["a"] * x + row["w"][0] * x0 + row["w"][1] * before, x0), None

    return jax.lax.scan(body, (x, jnp.zeros_like(x)), table)[0][0]


def hand_deis4(model, x, table):
    def body(carry, row):
        x, e1, e2, e3 = carry
        e0 = model(x, row["t"])
        w = row["w"]
        return (row["a"] * x + w[0] * e0 + w[1] * e1 + w[2] * e2 + w[3] * e3, e0, e1, e2), None

    zero = jnp.zeros_like(x)
    return jax.lax.scan(body, (x, zero, zero, zero), table)[0][0]


HAND = {"DDIM": hand_ddim, "DPM++ 2M": hand_2m, "DEIS-t 4": hand_deis4}


def compare(model, name: str, x, repeats: int, grad: bool = False) -> list[str]:
    """One row of the table: milliseconds of both programs and their ratios."""
    plan = solvers(STEPS)[name]
    table, denoiser = hand_tables(plan), js.Denoiser(model, js.noise.VP(), predicts="eps")
    if grad:
        ours_fn = jax.jit(jax.grad(lambda m, x: jnp.sum(js.sample(None, denoiser_with(denoiser, m), x, plan).x ** 2)))
        hand_fn = jax.jit(jax.grad(lambda m, x: jnp.sum(HAND[name](m, x, table) ** 2)))
        ours, hand = functools.partial(ours_fn, model, x), functools.partial(hand_fn, model, x)
    else:
        ours_fn, hand_fn = jax.jit(lambda d, x, p: js.sample(None, d, x, p).x), jax.jit(HAND[name])
        plan = jax.tree.map(jnp.asarray, plan)  # on the device, as the other program's table is
        ours, hand = functools.partial(ours_fn, denoiser, x, plan), functools.partial(hand_fn, model, x, table)
    for a, b in zip(jax.tree.leaves(ours()), jax.tree.leaves(hand()), strict=True):
        scale = float(jnp.max(jnp.abs(b))) + 1e-30
        if not float(jnp.max(jnp.abs(a - b))) / scale < 2e-3:
            raise AssertionError(f"{name}: the two programs disagree by {float(jnp.max(jnp.abs(a - b))) / scale:.1e}.")
    times = interleave({"ours": ours, "hand": hand}, repeats)
    fastest, median = ratios(times, "ours", "hand")
    milli = [f"{1e3 * min(times[k]) / STEPS:.3f}" for k in ("ours", "hand")]
    return [*milli, f"{fastest:.3f}", f"{median:.3f}"]


def door(name: str, model, x, repeats: int) -> list[str]:
    """Milliseconds of one run inside the user's jit, and called from Python: checks and transfer of the table."""
    plan = solvers(STEPS)[name]
    denoiser, inside = js.Denoiser(model, js.noise.VP()), jax.jit(lambda d, x, p: js.sample(None, d, x, p).x)
    held = jax.tree.map(jnp.asarray, plan)
    calls = {"jit": lambda: inside(denoiser, x, held), "call": lambda: js.sample(None, denoiser, x, plan).x}
    times = interleave(calls, repeats)
    jit, call = (1e3 * statistics.median(times[k]) for k in calls)
    return [f"{jit:.3f}", f"{call:.3f}", f"{call - jit:.3f}"]


def denoiser_with(denoiser, model):
    return js.Denoiser(model, denoiser.schedule, predicts=denoiser.predicts)


def compile_ratio(name: str, model, x, repeats: int) -> list[str]:
    """Seconds to lower and compile a plan of one step and of twenty, and twenty steps written by hand."""
    denoiser = js.Denoiser(model, js.noise.VP(), predicts="eps")
    plans = {n: solvers(n)[name] for n in (1, STEPS)}
    run, table = lambda d, x, p: js.sample(None, d, x, p).x, hand_tables(plans[STEPS])
    builds = {
        "one": lambda: jax.jit(run).lower(denoiser, x, plans[1]).compile(),
        "many": lambda: jax.jit(run).lower(denoiser, x, plans[STEPS]).compile(),
        "hand": lambda: jax.jit(HAND[name]).lower(model, x, table).compile(),
    }
    seconds: dict[str, list[float]] = {label: [] for label in builds}
    for _ in range(repeats + 1):
        for label, build in builds.items():
            jax.clear_caches()
            start = time.perf_counter()
            build()
            seconds[label].append(time.perf_counter() - start)
    one, many, hand = (statistics.median(seconds[label][1:]) for label in builds)
    return [*(f"{value:.2f}" for value in (one, many, hand)), f"{many / one:.2f}", f"{many / hand:.2f}"]


def memory(name: str, plan: js.Plan, model, x) -> list[str]:
    """Temporary memory in units of one state, and the limit: the predictions that a step combines, and 3."""
    denoiser, key = js.Denoiser(model, js.noise.VP(), predicts="eps"), jax.random.key(0)
    programs = [jax.jit(lambda d, x, p: js.sample(key, d, x, p).x).lower(denoiser, x, plan)]
    if name in HAND:
        programs.append(jax.jit(HAND[name]).lower(model, x, hand_tables(plan)))
    states = [f"{p.compile().memory_analysis().temp_size_in_bytes / x.nbytes:.2f}" for p in programs]
    combined = int(np.max(np.sum(plan.weights != 0, axis=1)))
    if plan.corrector_weights is not None:
        combined = max(
            combined,
            int(np.max(np.sum(plan.corrector_weights != 0, axis=1) + (np.append(plan.corrector_newest[1:], 0) != 0))),
        )
    return [str(combined), *states, *["-"] * (2 - len(states)), str(combined + 3)]


def memory_plans(n: int) -> dict[str, js.Plan]:
    """The timed solvers, and those that carry more: stages, correctors, noise (whose random bits are states too)."""
    schedule = js.noise.VP()
    grid = js.noise.logsnr_grid(schedule, n)
    more = {"Heun": js.solve.heun, "GHVB 4": js.solve.ghvb, "UniPC 3": js.solve.unipc, "DDPM": js.solve.ddpm}
    more["SA-Solver"] = js.solve.sa_solver
    return {**solvers(n), **{name: make(schedule, grid) for name, make in more.items()}}


def markdown(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=41, help="rounds of each timed pair")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "against_scan.md")
    args = parser.parse_args()
    x = jax.random.normal(jax.random.key(1), SHAPE)
    models = {"32 x 32 product": make_rotation(), "mixer": make_mixer()}
    count = sum(leaf.size for leaf in jax.tree.leaves(models["mixer"]))
    timing, gradient = [], []
    for label, model in models.items():
        repeats = args.repeats if label != "mixer" else max(5, args.repeats // 3)
        limit = "1.05" if label == "mixer" else "1.15"
        for name in HAND:
            timing.append([label, name, *compare(model, name, x, repeats), limit])
            print(*timing[-1], flush=True)
        # Back-propagation through the mixer keeps every activation of every step, so one solver stands for all.
        for name in HAND if label != "mixer" else ["DPM++ 2M"]:
            gradient.append([label, name, *compare(model, name, x, max(3, repeats // 3), grad=True)])
            print("gradient", *gradient[-1], flush=True)
    doors = [[name, *door(name, models["32 x 32 product"], x[:1], args.repeats)] for name in HAND]
    compiles = [[name, *compile_ratio(name, models["mixer"], x, 9), "1.3"] for name in HAND]
    plans = memory_plans(STEPS).items()
    memories = [[name, *memory(name, plan, models["32 x 32 product"], x)] for name, plan in plans]
    text = "\n".join(
        [
            f"# js.sample beside a hand-written scan\n\n{machine.describe()}. State {SHAPE} float32, "
            f"{STEPS} steps. The mixer has {count:,} parameters.\n{load_line()}\n`python benchmarks/against_scan.py`\n",
            markdown(
                "Milliseconds a step",
                ["model", "solver", "js.sample", "hand", "ratio of fastest", "median ratio", "target"],
                timing,
            ),
            markdown(
                "Gradient of |x|^2 with respect to the network's weights, milliseconds a step",
                ["model", "solver", "js.sample", "hand", "ratio of fastest", "median ratio"],
                gradient,
            ),
            markdown(
                f"Milliseconds of a whole run of {STEPS} steps on one image (32 x 32 product)",
                ["solver", "inside jit", "called from Python", "checks and transfer"],
                doors,
            ),
            markdown(
                "Seconds to lower and compile (mixer)",
                ["solver", "1 step", f"{STEPS} steps", "by hand", "ratio", f"{STEPS} / by hand", "target of the ratio"],
                compiles,
            ),
            markdown(
                "Temporary memory in states (32 x 32 product)",
                ["solver", "predictions combined", "js.sample", "hand", "target"],
                memories,
            ),
        ]
    )
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
