"""Bayesian logistic regression on the breast-cancer data: a numpyro model, sampled and diagnosed with jsamp.

Four chains of quasi-random-length HMC, tuned together; R-hat, effective sizes and E-BFMI; trace and pair pictures;
and the accuracy on held-out patients, averaged over the posterior.

    python examples/bayesian_logistic.py --out logistic.png
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import jsamp as js

CHAINS = 4


def data():
    from sklearn.datasets import load_breast_cancer

    found: Any = load_breast_cancer()
    x = (found.data - found.data.mean(0)) / found.data.std(0)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = jnp.asarray(x[order], jnp.float32), jnp.asarray(found.target[order], jnp.float32)
    return x[:400], y[:400], x[400:], y[400:], [str(name) for name in found.feature_names]


def model(x, y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    bias = numpyro.sample("bias", dist.Normal(0.0, 2.0))
    weight = numpyro.sample("weight", dist.Normal(0.0, scale).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ weight + bias), obs=y)


def main(num=1000, warmup=600, out=None):
    x, y, x_test, y_test, names = data()
    target = js.mcmc.from_numpyro(model, x, y)  # log-density over unconstrained sites; the data are its leaves
    starts = jax.tree.map(lambda leaf: jnp.stack([leaf] * CHAINS), target.x)

    key_tune, key_run = jax.random.split(jax.random.key(0))
    kernel, starts = js.mcmc.tune(key_tune, js.mcmc.HMC(target.logdensity), starts, warmup, chains=CHAINS)

    def run(key, start):
        return js.mcmc.chain(key, kernel, start, num, keep=lambda s, i: (s.position, i.aux.energy, i.diverged))

    (draws, energy, diverged), info = jax.vmap(run)(jax.random.split(key_run, CHAINS), starts)
    sites = jax.vmap(jax.vmap(target.constrain))(draws)

    rhat, size = js.estimate.rhat(sites), js.estimate.ess(sites)
    worst = max(float(jnp.max(leaf)) for leaf in jax.tree.leaves(rhat))
    least = min(float(jnp.min(leaf)) for leaf in jax.tree.leaves(size))
    logits = jnp.einsum("nd,csd->csn", x_test, sites["weight"], precision="highest") + sites["bias"][..., None]
    chance = jnp.mean(jax.nn.sigmoid(logits), axis=(0, 1))
    accuracy = float(jnp.mean((chance > 0.5) == (y_test > 0.5)))

    print(f"step size {float(kernel.step_size):.3f}, acceptance {float(jnp.mean(info.accept)):.2f}, "
          f"gradients {int(jnp.sum(info.nfe))}, divergences {int(jnp.sum(diverged))}")  # fmt: skip
    print(f"worst R-hat {worst:.4f}, smallest ESS {least:.0f} of {CHAINS * num}, "
          f"E-BFMI {[round(float(one), 2) for one in js.estimate.ebfmi(energy)]}")  # fmt: skip
    print(f"held-out accuracy {accuracy:.3f} on {len(y_test)} patients")
    mean = js.estimate.mean(sites["weight"])
    for i in np.argsort(-np.abs(np.asarray(mean.value)))[:5]:
        print(f"  {names[i]:24s} {float(mean.value[i]):+.3f} +- {float(mean.stderr[i]):.3f} (Monte Carlo)")
    if out is not None:
        picture(out, sites, names, np.argsort(-np.abs(np.asarray(mean.value)))[:2])
    return {"rhat": worst, "ess": least, "accuracy": accuracy}


def picture(path, sites, names, chosen):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series = {"scale": sites["scale"], **{names[i]: sites["weight"][..., i] for i in chosen}}
    draws = np.stack([np.asarray(v) for v in series.values()], axis=-1)[:, ::5]
    axes = js.plot.chains(draws, list(series))
    fig = axes[0, 0].figure
    fig.suptitle("Posterior of the prior's scale and two coefficients, every fifth draw")
    fig.savefig(path, dpi=66)
    plt.close(fig)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=600)
    parser.add_argument("--out", default="bayesian_logistic.png")
    main(**vars(parser.parse_args()))
