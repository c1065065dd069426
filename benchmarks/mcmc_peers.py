"""MCMC kernels beside blackjax and numpyro: time to trace, compile, warm up and run, effective draws per second.

Three targets (a 100-d Gaussian with condition number 1000, a 10-d non-centred hierarchical model, a 31-d logistic
regression on the breast-cancer data), 4 and 64 chains. Shared algorithms run with the same step size and metric in
every library, tuned once by `mcmc.tune`, so the figures compare implementations; "default" is our recommendation, tuned
HMC with quasi-random lengths. Every entry is one jitted scan over vmapped chains that stores positions, compiled ahead
of time; each is traced and compiled afresh several times, and runs of at least half a second alternate between the
libraries, with a new key each time. Medians; seconds are CPU seconds of the process, so that other work on the machine
changes them little. MALA and fixed-length HMC are the same Markov chain in every library: their effective size per draw
is pooled, and the ratio is that of draws per second.

    python benchmarks/mcmc_peers.py            (all of it, about 15 minutes on a quiet machine)
    python benchmarks/mcmc_peers.py --quick    (one target, 4 chains, short runs, nothing written)
"""

from __future__ import annotations

import argparse
import math
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


def from_blackjax(algorithm, num):
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
    import blackjax

    count = {kind: DRAWS[kind, chains] for kind in ("MALA", "HMC", "NUTS")}
    (mala, _), (hmc, hmc_metric), (nuts, nuts_metric) = (tuned[kind] for kind in ("MALA", "HMC", "NUTS"))
    best = lambda f: mcmc.HMC(f, hmc, metric=hmc_metric)  # noqa: E731
    fixed = lambda f: mcmc.HMC(f, hmc, STEPS * hmc, hmc_metric, jitter=False)  # noqa: E731
    return {
        ("MALA", "jsamp"): lambda: own(mcmc.MALA(target(), mala), count["MALA"]),
        ("MALA", "blackjax"): lambda: from_blackjax(blackjax.mala(target(), mala), count["MALA"]),
        ("HMC", "jsamp"): lambda: own(fixed(target()), count["HMC"]),
        ("HMC", "blackjax"): lambda: from_blackjax(blackjax.hmc(target(), hmc, hmc_metric, STEPS), count["HMC"]),
        ("HMC", "numpyro"): lambda: from_numpyro(target(), "HMC", hmc, hmc_metric, count["HMC"]),
        ("NUTS", "jsamp"): lambda: own(mcmc.NUTS(target(), nuts, nuts_metric), count["NUTS"]),
        ("NUTS", "blackjax"): lambda: from_blackjax(blackjax.nuts(target(), nuts, nuts_metric), count["NUTS"]),
        ("NUTS", "numpyro"): lambda: from_numpyro(target(), "NUTS", nuts, nuts_metric, count["NUTS"]),
        ("default", "jsamp"): lambda: own(best(target()), count["HMC"]),
    }


def warm_ups(target, x) -> dict[tuple[str, str], Any]:
    """(what, library) -> a maker of function(keys, x) that warms up the library's own default sampler."""
    import blackjax
    from numpyro.infer.hmc import hmc

    def ours(kernel):
        def run(keys, x):
            tuned, last = mcmc.tune(keys[0], kernel(target()), x, WARMUP, chains=4)
            return tuned.step_size, last

        return run

    def blackjax_window():
        warm: Any = blackjax.window_adaptation(blackjax.nuts, target())

        def run(keys, x):
            (state, parameters), _ = warm.run(keys[0], x[0], WARMUP)
            return parameters["step_size"], state.position

        return run

    def numpyro_warm():
        f = target()
        init, sample = hmc(lambda z: -f(z), algo="NUTS")

        def run(keys, x):
            state = init(x[0], WARMUP, rng_key=keys[0])
            state = jax.lax.fori_loop(0, WARMUP, lambda i, state: sample(state), state)
            return state.adapt_state.step_size, state.z

        return run

    return {
        ("tune HMC, 4 chains", "jsamp"): lambda: ours(mcmc.HMC),
        ("tune NUTS, 4 chains", "jsamp"): lambda: ours(mcmc.NUTS),
        ("window NUTS, 1 chain", "blackjax"): blackjax_window,
        ("warm-up NUTS, 1 chain", "numpyro"): numpyro_warm,
    }


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
    import blackjax

    def size(tree):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    algorithm = blackjax.nuts(logdensity, 0.1, jnp.ones(x.size))
    state = jax.eval_shape(algorithm.init, x)
    both = jax.eval_shape(algorithm.step, jax.random.key(0), state)
    kept = jax.eval_shape(lambda key: mcmc.chain(key, mcmc.NUTS(logdensity), x, 1).x, jax.random.key(0))
    return {"jsamp": size(kept), "blackjax": size(both), "numpyro": size(x)}


