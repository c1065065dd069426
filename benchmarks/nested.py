"""Nested sampling: what it costs beyond its likelihood calls, and how many calls it needs beside blackjax.

    python benchmarks/nested.py --out benchmarks/results/nested.txt

Overhead: a likelihood that sleeps one millisecond on the host, beside as many sleeps. Calls: both samplers with the
same live points, deletions side by side and inner slices, stopped at the same remaining evidence; the spread over runs.
"""

from __future__ import annotations

import argparse
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

DIM, WIDTH, LIVE, DELETE, MOVES, STOP = 5, 0.1, 250, 25, 15, 1e-2
EXACT = DIM * math.log(math.sqrt(2 * math.pi) * WIDTH / 2)


def peak(x):
    """A Gaussian in the box [-1, 1]^5."""
    return -jnp.sum((x / WIDTH) ** 2) / 2


def slow(x):
    """The same after a millisecond."""

    def wait(x):
        time.sleep(1e-3)
        return np.float32(-np.sum((np.asarray(x) / WIDTH) ** 2) / 2)

    return jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="sequential")


def box(u):
    """Uniform on the box."""
    return 2 * u - 1


def overhead():
    """Seconds of a run on the slow likelihood, compiled before, and of as many bare sleeps in a compiled loop."""
    run = lambda seed: js.mcmc.nested(jax.random.key(seed), slow, box, 50, dim=DIM, max_steps=100).info
    run(1)  # the report is compiled for the number of draws
    begun = time.perf_counter()
    info = run(0)
    seconds = time.perf_counter() - begun
    calls = jax.jit(lambda x, n: jax.lax.fori_loop(0, n, lambda i, s: s + slow(x + s * 0), jnp.float32(0)))
    calls(jnp.zeros(DIM), 1).block_until_ready()
    begun = time.perf_counter()
    calls(jnp.zeros(DIM), info.nfe).block_until_ready()
    return info.nfe, seconds, time.perf_counter() - begun


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
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    calls, seconds, bare = overhead()
    lines = [
        f"{calls} calls of 1 ms: {seconds:.2f} s; the calls alone {bare:.2f} s; beyond them {seconds / bare - 1:+.1%}"
    ]
    for name, run in (("jsamp", ours), ("blackjax", theirs())):
        if run is not None:
            found = np.array([run(seed) for seed in range(options.runs)])
            error = found[:, 0] - EXACT
            lines.append(
                f"{name:9} calls {found[:, 1].mean():9.0f}  log Z off by {error.mean():+.3f}, "
                f"spread {error.std(ddof=1):.3f}"
                f" over {options.runs} runs; calls x mean square error {found[:, 1].mean() * np.mean(error**2):.0f}"
            )
    print("\n".join(lines))
    if options.out:
        with open(options.out, "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
