"""Samplers beside blackjax: CPU seconds and quality. Kernel subsets are in clusters.py.

python benchmarks/samplers.py [--quick]

CPU seconds of a second call, after compilation, since wall clocks of a shared machine say little. Peers that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import time

import jax
import jax.numpy as jnp
import machine
import numpy as np

import jsamp as js

KEY = jax.random.key(0)


def seconds(call, times=3):
    """The least CPU seconds of a call after a first one, and its value."""
    value = jax.block_until_ready(call())
    best = np.inf
    for _ in range(times):
        start = time.process_time()
        jax.block_until_ready(call())
        best = min(best, time.process_time() - start)
    return best, value


def report(name, ours, theirs, quality=""):
    """Print one line of the table."""
    ratio = "" if theirs is None else f"{theirs / ours:6.2f}"
    print(
        f"| {name} | {1000 * ours:.1f} | {'' if theirs is None else f'{1000 * theirs:.1f}'} | {ratio} | {quality} |",
        flush=True,
    )


def correlated(d):
    """A correlated normal: its log-density and covariance."""
    factor = np.random.default_rng(0).normal(size=(d, d))
    covariance = factor @ factor.T / d + 0.1 * np.eye(d)
    precision = jnp.asarray(np.linalg.inv(covariance), jnp.float32)
    return lambda x: -0.5 * x @ precision @ x, covariance


def pathfinder(blackjax):
    """Eight paths on a correlated normal of 20 dimensions: time and evidence lower bound."""
    target, covariance = correlated(20)
    starts = 5 * jax.random.normal(KEY, (8, 20))
    run = lambda: js.mcmc.pathfinder(KEY, target, starts, 100, paths=8, memory=10, elbo_draws=200).info.elbo
    ours, elbo = seconds(run)
    truth = np.linalg.slogdet(2 * np.pi * covariance)[1] / 2
    theirs, other = None, None
    if blackjax:
        one = lambda key, x: blackjax.pathfinder(target).init(key, x, num_samples=200)[0].elbo
        peer = jax.jit(jax.vmap(one))
        theirs, other = seconds(lambda: peer(jax.random.split(KEY, 8), starts))
    gap = f"nats below the evidence {truth - float(elbo.mean()):.2f}"
    report(
        "pathfinder, 8 paths, d = 20",
        ours,
        theirs,
        gap + (f", peer {truth - float(other.mean()):.2f}" if blackjax else ""),
    )


def svgd(blackjax, num):
    """100 steps of particles in 10 dimensions."""
    target = lambda x: -jnp.sum((x - 1) ** 2) / 2
    x = 2 * jax.random.normal(KEY, (num, 10))
    kernel = js.mcmc.SVGD(target, step_size=0.3, bandwidth=5.0, scaled=False)
    ours, end = seconds(lambda: js.chain(KEY, kernel, x, 1, thin=100).x[0])
    theirs, other = None, None
    if blackjax:
        import optax

        peer = blackjax.vi.svgd.build_kernel(optax.sgd(0.3))
        start = blackjax.svgd(jax.grad(target), optax.sgd(0.3)).init(x, {"length_scale": 5.0})
        step = lambda state, _: (peer(state, jax.grad(target), blackjax.vi.svgd.rbf_kernel), None)
        run = jax.jit(lambda state: jax.lax.scan(step, state, None, length=100)[0].particles)
        theirs, other = seconds(lambda: run(start))
    same = f"largest difference {float(abs(end - other).max()):.1e}" if blackjax else ""
    report(f"SVGD, 100 steps of {num} particles, d = 10", ours, theirs, same)


def adjusted(blackjax, num):
    """Microcanonical trajectories of four steps with acceptance, 16 chains, d = 50."""
    scale = jnp.geomspace(0.5, 2.0, 50)
    target = lambda x: -jnp.sum((x / scale) ** 2) / 2
    x = scale * jax.random.normal(KEY, (16, 50))
    kernel = js.mcmc.MAMS(target, step_size=2.0, length=8.0, jitter=False)
    ours, draws = seconds(lambda: js.chains(KEY, kernel, x, num).x)
    quality = f"least ESS {float(js.estimate.ess(draws).min()):.0f}"
    theirs = None
    if blackjax:
        algorithm = blackjax.adjusted_mclmc(target, step_size=2.0, num_integration_steps=4)

        def chain(key, x):
            step = lambda state, key: (lambda new: (new[0], new[0].position))(algorithm.step(key, state))
            return jax.lax.scan(step, algorithm.init(x, key), jax.random.split(key, num))[1]

        run = jax.jit(jax.vmap(chain))
        theirs, other = seconds(lambda: run(jax.random.split(KEY, 16), x))
        quality += f", peer {float(js.estimate.ess(other).min()):.0f}"
    report(f"MAMS, 16 chains of {num} draws, d = 50", ours, theirs, quality)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    blackjax = __import__("blackjax") if importlib.util.find_spec("blackjax") else None
    print(machine.describe())
    print("| what | jsamp, CPU ms | peer, CPU ms | peer / jsamp | quality |")
    print("|---|---|---|---|---|")
    pathfinder(blackjax)
    svgd(blackjax, 100 if quick else 300)
    adjusted(blackjax, 200 if quick else 1000)


if __name__ == "__main__":
    main()
