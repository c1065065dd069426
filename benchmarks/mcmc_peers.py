"""MCMC kernels beside blackjax and numpyro: time to trace, compile and run, effective draws per second, bytes stored.

Three targets (a 100-d Gaussian with condition number 1000, a 10-d non-centred hierarchical model, a 31-d logistic
regression on the breast-cancer data), 4 and 64 chains. Shared algorithms run with the same step size and metric in
every library, tuned once by `mcmc.tune`, so the figures compare implementations; "jsamp default" is our
recommendation, tuned HMC with quasi-random lengths. Every entry is one jitted scan over vmapped chains that stores
positions, compiled ahead of time; runs alternate between libraries and the median is taken. Seconds are CPU seconds of
the process, so that other work on the machine changes them little.
"""

from __future__ import annotations

import argparse
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
DRAWS = {("MALA", 4): 1000, ("MALA", 64): 200, ("HMC", 4): 400, ("HMC", 64): 100, ("NUTS", 4): 250, ("NUTS", 64): 60}


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

    data = load_breast_cancer()
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


def entries(logdensity, tuned, chains) -> dict[tuple[str, str], Any]:
    """(algorithm, library) -> function(keys, x) -> draws [chains, num, d]."""
    import blackjax

    mala, hmc, nuts, best = tuned["MALA"], tuned["HMC"], tuned["NUTS"], tuned["default"]
    count = {kind: DRAWS[kind, chains] for kind in ("MALA", "HMC", "NUTS")}
    fixed = mcmc.HMC(logdensity, hmc.step_size, STEPS * hmc.step_size, hmc.metric, jitter=False)
    bj_hmc = blackjax.hmc(logdensity, hmc.step_size, hmc.metric, STEPS)
    return {
        ("MALA", "jsamp"): own(mala, count["MALA"]),
        ("MALA", "blackjax"): from_blackjax(blackjax.mala(logdensity, mala.step_size), count["MALA"]),
        ("HMC", "jsamp"): own(fixed, count["HMC"]),
        ("HMC", "blackjax"): from_blackjax(bj_hmc, count["HMC"]),
        ("HMC", "numpyro"): from_numpyro(logdensity, "HMC", hmc.step_size, hmc.metric, count["HMC"]),
        ("NUTS", "jsamp"): own(nuts, count["NUTS"]),
        ("NUTS", "blackjax"): from_blackjax(blackjax.nuts(logdensity, nuts.step_size, nuts.metric), count["NUTS"]),
        ("NUTS", "numpyro"): from_numpyro(logdensity, "NUTS", nuts.step_size, nuts.metric, count["NUTS"]),
        ("default", "jsamp"): own(best, count["HMC"]),
    }


def build(function, keys, x):
    """(trace seconds, compile seconds, the compiled program)."""
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


def measure(name, chains, repeats, tuned, logdensity, x):
    programs, rows = {}, {}
    keys = jax.random.split(jax.random.key(1), chains)
    for entry, function in entries(logdensity, tuned, chains).items():
        start = tuned["starts"][jnp.arange(chains) % tuned["starts"].shape[0]]
        trace, build_time, program = build(function, keys, start)
        programs[entry] = (program, start)
        rows[entry] = {"trace": trace, "compile": build_time, "runs": []}
        draws = jax.block_until_ready(program(keys, start))
        rows[entry]["ess"] = float(jnp.min(estimate.ess(draws, "mean")))
        print(
            name, chains, *entry, f"trace {trace:.2f} compile {build_time:.2f} ess {rows[entry]['ess']:.0f}", flush=True
        )
    for _ in range(repeats):
        for entry, (program, start) in programs.items():
            t = time.process_time()
            jax.block_until_ready(program(keys, start))
            rows[entry]["runs"].append(time.process_time() - t)
    return rows


def tune(logdensity, x):
    starts = 0.1 * jax.random.normal(jax.random.key(2), (4, x.size))
    tuned = {}
    tuned["default"], starts = mcmc.tune(jax.random.key(3), mcmc.HMC(logdensity), starts, 600, chains=4)
    tuned["HMC"] = tuned["default"]
    plain = mcmc.MALA(logdensity, step_size=0.05)
    tuned["MALA"], _ = mcmc.tune(jax.random.key(4), plain, starts, 400, chains=4, metric=None)
    nuts = mcmc.NUTS(logdensity, tuned["HMC"].step_size, tuned["HMC"].metric)
    tuned["NUTS"], starts = mcmc.tune(jax.random.key(5), nuts, starts, 200, chains=4, metric=None)
    return {**tuned, "starts": starts}


def table(results, sizes):
    lines = [
        "| target | chains | algorithm | library | trace CPU s | compile CPU s | run CPU s | min-ESS | min-ESS/CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = [
        "",
        "| target | chains | algorithm | trace + compile / better peer | min-ESS/s / better peer |",
        "|---|---|---|---|---|",
    ]
    for (name, chains), rows in results.items():
        for (kind, library), row in rows.items():
            row["run"] = statistics.median(row["runs"])
            row["rate"] = row["ess"] / row["run"]
            lines.append(
                f"| {name} | {chains} | {kind} | {library} | {row['trace']:.2f} | {row['compile']:.2f} | "
                f"{row['run']:.3f} | {row['ess']:.0f} | {row['rate']:.3g} |"
            )
        for kind in ("MALA", "HMC", "NUTS", "default"):
            mine = rows[kind, "jsamp"]
            against = [r for (a, b), r in rows.items() if b != "jsamp" and (a == kind or kind == "default")]
            start = min(r["trace"] + r["compile"] for r in against)
            ratios.append(
                f"| {name} | {chains} | {kind} | {(mine['trace'] + mine['compile']) / start:.2f} | "
                f"{mine['rate'] / max(r['rate'] for r in against):.2f} |"
            )
    sizes = ["", "Bytes stored per NUTS draw by default: " + "; ".join(
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in each.items()) for name, each in sizes.items()
    ) + "."]  # fmt: skip
    return "\n".join([*lines, *ratios, *sizes])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--chains", nargs="+", type=int, default=[4, 64])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    results, sizes, prepared = {}, {}, {}
    for chains in options.chains:
        for name in options.targets:
            if name not in prepared:
                logdensity, x = TARGETS[name]()
                prepared[name] = tune(logdensity, x), logdensity, x
                sizes[name] = stored_bytes(logdensity, x)
            results[name, chains] = measure(name, chains, options.repeats, *prepared[name])
            write(results, sizes, options.repeats)


def write(results, sizes, repeats):
    import blackjax
    import numpyro

    head = (
        f"# MCMC kernels beside blackjax {blackjax.__version__} and numpyro {numpyro.__version__}\n\n"
        f"`python benchmarks/mcmc_peers.py`, jax {jax.__version__}, 2 cores, Intel Xeon, CPU, float32; CPU seconds of "
        f"the process (the machine was shared while it ran); one run, median of {repeats} alternating repeats. The "
        f"reference of a ratio is the peers' best entry of the same algorithm; for `default` their best of all.\n\n"
    )
    text = head + table(results, sizes) + "\n"
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
