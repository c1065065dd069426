"""MCMC kernels beside blackjax and numpyro: time to trace, compile, warm up and run, effective draws per second.

Three targets (a 100-d Gaussian with condition number 1000, a 10-d non-centred hierarchical model, a 31-d logistic
regression on the breast-cancer data), 4 and 64 chains. Shared algorithms run with the same step size and metric in
every library, tuned once by `mcmc.tune`, so the figures compare implementations; "default" is our recommendation, tuned
HMC with quasi-random lengths. Every entry is one jitted scan over vmapped chains that stores positions, compiled ahead
of time; each is traced and compiled afresh, and runs alternate between the libraries, with a new key each time.
Medians. Two clocks: CPU seconds of the process, which other work on the machine changes little but which count what
the compiler's threads wait for each other, and wall-clock seconds, which are right on a quiet machine and the only ones
on an accelerator. MALA and fixed-length HMC are the same Markov chain in every library: their effective size per draw
is pooled, and the ratio is that of draws per second. A library that is not installed is left out, in words. The table
is written after every cell, so a run that is cut leaves what it has.

    python benchmarks/mcmc_peers.py                         (all of it, about 10 minutes on two quiet cores)
    python benchmarks/mcmc_peers.py --quick                 (one target, 4 chains, short runs, nothing written)
    python benchmarks/mcmc_peers.py --out gpu.md --note "one H100"
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp import estimate, mcmc

RESULTS = pathlib.Path(__file__).parent / "results" / "mcmc_peers.md"
STEPS = 5  # leapfrog steps of the shared fixed-length HMC
WARMUP = 600
DRAWS = {("MALA", 4): 2000, ("MALA", 64): 300, ("HMC", 4): 1000, ("HMC", 64): 200, ("NUTS", 4): 500, ("NUTS", 64): 100}
SAME_CHAIN = ("MALA", "HMC")
PEERS = tuple(name for name in ("blackjax", "numpyro") if importlib.util.find_spec(name))


def gauss100():
    scale = jnp.asarray(np.random.default_rng(0).permutation(np.logspace(0, 1.5, 100)), jnp.float32)
    return lambda x: -jnp.sum((x / scale) ** 2) / 2, jnp.zeros(100)


def funnel10():
    y = jnp.asarray(2 * np.random.default_rng(1).normal(size=9), jnp.float32)

    def logdensity(x):
        v = 3 * x[0]
        return -jnp.sum(x**2) / 2 - jnp.sum((y - jnp.exp(v / 2) * x[1:]) ** 2) / 8

    return logdensity, jnp.zeros(10)


def logreg():
    from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    x = jnp.asarray(np.column_stack([x, np.ones(len(x))]), jnp.float32)
    sign = jnp.asarray(2 * data.target - 1, jnp.float32)
    return lambda w: jnp.sum(jax.nn.log_sigmoid(sign * (x @ w))) - jnp.sum(w**2) / 2, jnp.zeros(31)


TARGETS = {"gauss100": gauss100, "funnel10": funnel10, "logreg": logreg}


def own(kernel, num):
    return lambda keys, x: jax.vmap(lambda k, x: mcmc.chain(k, kernel, x, num).x)(keys, x)


def from_blackjax(name, logdensity, numbers, num):
    import blackjax

    algorithm = getattr(blackjax, name)(logdensity, *numbers)

    def run(key, x):
        def step(state, key):
            state, _ = algorithm.step(key, state)
            return state, state.position

        return jax.lax.scan(step, algorithm.init(x), jax.random.split(key, num))[1]

    return jax.vmap(run)


def from_numpyro(logdensity, kind, step_size, metric, num):
    from numpyro.infer.hmc import hmc

    init, sample = hmc(lambda z: -logdensity(z), algo="NUTS" if kind == "NUTS" else "HMC")
    options = {} if kind == "NUTS" else {"num_steps": STEPS, "trajectory_length": None}

    def run(key, x):
        state = init(
            x, 0, step_size=step_size, inverse_mass_matrix=metric, adapt_step_size=False, adapt_mass_matrix=False,
            rng_key=key, **options,
        )  # fmt: skip

        def step(state, _):
            state = sample(state)
            return state, state.z

        return jax.lax.scan(step, state, None, length=num)[1]

    return jax.vmap(run)


def entries(target, tuned, chains) -> dict[tuple[str, str], Any]:
    """(algorithm, library) -> a maker of function(keys, x) -> draws [chains, num, d], each with a target of its own."""
    count = {kind: DRAWS[kind, chains] for kind in ("MALA", "HMC", "NUTS")}
    (mala, _), (hmc, hmc_metric), (nuts, nuts_metric) = (tuned[kind] for kind in ("MALA", "HMC", "NUTS"))
    best = lambda f: mcmc.HMC(f, hmc, metric=hmc_metric)
    fixed = lambda f: mcmc.HMC(f, hmc, STEPS * hmc, hmc_metric, jitter=False)
    makers = {
        ("MALA", "jsamp"): lambda: own(mcmc.MALA(target(), mala), count["MALA"]),
        ("MALA", "blackjax"): lambda: from_blackjax("mala", target(), (mala,), count["MALA"]),
        ("HMC", "jsamp"): lambda: own(fixed(target()), count["HMC"]),
        ("HMC", "blackjax"): lambda: from_blackjax(
            "hmc",
            target(),
            (
                hmc,
                hmc_metric,
                STEPS,
            ),
            count["HMC"],
        ),
        ("HMC", "numpyro"): lambda: from_numpyro(target(), "HMC", hmc, hmc_metric, count["HMC"]),
        ("NUTS", "jsamp"): lambda: own(mcmc.NUTS(target(), nuts, nuts_metric), count["NUTS"]),
        ("NUTS", "blackjax"): lambda: from_blackjax(
            "nuts",
            target(),
            (
                nuts,
                nuts_metric,
            ),
            count["NUTS"],
        ),
        ("NUTS", "numpyro"): lambda: from_numpyro(target(), "NUTS", nuts, nuts_metric, count["NUTS"]),
        ("default", "jsamp"): lambda: own(best(target()), count["HMC"]),
    }
    return here(makers)


def here(makers):
    return {entry: make for entry, make in makers.items() if entry[1] in ("jsamp", *PEERS)}


def warm_ups(target, x) -> dict[tuple[str, str], Any]:
    """(what, library) -> a maker of function(keys, x) that warms up the library's own default sampler."""

    def ours(kernel):
        def run(keys, x):
            tuned, last = mcmc.tune(keys[0], kernel(target()), x, WARMUP, chains=4)
            return tuned.step_size, last

        return run

    def blackjax_window():
        import blackjax

        warm: Any = blackjax.window_adaptation(blackjax.nuts, target())

        def run(keys, x):
            (state, parameters), _ = warm.run(keys[0], x[0], WARMUP)
            return parameters["step_size"], state.position

        return run

    def numpyro_warm():
        from numpyro.infer.hmc import hmc

        f = target()
        init, sample = hmc(lambda z: -f(z), algo="NUTS")

        def run(keys, x):
            state = init(x[0], WARMUP, rng_key=keys[0])
            state = jax.lax.fori_loop(0, WARMUP, lambda i, state: sample(state), state)
            return state.adapt_state.step_size, state.z

        return run

    makers = {
        ("tune HMC, 4 chains", "jsamp"): lambda: ours(mcmc.HMC),
        ("tune NUTS, 4 chains", "jsamp"): lambda: ours(mcmc.NUTS),
        ("window NUTS, 1 chain", "blackjax"): blackjax_window,
        ("warm-up NUTS, 1 chain", "numpyro"): numpyro_warm,
    }
    return here(makers)


