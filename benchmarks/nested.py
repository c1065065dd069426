"""Nested sampling: what it costs beyond its likelihood calls, and how many calls it needs beside blackjax.

    python benchmarks/nested.py

Overhead: a likelihood of one millisecond, compiled or on the host, in a run and in a bare compiled loop of as many
calls, in turns; medians. On the host it spins: one that sleeps takes 1.2 to 1.5 ms as the system wakes it, and that
drowns what is measured. Calls: both samplers with the same live points, deletions side by side and inner slices,
stopped at the same remaining evidence, on a Gaussian whose evidence is known.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import machine
import numpy as np

import jsamp as js

RESULTS = pathlib.Path(__file__).parent / "results" / "nested.md"
DIM, WIDTH, LIVE, DELETE, MOVES, STOP = 5, 0.1, 250, 25, 15, 1e-2
EXACT = DIM * math.log(math.sqrt(2 * math.pi) * WIDTH / 2)


def peak(x):
    """A Gaussian in the box [-1, 1]^5."""
    return -jnp.sum((x / WIDTH) ** 2) / 2


def on_host(x):
    """The same after a millisecond of the host."""

    def wait(x):
        until = time.thread_time() + 1e-3
        while time.thread_time() < until:
            pass
        return np.float32(-np.sum((np.asarray(x) / WIDTH) ** 2) / 2)

    return jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="sequential")


def compiled(turns):
    """The same after so many sines."""
    return lambda x: peak(x) + 1e-30 * jnp.sum(jax.lax.fori_loop(0, turns, lambda i, v: jnp.sin(v + x), x))


def bare(loglikelihood):
    """A compiled loop of calls that wait for one another, and its seconds for a number of them."""
    loop = jax.jit(lambda x, n: jax.lax.fori_loop(0, n, lambda i, s: s + loglikelihood(x + s * 0), jnp.float32(0)))
    return lambda calls: seconds(lambda: loop(jnp.full(DIM, 0.3), calls).block_until_ready())


def seconds(run):
    """Of the processor, in one run."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def a_millisecond():
    """A compiled likelihood of about a millisecond on this machine."""
    loop = bare(compiled(1000))
    loop(10)
    return compiled(max(1, round(1000 * 1e-3 / (loop(100) / 100))))


def overhead(loglikelihood, turns=5):
    """Calls of a run, and the medians of its seconds and of those of as many bare calls."""
    run = lambda seed: js.mcmc.nested(jax.random.key(seed), loglikelihood, box, 50, dim=DIM, max_steps=100).info
    loop, calls = bare(loglikelihood), run(0).nfe
    loop(1)
    pairs = [(seconds(lambda: run(0)), loop(calls)) for _ in range(turns)]
    return calls, *np.median(pairs, 0)


def box(u):
    """Uniform on the box."""
    return 2 * u - 1


def ours(seed):
    """Log-evidence and calls."""
    info = js.mcmc.nested(jax.random.key(seed), peak, box, LIVE, dim=DIM, delete=DELETE, moves=MOVES, stop=STOP).info
    return info.log_evidence.value, info.nfe


def theirs():
    """The same of blackjax's nested slice sampler, or None where it is absent; a lower bound of its calls."""
    try:
        import blackjax
        from blackjax.ns.utils import finalise, log_weights

        inside = lambda x: jnp.where(jnp.all(jnp.abs(x) <= 1), -DIM * math.log(2), -jnp.inf)
        sampler = blackjax.nss(inside, peak, num_inner_steps=MOVES, num_delete=DELETE)
    except (ImportError, AttributeError):
        return None
    init, step = jax.jit(sampler.init), jax.jit(sampler.step)

    def run(seed):
        key = jax.random.key(seed)
        state, dead = init(jax.random.uniform(key, (LIVE, DIM), minval=-1, maxval=1)), []
        top = lambda s: float(jnp.max(s.particles.loglikelihood) + s.integrator.logX)
        while np.logaddexp(float(state.integrator.logZ), top(state)) - float(state.integrator.logZ) > STOP:
            key, own = jax.random.split(key)
            state, info = step(own, state)
            dead.append(info)
        calls = sum(int(jnp.sum(d.update_info.num_expansions + d.update_info.num_shrink)) for d in dead) + LIVE
        weights = log_weights(key, finalise(state, dead), shape=100)
        return float(jnp.mean(jax.nn.logsumexp(weights, axis=0))), calls

    return run


def main():
    """Write the two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    lines = [
        "# Nested sampling",
        "",
        f"`python benchmarks/nested.py`, {machine.describe()}, load {os.getloadavg()[0]:.1f}; "
        "seconds of the processor.",
        "",
        "| likelihood of 1 ms | calls | run s | the calls alone s | beyond them |",
        "|---|---|---|---|---|",
    ]
    for name, loglikelihood in (("compiled", a_millisecond()), ("on the host", on_host)):
        calls, ran, alone = overhead(loglikelihood)
        lines.append(f"| {name} | {calls} | {ran:.3f} | {alone:.3f} | {ran / alone - 1:+.1%} |")
    calls, ran, alone = overhead(peak)
    lines += [
        f"\nA likelihood that costs nothing takes {ran / calls * 1e6:.1f} microseconds a call, all included.",
        f"\nA Gaussian of width {WIDTH} in [-1, 1]^{DIM}: {LIVE} live points, {DELETE} deleted at once, {MOVES} slices,"
        f" {options.runs} runs each. The calls of blackjax are a lower bound: chains that wait are not counted.",
        "\n| sampler | calls | mean error of log Z | spread | calls x mean square error | s a run |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in (("jsamp", ours), ("blackjax", theirs())):
        if run is not None:
            run(options.runs)
            begun = time.process_time()
            found = np.array([run(seed) for seed in range(options.runs)])
            took, calls = (time.process_time() - begun) / options.runs, found[:, 1].mean()
            error = found[:, 0] - EXACT
            spread = error.std(ddof=1)
            off = spread / math.sqrt(options.runs)
            lines.append(
                f"| {name} | {calls:.0f} | {error.mean():+.3f} +- {off:.3f} | {spread:.3f} |"
                f" {calls * np.mean(error**2):.0f} | {took:.2f} |"
            )
    options.out.write_text("\n".join(lines) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
