"""Real posteriors with reference draws: tuned NUTS and the recommended default beside numpyro and blackjax.

Models of stan-dev/posteriordb, written once as log-densities over unconstrained numbers that every library gets. Each
runs several chains, warm-up first, in float64. Per model and library: the largest error of a posterior mean and of a
posterior standard deviation, in units of the reference's standard deviation; the largest R-hat; gradient evaluations of
the sampling phase, and of warm-up and sampling together; the smallest effective size per 1,000 gradients; and wall
seconds of everything, compilation included.
"default" is the kernel that the package recommends for many chains: tuned HMC with quasi-random lengths.

The references are read from a file beside the repository, which is not part of it: without it there is nothing to do.

    python benchmarks/posteriors.py                         (all models and libraries, 4 chains of 1,000 + 1,000)
    python benchmarks/posteriors.py --models nes --draws 200 --warm 200
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

REFERENCES = pathlib.Path(__file__).resolve().parents[2] / "shared" / "golden" / "posteriors.json"
RESULTS = pathlib.Path(__file__).parent / "results" / "posteriors.md"
PEERS = tuple(name for name in ("numpyro", "blackjax") if importlib.util.find_spec(name))


def normal(x, mean=0.0, sd=1.0):
    return jnp.sum(-(((x - mean) / sd) ** 2) / 2 - jnp.log(sd * jnp.ones_like(x)))


def eight_schools(data):
    """Non-centred: z ~ N(0, 1), mu ~ N(0, 5), tau ~ half-Cauchy(5), theta = mu + tau z."""
    y, sigma = jnp.asarray(data["y"], float), jnp.asarray(data["sigma"], float)

    def sites(u):
        tau = jnp.exp(u["log_tau"])
        return jnp.concatenate([u["mu"] + tau * u["z"], jnp.stack([u["mu"], tau])])

    def logdensity(u):
        tau = jnp.exp(u["log_tau"])
        prior = normal(u["z"]) + normal(u["mu"], 0, 5.0) - jnp.log1p((tau / 5) ** 2) + u["log_tau"]
        return prior + normal(y, u["mu"] + tau * u["z"], sigma)

    return logdensity, sites, {"z": jnp.zeros(8), "mu": jnp.zeros(()), "log_tau": jnp.zeros(())}


def gauss_mix(data):
    """Two components: ordered mu ~ N(0, 2), sigma ~ half-N(2), theta ~ Beta(5, 5)."""
    y = jnp.asarray(data["y"], float)

    def sites(u):
        mu = jnp.stack([u["first"], u["first"] + jnp.exp(u["log_gap"])])
        return jnp.concatenate([mu, jnp.exp(u["log_sigma"]), jax.nn.sigmoid(u["logit"])[None]])

    def logdensity(u):
        mu, sigma, theta = sites(u)[:2], jnp.exp(u["log_sigma"]), jax.nn.sigmoid(u["logit"])
        prior = normal(mu, 0, 2.0) + u["log_gap"] - jnp.sum(sigma**2) / 8 + jnp.sum(u["log_sigma"])
        prior = prior + 5 * jax.nn.log_sigmoid(u["logit"]) + 5 * jax.nn.log_sigmoid(-u["logit"])
        parts = -(((y[:, None] - mu) / sigma) ** 2) / 2 - jnp.log(sigma)
        return prior + jnp.sum(jax.nn.logsumexp(parts + jnp.log(jnp.stack([theta, 1 - theta])), axis=1))

    zero = jnp.zeros(())
    return logdensity, sites, {"first": zero - 1, "log_gap": zero, "log_sigma": jnp.zeros(2), "logit": zero}


def regression(x, y, prior):
    """Linear regression: coefficients and log sigma; `prior(beta, sigma)`."""

    def sites(u):
        return jnp.concatenate([u["beta"], jnp.exp(u["log_sigma"])[None]])

    def logdensity(u):
        sigma = jnp.exp(u["log_sigma"])
        rest = y - jnp.sum(x * u["beta"], axis=1)
        return prior(u["beta"], sigma) + u["log_sigma"] + normal(rest, 0, sigma)

    return logdensity, sites, {"beta": jnp.zeros(x.shape[1]), "log_sigma": jnp.zeros(())}


def blr(data):
    """Beta ~ N(0, 10), sigma ~ half-N(10)."""
    x, y = jnp.asarray(data["X"], float), jnp.asarray(data["y"], float)
    return regression(x, y, lambda beta, sigma: normal(beta, 0, 10.0) - sigma**2 / 200)


def nes(data):
    """Flat beta on (1, ideology, race, three age groups, education, gender, income), flat sigma > 0."""
    age = np.asarray(data["age_discrete"])
    columns = [np.ones(len(age)), data["real_ideo"], data["race_adj"], age == 2, age == 3, age == 4]
    columns += [data["educ1"], data["gender"], data["income"]]
    x = jnp.asarray(np.stack([np.asarray(c, float) for c in columns], axis=1))
    return regression(x, jnp.asarray(data["partyid7"], float), lambda beta, sigma: 0.0)


MODELS = {"eight_schools": eight_schools, "gauss_mix": gauss_mix, "blr": blr, "nes": nes}


def with_jsamp(cls):
    def run(key, logdensity, starts, warm, draws):
        result = js.chains(key, cls(logdensity), starts, draws, warm=warm)
        return result.x, int(result.info.nfe.sum()), int(result.info.warm_nfe.sum())

    return run


def with_numpyro(key, logdensity, starts, warm, draws):
    from numpyro.infer.hmc import hmc

    init, sample = hmc(lambda u: -logdensity(u), algo="NUTS")

    def chain(key, x):
        def step(state, _):
            state = sample(state)
            return state, (state.z, state.num_steps)

        state = init(x, warm, rng_key=key)
        return jax.lax.scan(step, state, None, length=warm + draws)[1]

    x, steps = jax.jit(jax.vmap(chain))(jax.random.split(key, jax.tree.leaves(starts)[0].shape[0]), starts)
    steps = np.asarray(steps)
    return jax.tree.map(lambda v: v[:, warm:], x), int(steps[:, warm:].sum()), int(steps[:, :warm].sum())


def with_blackjax(key, logdensity, starts, warm, draws):
    import blackjax

    adapt = blackjax.window_adaptation(blackjax.nuts, logdensity)

    def chain(key, x):
        warm_key, run_key = jax.random.split(key)
        (state, numbers), info = adapt.run(warm_key, x, warm)
        kernel = blackjax.nuts(logdensity, **numbers)

        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps)

        kept = jax.lax.scan(step, state, jax.random.split(run_key, draws))[1]
        return *kept, info.info.num_integration_steps

    keys = jax.random.split(key, jax.tree.leaves(starts)[0].shape[0])
    x, steps, before = jax.jit(jax.vmap(chain))(keys, starts)
    return x, int(np.asarray(steps).sum()), int(np.asarray(before).sum())


def libraries():
    found = {"jsamp NUTS": with_jsamp(js.mcmc.NUTS), "jsamp default": with_jsamp(js.mcmc.HMC)}
    found |= {"numpyro NUTS": with_numpyro} if "numpyro" in PEERS else {}
    return found | ({"blackjax NUTS": with_blackjax} if "blackjax" in PEERS else {})


def measure(run, model, reference, options):
    """One row: errors in reference standard deviations, R-hat, gradients, effective size, seconds."""
    logdensity, sites, x = model
    start, key = jax.random.split(jax.random.key(options.seed))
    spread = lambda k, v: v + 0.5 * jax.random.normal(k, (options.chains, *v.shape))
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(start, len(leaves))
    starts = jax.tree.unflatten(structure, [spread(k, v) for k, v in zip(keys, leaves, strict=True)])
    began = time.perf_counter()
    draws, gradients, before = run(key, logdensity, starts, options.warm, options.draws)
    draws = np.asarray(jax.block_until_ready(jax.vmap(jax.vmap(sites))(draws)))
    seconds = time.perf_counter() - began
    mean, sd = np.asarray(reference["mean"]), np.asarray(reference["sd"])
    return {
        "mean error / sd": np.max(np.abs(draws.mean((0, 1)) - mean) / sd),
        "sd error / sd": np.max(np.abs(draws.std((0, 1)) / sd - 1)),
        "R-hat": float(np.max(js.estimate.rhat(draws))),
        "gradients": gradients,
        "with warm-up": gradients + before,
        "ESS / 1,000 gradients": 1000 * float(np.min(js.estimate.ess(draws))) / gradients,
        "seconds": seconds,
    }


COLUMNS = {
    "mean error / sd": ".3f", "sd error / sd": ".3f", "R-hat": ".3f", "gradients": ",d", "with warm-up": ",d",
    "ESS / 1,000 gradients": ".0f", "seconds": ".1f",
}  # fmt: skip


def table(rows, options):
    lines = [
        "# Posteriors with reference draws",
        "",
        f"`python benchmarks/posteriors.py`, {options.chains} chains of {options.warm} + {options.draws} steps, "
        f"float64, jax {jax.__version__}, {options.machine}. Errors are the largest over the parameters, in units of "
        f"the reference's standard deviation; the reference's own error of a mean is about .01. Seconds count "
        f"compilation.",
        "",
        "| posterior | sampler | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for (model, library), row in rows.items():
        cells = " | ".join(format(row[name], style) for name, style in COLUMNS.items())
        lines.append(f"| {model} | {library} | {cells} |")
    return "\n".join(lines) + "\n\n" + verdict(rows)


def verdict(rows):
    lines = []
    for model in dict.fromkeys(model for model, _ in rows):
        mine = [row for (m, name), row in rows.items() if m == model and name == "jsamp NUTS"]
        peers = {name: row for (m, name), row in rows.items() if m == model and not name.startswith("jsamp")}
        if not mine or not peers:
            continue
        ratios = [f"{mine[0]['gradients'] / row['gradients']:.2f} of {name}'s" for name, row in peers.items()]
        agree = "agrees with" if mine[0]["mean error / sd"] < 0.1 and mine[0]["R-hat"] < 1.01 else "differs from"
        lines.append(f"- {model}: tuned NUTS {agree} the reference, with {', '.join(ratios)} gradients.")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warm", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", default="CPU", help="words about the machine, for the head of the table")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    if not REFERENCES.exists():
        print("No reference draws beside the repository: nothing to compare with.")
        return
    found = json.loads(REFERENCES.read_text())
    references = {name: next(v for k, v in found.items() if k.endswith(f"-{suffix}")) for name, suffix in {
        "eight_schools": "eight_schools_noncentered", "gauss_mix": "low_dim_gauss_mix", "blr": "blr", "nes": "nes",
    }.items()}  # fmt: skip
    rows = {}
    with jax.enable_x64(True):
        for name in options.models:
            model = MODELS[name](references[name]["data"])
            for library, run in libraries().items():
                rows[name, library] = measure(run, model, references[name], options)
                print(name, library, {k: f"{v:{COLUMNS[k]}}" for k, v in rows[name, library].items()}, flush=True)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(table(rows, options))


if __name__ == "__main__":
    main()