def build(make, keys, x):
    """(trace seconds, compile seconds, the compiled program), with every cache of jax empty."""
    jax.clear_caches()
    function = make()
    t0 = time.process_time()
    lowered = jax.jit(function).lower(keys, x)
    t1 = time.process_time()
    program = lowered.compile()
    return t1 - t0, time.process_time() - t1, program


def stored_bytes(logdensity, x):
    """Bytes per draw that each library's own driver stores by default, for NUTS."""

    def size(tree):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    kept = jax.eval_shape(lambda key: mcmc.chain(key, mcmc.NUTS(logdensity), x, 1).x, jax.random.key(0))
    sizes = {"jsamp": size(kept)}
    if "blackjax" in PEERS:
        import blackjax

        algorithm = blackjax.nuts(logdensity, 0.1, jnp.ones(x.size))
        state = jax.eval_shape(algorithm.init, x)
        sizes["blackjax"] = size(jax.eval_shape(algorithm.step, jax.random.key(0), state))
    if "numpyro" in PEERS:
        sizes["numpyro"] = size(x)
    return sizes


def clocks():
    return np.array([time.process_time(), time.perf_counter()])


def seconds(program, key, chains, x, least):
    """(CPU, wall) seconds of one run, averaged over enough runs to take `least` wall seconds; and the last result."""
    keys = jax.random.split(key, chains)
    began = clocks()
    result = jax.block_until_ready(program(keys, x))
    times = max(1, math.ceil(least / max((clocks() - began)[1], 1e-5)))
    began = clocks()
    for _ in range(times):
        jax.block_until_ready(program(keys, x))
    return (clocks() - began) / times, result


