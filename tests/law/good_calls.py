"""A call of every public function and class that works: arguments by the name of the parameter, and by the callable.

A new public callable whose parameters have the house's names needs no line here.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

import jsamp as js

KEY = jax.random.key(0)
VP = js.noise.VP()
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
START = np.array([0.3, -0.2, 0.5], np.float32)
SCORES = np.linspace(1.0, 2.0, 12).astype(np.float32)
GROUPS = np.arange(12) % 3
WALK = np.array([[0.5, 0.5, 0, 0], [0.25, 0.5, 0.25, 0], [0, 0.25, 0.5, 0.25], [0, 0, 0.5, 0.5]])


def logdensity(x):
    return -jnp.sum(x**2) / 2


def score(x):
    return -x


def noised_score(x, sigma):
    return -x / (1 + sigma**2)


def joint(z):
    return -jnp.sum(z["a"] ** 2) - jnp.sum((z["a"] - z["b"]) ** 2)


def labelled(label):
    return js.denoise.GaussianMixture(VP, weights=[1.0], means=jnp.eye(3)[label][None], stds=[0.6])


def network(x, t):
    return 0.3 * x


def logits(x):
    return jnp.stack([x[..., 0], x[..., 1], x[..., 2]], axis=-1)


def _posterior(denoiser, mask, y):
    return js.denoise.DPS(denoiser, js.denoise.LinearOp.mask(mask), y, event_ndim=1)


def _centred(y):
    return js.denoise.GaussianMixture(VP, weights=[1.0], means=jnp.asarray(y)[None], stds=[0.6])


def _next_token(carry, token):
    return carry, jnp.zeros(5, jnp.float32)


def _tokens(x, t):
    return jnp.zeros((*x.shape, 5)).at[..., 1].set(0.5)


def _optimiser():
    import optax

    return optax.sgd(0.1)


DENOISER = js.Denoiser(network, VP, predicts="x0")
MATRIX = js.Denoiser(jax.tree_util.Partial(lambda w, x, t: w @ x, np.eye(3, dtype=np.float32) / 3), VP, predicts="x0")


def _level(t):
    return t, float(VP.alpha(t)), float(VP.sigma(t))


MASK = np.array([1.0, 0.0, 1.0], np.float32)
KERNEL = js.mcmc.MALA(logdensity, step_size=0.3)
SLAB = {"a": jnp.array([0.3]), "b": jnp.array([0.1])}

# What stands for a parameter of this name, wherever it is required.
BY_NAME = {
    "schedule": VP, "key": KEY, "grid": js.noise.time_grid(VP, 4), "denoiser": DENOISER, "num": 2, "steps": 4, "x": START,
    "plan": js.solve.ddim(VP, js.noise.time_grid(VP, 4)), "kernel": KERNEL, "logdensity": logdensity, "X": X, "y": MASK,
    "A": X, "op": js.denoise.LinearOp.mask(MASK), "uncond": DENOISER, "cond": labelled(0), "score": score, "p": 1.5, "n": 4,
    "beta": 0.8, "part": ("a",), "classifier": lambda x, t: logits(x), "target": logdensity, "t": 0.5, "sigma": 0.5,
    "reconstruct": lambda x: 0.8 * x, "reference": logdensity, "mask": MASK, "batch": X, "scores": SCORES, "main": DENOISER,
    "label": 1, "model": network, "weak": labelled(1), "kernels": (KERNEL, KERNEL), "energy": logdensity, "loss": logdensity,
    "guided": js.denoise.ClassifierFree(labelled(0), DENOISER, 2.0), "x0": START, "levels": 3, "draws": X[None],
    "betas": np.array([1.0, 0.5]), "transition": WALK, "proposal": js.mcmc.RandomWalk(logdensity), "rounds": 1,
    "curve": js.select.Curve(np.array([1.0, 2.0, 4.0], np.float32)), "steers": (js.steer.Hooks(),), "plans": [],
    "subset": js.select.draw(KEY, SCORES, 6), "blocks": [X, X], "strata": GROUPS, "counts": (1, 1, 1), "labels": GROUPS,
    "graph": js.mcmc.walk_graph(WALK), "values": SCORES, "size": 4,
}  # fmt: skip
BY_NAME["plans"] = [BY_NAME["plan"], BY_NAME["plan"]]


def gather(*arguments, **options):
    """Arguments and options of a call."""
    return arguments, options


# Calls whose parameters mean something else, or have to fit together.
BY_CALLABLE = {
    "noise.Discrete": gather(np.cumprod(1 - np.linspace(1e-3, 0.1, 40))),
    "noise.index_grid": gather(js.noise.Discrete.ddpm_linear(100, 1e-3, 0.15), 4),
    "noise.spaced_grid": gather(VP, 4, "karras"),
    "noise.dynamic_shift": gather(1024),
    "noise.shift": gather(js.noise.time_grid(js.noise.Flow(), 4), 2.0),
    "denoise.Denoiser": gather(network, VP),
    "denoise.Empirical": gather(VP, X),
    "denoise.ForwardModel": gather(network, jnp.sin, VP),
    "denoise.GaussianMixture": gather(VP, weights=[0.5, 0.5], means=[[0.0, 1.0, 0.0]] * 2, stds=[1.0, 1.0]),
    "denoise.from_reconstruction": gather(lambda x: 0.8 * x, VP, 0.5),
    "denoise.SVD": gather(np.ones(3, np.float32), lambda x: x, lambda x: x, lambda x: x),
    "denoise.calibrate": gather(None, MATRIX, js.solve.ddim(VP, js.noise.time_grid(VP, 4)), START),
    "denoise.quantise": gather(
        MATRIX, js.denoise.calibrate(None, MATRIX, js.solve.ddim(VP, js.noise.time_grid(VP, 4)), START)
    ),
    "denoise.Ranges": gather(
        *(np.ones((1, 1), np.float32),) * 2, *(np.full(1, 7, np.float32),) * 2, np.full(1, 0.5, np.float32),
        np.zeros(1, np.int32), np.zeros(3, np.float32), (None,),
    ),
    "denoise.PerStep": gather(BY_NAME["plan"], [1.0, 2.0, 3.0, 4.0]),
    "denoise.Reward": gather(DENOISER, lambda x0: x0[..., 0], 2.0, 0.1),
    "denoise.LinearOp": gather(lambda x: x),
    "denoise.LinearReward": gather(START, 0.1),
    "denoise.Twisted": gather(DENOISER, lambda x0, var: -jnp.sum(x0**2)),
    "denoise.GradientFree": gather(labelled, 1, logits),
    "denoise.Compose": gather([labelled(0), labelled(1)], DENOISER, [1.0, 2.0]),
    "denoise.Rescale": gather(js.denoise.ClassifierFree(labelled(0), DENOISER, 2.0)),
    "denoise.Interval": gather(js.denoise.ClassifierFree(labelled(0), DENOISER, 2.0), labelled(0), 0.1, 10.0),
    "mcmc.Conditional": gather(joint, SLAB, ("a",)),
    "mcmc.Gibbs": gather(lambda k, z: z["b"], "a"),
    "mcmc.IndependentMH": gather(logdensity, lambda key: jax.random.normal(key, (3,)), logdensity),
    "mcmc.EllipticalSlice": gather(logdensity, covariance=np.ones(3, np.float32)),
    "mcmc.MinibatchScore": gather(logdensity, lambda x, y: -jnp.sum((y - x) ** 2), 12),
    "mcmc.Corrector": gather(noised_score, 0.5),
    "mcmc.DenseMetric": gather(np.eye(3, dtype=np.float32)),
    "mcmc.DenoisingLangevinGibbs": gather(noised_score, np.geomspace(0.1, 10.0, 8), posterior="norm"),
    "mcmc.ULA": gather(logdensity), "mcmc.BAOAB": gather(logdensity), "mcmc.OBABO": gather(logdensity),
    "mcmc.Metropolized": gather(js.mcmc.RandomWalk(logdensity), jax.tree_util.Partial(logdensity)),
    "mcmc.metropolize": gather(js.mcmc.RandomWalk(logdensity), logdensity),
    "mcmc.TokenSGD": gather(js.mcmc.SelfRepellentWalk(BY_NAME["graph"], decay=0.6), lambda theta, node: theta),
    "mcmc.Tempered": gather(logdensity, 0.5),
    "mcmc.mixture": gather([0.3, 0.7], [KERNEL, KERNEL]),
    "mcmc.Select": gather((KERNEL, KERNEL)),
    "mcmc.compose": gather(KERNEL, KERNEL),
    "mcmc.cycle": gather(KERNEL, KERNEL),
    "mcmc.on": gather(js.mcmc.MALA(joint), "a"),
    "mcmc.On": gather(js.mcmc.MALA(joint), ("a",)),
    "mcmc.ais": gather(KEY, KERNEL, X, np.array([0.0, 0.5, 1.0]), reference=logdensity),
    "mcmc.smc": gather(KEY, KERNEL, X, reference=logdensity),
    "mcmc.nested": gather(KEY, logdensity, lambda u: 2 * u - 1, 8, dim=3, delete=4, stop=1.0, moves=2, max_steps=3),
    "mcmc.annealed": gather(KEY, noised_score, START, np.array([2.0, 1.0])),
    "mcmc.refresh": gather(KERNEL, START, KERNEL.init(jnp.asarray(START))),
    "mcmc.picked": gather(None, js.mcmc.Info(1.0, 1, False, js.mcmc.Noised(START, 1.0))),
    "mcmc.walk_variance": gather(WALK, np.array([1.0, 0.0, -1.0, 0.5])),
    "mcmc.to_arviz": gather({"a": np.ones((2, 5))}),
    "mcmc.tune": gather(KEY, KERNEL, START, 8),
    "mcmc.DiscreteLangevin": gather(logdensity), "mcmc.SVGD": gather(logdensity), "mcmc.pathfinder": gather(KEY, logdensity, START, 30),
    "mcmc.SGHMC": gather(lambda x, batch: -x, X),
    "mcmc.SGNHT": gather(lambda x, batch: -x, X),
    "mcmc.SGLD": gather(lambda x, batch: -x, X),
    "mcmc.pSGLD": gather(lambda x, batch: -x, X),
    "select.allocate_greedy": gather(BY_NAME["curve"], 9),
    "select.RowBlocks": gather(X, 5),
    "select.GaussianKernel": gather(2.0),
    "select.fit_curve": gather(np.array([10, 20, 40, 80]), 0.1 + 1 / np.array([[10.0], [20.0], [40.0], [80.0]])),
    "select.influence": gather(X, np.arange(12) % 2, START),
    "select.undersample": gather(KEY, np.arange(12) // 8),
    "select.Curve": gather(np.array([1.0, 2.0, 4.0], np.float32)),
    "select.allocate": gather(BY_NAME["curve"], 30.0),
    "select.balance": gather(KEY, SCORES, np.array([0.0, 1.5, 9.0]), 4),
    "select.cutmix_half": gather(KEY, X, X),
    "select.distortion": gather(X, js.select.draw(KEY, SCORES, 12)),
    "select.draw_bias": gather(SCORES / SCORES.sum(), 4),
    "select.draw_categorical": gather(KEY, SCORES, (3,)),
    "select.interpolate_latents": gather(KEY, X, np.abs(X) + 0.1),
    "select.kmeans_scores": gather(X, X[:2]),
    "select.leverage_stream": gather([X, X]),
    "select.loss_history": gather(SCORES, np.array([1, 2]), np.ones(2, np.float32)),
    "select.merge": gather(*(js.select.draw(k, SCORES, 4, scheme="topk") for k in jax.random.split(KEY))),
    "select.naive_samples": gather(SCORES),
    "select.nearest": gather(X, X[0], 3),
    "select.next_group": gather(np.array([1.0, 2.0]), np.array([3, 4]), rate=1.0),
    "select.oversample": gather(KEY, X, np.arange(12) // 8, k=2),
    "select.pack_bits": gather(X > 0),
    "select.repeated_subsets": gather(KEY, 12, 4, 6),
    "select.retrieve": gather({"t": X[0]}, {"t": X}, GROUPS, 2, num_strata=3),
    "select.sample_size": gather(0.5, dim=4, p=1.0),
    "select.stein_thinning": gather(X, -X, 4), "select.stein_error": gather(X, -X), "select.compress": gather(KEY, X, 2, oversample=1),
    "select.rp_cholesky": gather(KEY, X, 4),
    "select.smote": gather(KEY, X, np.arange(6), 4, k=3),
    "select.stratified": gather(KEY, GROUPS, (2, 1, 1), scores=SCORES),
    "select.stratified_masks": gather(KEY, GROUPS, X[:, 0] > 0, 3, alpha=1),
    "select.stratum_counts": gather([5, 9], 4),
    "select.reduce_stream": gather(KEY, [X, X], 6),
    "select.kernel_error": gather(X, js.select.draw(KEY, SCORES, 6)),
    "select.Reservoir": gather(4),
    "select.lewis": gather(X, 1.5),
    "solve.PlanKernel": gather(DENOISER, BY_NAME["plan"]),
    "solve.concat": gather(js.solve.ddim(VP, BY_NAME["grid"][:3]), js.solve.ddim(VP, BY_NAME["grid"][2:])),
    "solve.edm": gather(js.noise.VE(), js.noise.karras_grid(js.noise.VE(), 4)),
    "solve.heavy_ball": gather(BY_NAME["plan"], 0.8),
    "solve.nesterov": gather(BY_NAME["plan"], 0.8),
    "solve.step": gather(
        KEY, DENOISER, js.solve.init(BY_NAME["plan"], START), jax.tree.map(lambda a: a[0], BY_NAME["plan"])
    ),
    "solve.output": gather(js.solve.init(BY_NAME["plan"], START)),
    "solve.restart": gather(BY_NAME["plan"], js.solve.ddim(VP, BY_NAME["grid"][1:3])),
    "solve.regenerate": gather(KEY, DENOISER, START, BY_NAME["plan"]),
    "solve.sdedit": gather(KEY, DENOISER, START, BY_NAME["plan"], strength=0.5),
    "solve.Plan": gather(**{f.name: getattr(BY_NAME["plan"], f.name) for f in dataclasses.fields(BY_NAME["plan"])}),
    "solve.jumps": gather(BY_NAME["plan"], length=2, repeats=2),
    "solve.optimal_start": gather(KEY, _centred, X, X, BY_NAME["plan"], num=2),
    "solve.optimise_start": gather(DENOISER, START, BY_NAME["plan"], lambda x: jnp.sum(x**2), _optimiser(), steps=2),
    "solve.sample": gather(KEY, DENOISER, START, BY_NAME["plan"]),
    "steer.SMC": gather(lambda x, prediction, info: x[..., 0], lambda x0: x0[..., 0]),
    "steer.SoftValue": gather(lambda x, prediction, info: x[..., 0]),
    "steer.TimeShift": gather(js.noise.Discrete.ddpm_linear(), 40),
    "steer.ActiveSubsampling": gather(_posterior, lambda index: START, [False, True, False, False], np.zeros(3, np.float32)),
    "steer.chain": gather(js.steer.Hooks()),
    "steer.ILVR": gather(MASK, js.denoise.LinearOp.mask(MASK)),
    "loss.Teacher": gather(js.Denoiser(network, js.noise.VE(), predicts="x0")),
    "loss.Contractive": gather(0.1), "loss.InstanceNoise": gather(0.1), "loss.Reconstruction": gather(0.1),
    "loss.consistency_levels": gather(1, 4), "loss.level_probabilities": gather(np.array([3.0, 1.0, 0.1])),
    "loss.AdversarialSampling": gather(lambda u, x: u(x)), "loss.box_flow": gather(KEY, [0.0, -1.0], [1.0, 1.0]),
    "loss.AdversarialDensity": gather(js.loss.AdversarialSampling(lambda u, x: u(x)), 0.1),
    "loss.BoxGrid": gather(np.ones((2, 3), np.float32), [0.0, -1.0], [1.0, 1.0]),
    "loss.BoxFlow": gather(js.loss.box_flow(KEY, [0.0], [1.0], layers=1, width=2, bins=2).layers, [0.0], [1.0]),
    "loss.spectral_density": gather(np.ones((2, 3), np.float32), [0.0, -1.0], [1.0, 1.0]),
    "loss.ForwardModelMatch": gather(jnp.multiply, VP), "mcmc.chains": gather(KEY, KERNEL, X[:2], 2),
    "solve.interpolant_ode": gather(js.noise.Interpolant(), np.linspace(0.1, 1, 4)),
    "solve.interpolant_sde": gather(js.noise.Interpolant(), np.linspace(0.1, 1, 4)),
    "denoise.Bridge": gather(js.noise.Interpolant(), network),
    "denoise.BridgeMixture": gather(js.noise.Interpolant(), labelled(0), labelled(1)),
    "solve.bits_per_dimension": gather(-3.0, 4),
    "solve.assemble": gather([js.solve.Row(_level(1.0), _level(0.5), 0.5, {0: 0.5})], kind="x0"),
    "solve.from_diffusers": gather({"_class_name": "DDIMScheduler"}, 4),
    "fit.Bilevel": gather(lambda x, y, rows: jnp.sum(y - rows), lambda x, y, rows: jnp.sum((y - x) ** 2), 0.1, 0.3),
    "fit.Space": gather(VP, 3), "fit.trajectory_score": gather(DENOISER, X, X),
    "fit.sample_score": gather(DENOISER, X, jnp.mean),
    "fit.kmeans": gather(KEY, X, 3), "fit.mixture": gather(KEY, X, 2), "fit.ppp": gather(KEY, X, most=3, restarts=2),
    "fit.Mixture": gather(np.array([0.4, 0.6], np.float32), X[:2], np.stack([np.eye(3, dtype=np.float32)] * 2)),
    "fit.communities": gather(KEY, np.kron(np.eye(2), 1 - np.eye(6)).astype(np.float32), max_communities=4),
    "fit.effect_mixture": gather(KEY, X, np.arange(12) % 2, SCORES, jnp.tanh, 2, steps=1, batch=4),
    "fit.EffectMixture": gather(
        jnp.tanh, np.ones(3, np.float32), 0.5, np.ones((3, 2), np.float32), np.zeros(2, np.float32),
        np.ones(2, np.float32), np.ones((2, 2), np.float32),
    ),
    "fit.choose_channels": gather(
        KEY, X, SCORES, (2, 1), schedule=js.fit.ChannelSchedule(1, 1, 1, 1, 4), optimiser=_optimiser()
    ),
    "fit.ChannelSchedule": gather(), "fit.ChannelsInfo": gather(SCORES, X, *5 * [SCORES], (), ""),
    "fit.Channels": gather(jnp.tanh, START > 0, START, START, START, START),
    "fit.minimise": gather(
        KEY, js.loss.Match(VP, predicts="x0"), jax.tree_util.Partial(lambda w, x, t: w * x, jnp.float32(0.5)), X,
        optimiser=_optimiser(), steps=1, batch=4,
    ),
    "fit.likelihood_surrogate": gather(
        KEY, logdensity, lambda u: 2 * u - 1, 8, dim=3, delete=4, stop=1.0, begin=3.0, moves=2, steps=2,
    ),
    "fit.GPPosterior": gather(
        js.fit.Matern(0.5), X, SCORES, np.eye(12, dtype=np.float32), SCORES, jnp.sum, 0.0, 1.0, 0.1
    ),
    "fit.RandomFeatures": gather(X, SCORES), "fit.random_features": gather(KEY, 3), "fit.readout": gather(X, SCORES),
    "fit.bandlimit_multiplier": gather(SCORES, 2.0), "fit.ridgelet": gather(jnp.cos, SCORES, SCORES, nodes=31),
    "fit.NetworkPosterior": gather(js.fit.Network(0), js.fit.Network(0).init(KEY, 3), 0.0, 1.0),
    "fit.nngp": gather(), "fit.ei": gather(SCORES, SCORES, 1.5), "fit.log_ei": gather(SCORES, SCORES, 1.5),
    "fit.qei": gather(X, 0.5), "fit.maximise_acquisition": gather(None, jnp.sum, abs(X) / 4, restarts=1, steps=1),
    "fit.optimise": gather(KEY, jnp.sum, (np.zeros(2), np.ones(2)), budget=3, initial=3, raw=4, restarts=1, steps=1),
    "steer.TrajectoryVariance": gather(3, 1),
    "plot.images": gather(X.reshape(2, 3, 6)), "plot.chains": gather(X.reshape(2, 6, 3)),
    "plot.plan": gather(BY_NAME["plan"]), "plot.work_precision": gather({"DDIM": {5: 0.2, 10: 0.1}}),
    "plot.subset": gather(X[:, :2], js.select.draw(KEY, SCORES, 4, scheme="systematic")),
    "tokens.Masked": gather(5), "tokens.min_p": gather(0.1), "tokens.top_p": gather(0.9), "tokens.typical": gather(0.9),
    "tokens.top_k": gather(3), "tokens.temperature": gather(0.7), "tokens.repetition": gather(1.2),
    "tokens.ClassifierFree": gather(_tokens, _tokens, 2.0), "tokens.Exclude": gather(_tokens, (1,)),
    "tokens.exclude": gather(_tokens, 1), "tokens.Reward": gather(_tokens, lambda x: jnp.sum(x), 0.5),
    "tokens.ancestral": gather(js.tokens.Masked(5), np.linspace(1.0, 0.0, 4)),
    "tokens.confidence": gather(js.tokens.Masked(5), 3, temperature=1.0),
    "tokens.decode": gather(
        KEY, _tokens, jnp.full(4, 5, jnp.int32), js.tokens.ancestral(js.tokens.Masked(5), np.linspace(1.0, 0.0, 4))
    ),
    "tokens.first_hitting": gather(KEY, js.tokens.Masked(5), jnp.full(4, 5, jnp.int32)),
    "tokens.speculative": gather(KEY, _next_token, _next_token, ((), ()), 5),
    "tokens.nelbo": gather(KEY, _tokens, jnp.arange(4), js.tokens.Masked(5), num=4, block=2),
    "tokens.Exponential": gather(KEY, 6, 5), "tokens.InverseTransform": gather(KEY, 6, 5),
    "estimate.ebfmi": gather(X[:, 0].reshape(2, 6)),
    "estimate.ess": gather(X.reshape(2, 18)),
    "estimate.mcse": gather(X.reshape(2, 18)),
    "estimate.mean": gather(X.reshape(2, 18)),
    "estimate.rhat": gather(X.reshape(2, 18)),
    "estimate.minority_score": gather(KEY, DENOISER, START, 0.5),
    "estimate.mmd": gather(X, X[:8] + 0.3),
    "estimate.kid": gather(X, X[:8] + 0.3),
    "estimate.energy": gather(X, X[:8] + 0.3),
    "estimate.frechet": gather(X, X[:8] + 0.3),
    "estimate.sliced_wasserstein": gather(X, X[:8] + 0.3),
    "estimate.precision_recall": gather(X, X[:8] + 0.3),
    "estimate.density_coverage": gather(X, X[:8] + 0.3),
    "estimate.nearest_ratio": gather(X, X[:8] + 0.3, X[:6] - 0.2),
    "estimate.snis": gather(SCORES, X[:, 0]),
    "estimate.control_variate": gather(SCORES, X),
    "estimate.paired": gather(X[:, :2], "antithetic"),
    "estimate.sobol": gather(js.estimate.Design(X[:, 0], X[:, 1], X.T, X.T + 0.1)),
    "estimate.sobol_rank": gather(X, SCORES),
    "estimate.paired_t": gather(X[:, 0], X[:, 1]),
    "estimate.t_5x2cv": gather(X[:10, 0].reshape(5, 2)),
    "estimate.f_5x2cv": gather(X[:10, 0].reshape(5, 2)),
    "estimate.mcnemar": gather(X[:, 0] > 0, X[:, 1] > 0),
    "estimate.cochran_q": gather(X > 0),
    "estimate.f_test": gather(X > 0),
    "estimate.holm": gather(SCORES / 3),
    "estimate.bonferroni": gather(SCORES / 3),
    "estimate.excursions": gather(X[:, 0], 0.5),
    "estimate.Thresholdout": gather(0.1, 0.1, 3),
    "estimate.SQ": gather(0.1, 3),
    "estimate.PrivateMultiplicativeWeights": gather(SCORES, 0.1, 0.1),
    "estimate.asymmetry": gather(KEY, jnp.sin, START),
    "estimate.gauge_residual": gather(KEY, jnp.sin, jnp.cos, START),
    "estimate.flow_singular_values": gather(jnp.sin, START),
    "estimate.latin_hypercube": gather(KEY, 2, 4),
    "estimate.halton": gather(2, 4),
    "denoise.add_gauge": gather(DENOISER, WALK[:3, :3].astype(np.float32)),
    "denoise.Gauge": gather(DENOISER, jnp.zeros((3, 3))),
    "denoise.ConservativePart": gather(lambda x: x**2, START, 1.0),
    "denoise.conservative_part": gather(jnp.sin, lambda x: x**2, X),
}  # fmt: skip


@functools.cache
def public():
    """Every public function and every class that users construct, by room.name."""
    found = {}
    # Files on disk and models of other libraries have tests of their own.
    elsewhere = {"solve.save", "solve.load", "mcmc.save", "mcmc.load", "mcmc.from_numpyro", "mcmc.to_arviz"}
    for room in sorted(name for name in js.__all__ if inspect.ismodule(getattr(js, name))):
        module = getattr(js, room)
        for name in module.__all__:
            thing = getattr(module, name)
            record = inspect.isclass(thing) and issubclass(thing, tuple) and hasattr(thing, "_fields")
            if record or getattr(thing, "_is_protocol", False) or f"{room}.{name}" in elsewhere:
                continue
            required = [p.name for p in inspect.signature(thing).parameters.values() if p.default is p.empty]
            if f"{room}.{name}" in BY_CALLABLE or all(name in BY_NAME for name in required):
                found[f"{room}.{name}"] = thing
    return found


@functools.cache
def good(name):
    """The working call of a public callable: (positional arguments, options), with every parameter by name if it can."""
    thing = public()[name]
    if name in BY_CALLABLE:
        return BY_CALLABLE[name]
    arguments, options = [], {}
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            value = BY_NAME[parameter.name]
            options |= {parameter.name: value} if parameter.kind is parameter.KEYWORD_ONLY else {}
            arguments += [] if parameter.kind is parameter.KEYWORD_ONLY else [value]
    return tuple(arguments), options


@functools.cache
def works(name):
    """Whether the call made of the names of its parameters is one that the callable takes."""
    arguments, options = good(name)
    try:
        jax.eval_shape(lambda: jax.tree.leaves(public()[name](*arguments, **options)) and None)
    except (ValueError, TypeError):
        return False
    return True