def seconds(program, key, chains, x, least):
    """CPU seconds of one run, averaged over enough runs to take `least` of them; and the last result."""
    keys = jax.random.split(key, chains)
    t = time.process_time()
    result = jax.block_until_ready(program(keys, x))
    once = time.process_time() - t
    times = max(1, math.ceil(least / max(once, 1e-5)))
    t = time.process_time()
    for _ in range(times):
        jax.block_until_ready(program(keys, x))
    return (time.process_time() - t) / times, result


def measure(makers, chains, start, options):
    """Rows of medians: builds and runs of all libraries alternate."""
    rows: dict[Any, dict[str, Any]] = {entry: {"trace": [], "compile": [], "runs": [], "ess": []} for entry in makers}
    programs = {}
    keys = jax.random.split(jax.random.key(1), chains)
    for _ in range(options.builds):
        for entry, make in makers.items():
            trace, compiled, programs[entry] = build(make, keys, start)
            rows[entry]["trace"].append(trace)
            rows[entry]["compile"].append(compiled)
    for i in range(options.repeats):
        for entry, program in programs.items():
            spent, draws = seconds(program, jax.random.key(100 + i), chains, start, options.least)
            rows[entry]["runs"].append(spent)
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


def table(results, warmed, sizes):
    lines = [
        "| target | chains | algorithm | library | trace s | compile s | run ms | min-ESS | min-ESS/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = [
        "",
        "| target | chains | algorithm | trace + compile / better peer | min-ESS/s / better peer |",
        "|---|---|---|---|---|",
    ]
    for (name, chains), rows in results.items():
        for kind in SAME_CHAIN:
            pooled = statistics.mean(row["ess"] for (a, _), row in rows.items() if a == kind)
            for (a, _), row in rows.items():
                row["ess"] = pooled if a == kind else row["ess"]
        for (kind, library), row in rows.items():
            row["rate"] = row["ess"] / row["runs"]
            lines.append(
                f"| {name} | {chains} | {kind} | {library} | {row['trace']:.2f} | {row['compile']:.2f} | "
                f"{1e3 * row['runs']:.2f} | {row['ess']:.0f} | {row['rate']:.3g} |"
            )
        for kind, against in (("MALA",) * 2, ("HMC",) * 2, ("NUTS",) * 2, ("default", "NUTS"), ("default", "")):
            mine = rows[kind, "jsamp"]
            peers = [r for (a, b), r in rows.items() if b != "jsamp" and a.startswith(against)]
            start = min(r["trace"] + r["compile"] for r in peers)
            label = {"default": "default against " + ("their default, NUTS" if against else "their best of all")}
            ratios.append(
                f"| {name} | {chains} | {label.get(kind, kind)} | {(mine['trace'] + mine['compile']) / start:.2f} | "
                f"{mine['rate'] / max(r['rate'] for r in peers):.2f} |"
            )
    warm = ["", f"Warm-up of {WARMUP} steps:", "", "| target | what | library | trace + compile s | run ms |",
            "|---|---|---|---|---|"]  # fmt: skip
    for name, rows in warmed.items():
        for (what, library), row in rows.items():
            warm.append(
                f"| {name} | {what} | {library} | {row['trace'] + row['compile']:.2f} | {1e3 * row['runs']:.1f} |"
            )
    stored = ["", "Bytes stored per NUTS draw by default: " + "; ".join(
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in each.items()) for name, each in sizes.items()
    ) + "."]  # fmt: skip
    return "\n".join([*lines, *ratios, *warm, *stored])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--chains", nargs="+", type=int, default=[4, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--builds", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.5, help="CPU seconds per timed run")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.targets, options.chains = ["gauss100"], [4]
        options.repeats, options.builds, options.least = 3, 1, 0.1
    results, warmed, sizes = {}, {}, {}
    for name in options.targets:
        target = lambda name=name: TARGETS[name]()[0]  # noqa: E731
        logdensity, x = TARGETS[name]()
        tuned, starts = tune(target, x)
        sizes[name] = stored_bytes(logdensity, x)
        warmed[name] = measure(warm_ups(target, x), 4, 0.1 * jax.random.normal(jax.random.key(2), (4, x.size)), options)
        for chains in options.chains:
            start = starts[jnp.arange(chains) % 4]
            results[name, chains] = measure(entries(target, tuned, chains), chains, start, options)
        write(results, warmed, sizes, options)


def write(results, warmed, sizes, options):
    import blackjax
    import numpyro

    head = (
        f"# MCMC kernels beside blackjax {blackjax.__version__} and numpyro {numpyro.__version__}\n\n"
        f"`python benchmarks/mcmc_peers.py`, jax {jax.__version__}, 2 cores, Intel Xeon, CPU, float32; CPU seconds of "
        f"the process; one run of everything, libraries alternating; medians of {options.builds} builds and of "
        f"{options.repeats} runs of at least {options.least} s. The reference of a ratio is the better peer in that "
        f"column; below 1 is faster to start, above 1 is more effective draws.\n\n"
    )
    text = head + table(results, warmed, sizes) + "\n"
    print(text)
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