def measure(makers, chains, start, options, builds):
    """Rows of medians: builds and runs of all libraries alternate."""
    names = ("trace", "compile", "cpu", "wall", "ess")
    rows: dict[Any, dict[str, Any]] = {entry: {name: [] for name in names} for entry in makers}
    programs = {}
    keys = jax.random.split(jax.random.key(1), chains)
    for _ in range(builds):
        for entry, make in makers.items():
            trace, compiled, programs[entry] = build(make, keys, start)
            rows[entry]["trace"].append(trace)
            rows[entry]["compile"].append(compiled)
    for i in range(options.repeats):
        for entry, program in programs.items():
            (cpu, wall), draws = seconds(program, jax.random.key(100 + i), chains, start, options.least)
            rows[entry]["cpu"].append(cpu)
            rows[entry]["wall"].append(wall)
            if not isinstance(draws, tuple):
                rows[entry]["ess"].append(float(jnp.min(estimate.ess(draws, "mean"))))
    for entry, row in rows.items():
        for name, values in row.items():
            row[name] = statistics.median(values) if values else math.nan
        print(*entry, {name: float(f"{value:.3g}") for name, value in row.items()}, flush=True)
    return rows


def tune(target, x):
    """Step size and metric of every algorithm, and starts; as plain arrays."""
    starts = 0.1 * jax.random.normal(jax.random.key(2), (4, x.size))
    hmc, starts = mcmc.tune(jax.random.key(3), mcmc.HMC(target()), starts, WARMUP, chains=4)
    mala, _ = mcmc.tune(jax.random.key(4), mcmc.MALA(target(), step_size=0.05), starts, 400, chains=4, metric=None)
    nuts = mcmc.NUTS(target(), hmc.step_size, hmc.metric)
    nuts, starts = mcmc.tune(jax.random.key(5), nuts, starts, 200, chains=4, metric=None)
    tuned = {"MALA": mala, "HMC": hmc, "NUTS": nuts}
    return {kind: (kernel.step_size, kernel.metric) for kind, kernel in tuned.items()}, starts


LABELS = {"default": "default against their default, NUTS", "": "default against their best of all"}


def ratios(results):
    """(target, chains, label, trace + compile, ESS per CPU second, per wall second), each over the better peer."""
    for (name, chains), rows in results.items():
        for kind, against in (("MALA",) * 2, ("HMC",) * 2, ("NUTS",) * 2, ("default", "NUTS"), ("default", "")):
            mine = rows[kind, "jsamp"]
            peers = [r for (a, b), r in rows.items() if b != "jsamp" and a.startswith(against)]
            if peers:
                begin = min(r["trace"] + r["compile"] for r in peers)
                label = LABELS["default" if against else ""] if kind == "default" else kind
                speed = [mine["ess"] / mine[c] / max(r["ess"] / r[c] for r in peers) for c in ("cpu", "wall")]
                yield name, chains, label, (mine["trace"] + mine["compile"]) / begin, *speed


def verdict(found):
    """Where a goal is missed, or a peer is ahead, in words."""
    missed = []
    for name, chains, label, begin, *speed in found:
        goal = 1.5 if label == LABELS["default"] else 1.0
        where = f"{name}, {chains} chains, {label}"
        if begin > 0.7 and label != LABELS[""]:
            missed.append(f"- {where}: trace + compile is {begin:.2f} of the better peer's (goal .7).")
        if min(speed) < goal:
            ahead = "the peer is ahead" if max(speed) < 1 else "short of the goal, or ahead on one clock only"
            missed.append(f"- {where}: min-ESS/s {speed[0]:.2f} by CPU, {speed[1]:.2f} by wall (goal {goal}): {ahead}.")
    return missed or ["Nowhere: every goal of the run is met on both clocks."]


def table(results, warmed, sizes):
    lines = [
        "| target | chains | algorithm | library | trace s | compile s | CPU ms | wall ms | min-ESS | "
        "min-ESS / CPU s | min-ESS / wall s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, chains), rows in results.items():
        for kind in SAME_CHAIN:
            pooled = statistics.mean(row["ess"] for (a, _), row in rows.items() if a == kind)
            for (a, _), row in rows.items():
                row["ess"] = pooled if a == kind else row["ess"]
        for (kind, library), row in rows.items():
            lines.append(
                f"| {name} | {chains} | {kind} | {library} | {row['trace']:.2f} | {row['compile']:.2f} | "
                f"{1e3 * row['cpu']:.2f} | {1e3 * row['wall']:.2f} | {row['ess']:.0f} | "
                f"{row['ess'] / row['cpu']:.3g} | {row['ess'] / row['wall']:.3g} |"
            )
    found = list(ratios(results))
    compared = [
        "",
        "| target | chains | algorithm | trace + compile / better peer | min-ESS / CPU s | min-ESS / wall s |",
        "|---|---|---|---|---|---|",
        *(f"| {a} | {b} | {c} | {d:.2f} | {e:.2f} | {f:.2f} |" for a, b, c, d, e, f in found),
        "",
        "Where a peer wins, or a goal is missed:",
        "",
        *verdict(found),
    ]
    warm = ["", f"Warm-up of {WARMUP} steps:", "", "| target | what | library | trace + compile s | CPU ms | wall ms |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    for name, rows in warmed.items():
        for (what, library), row in rows.items():
            begin = row["trace"] + row["compile"]
            warm.append(
                f"| {name} | {what} | {library} | {begin:.2f} | {1e3 * row['cpu']:.1f} | {1e3 * row['wall']:.1f} |"
            )
    stored = ["", "Bytes stored per NUTS draw by default: " + "; ".join(
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in each.items()) for name, each in sizes.items()
    ) + "."]  # fmt: skip
    return "\n".join([*lines, *compared, *warm, *stored])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--chains", nargs="+", type=int, default=[4, 64], choices=[4, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--builds", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.3, help="wall seconds per timed run")
    parser.add_argument("--minutes", type=float, default=12, help="start no further cell after this long")
    parser.add_argument("--note", default="", help="a sentence about the machine, for the head of the table")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.targets, options.chains = ["gauss100"], [4]
        options.repeats, options.builds, options.least = 3, 1, 0.1
    began, left = time.perf_counter(), []
    results, warmed, sizes = {}, {}, {}

    def late(what):
        if time.perf_counter() - began > 60 * options.minutes:
            left.append(what)
        return bool(left)

    for name in options.targets:
        if late(name):
            continue
        target = lambda name=name: TARGETS[name]()[0]
        logdensity, x = TARGETS[name]()
        tuned, starts = tune(target, x)
        sizes[name] = stored_bytes(logdensity, x)
        for chains in options.chains:
            if not late(f"{name} with {chains} chains"):
                start = starts[jnp.arange(chains) % 4]
                makers = entries(target, tuned, chains)
                results[name, chains] = measure(makers, chains, start, options, options.builds)
                write(results, warmed, sizes, left, options)
        if not late(f"warm-up on {name}"):
            first = 0.1 * jax.random.normal(jax.random.key(2), (4, x.size))
            warmed[name] = measure(warm_ups(target, x), 4, first, options, 1)
            write(results, warmed, sizes, left, options)
    print(write(results, warmed, sizes, left, options))


def write(results, warmed, sizes, left, options):
    from importlib.metadata import version

    beside = " and ".join(f"{name} {version(name)}" for name in PEERS) or "no other library (none is installed)"
    device = jax.devices()[0]
    machine = f"{os.cpu_count()} cores, CPU" if device.platform == "cpu" else f"{device.device_kind}"
    words = [options.note, *(f"{n} is not installed here." for n in ("blackjax", "numpyro") if n not in PEERS)]
    note = "".join(f"{each} " for each in words if each)
    head = (
        f"# MCMC kernels beside {beside}\n\n"
        f"`python benchmarks/mcmc_peers.py`, jax {jax.__version__}, {machine}, float32. {note}One run of everything, "
        f"libraries alternating; medians of {options.builds} builds and of {options.repeats} runs of at least "
        f"{options.least} s. The reference of a ratio is the better peer in that column; below 1 is faster to start, "
        f"above 1 is more effective draws. Load when the table was written: {os.getloadavg()[0]:.1f}.\n\n"
    )
    missing = f"\n\nNot measured, time was up: {', '.join(left)}." if left else ""
    text = head + table(results, warmed, sizes) + missing + "\n"
    if not options.quick:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    return text


if __name__ == "__main__":
    main()
