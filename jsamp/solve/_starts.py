"""Where to start: one good start for all inputs, a start optimised for one target, a start from an estimate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _tree
from jsamp._core._callable import as_tree
from jsamp._core._checks import (
    check_callable,
    check_choice,
    check_count,
    check_key,
    check_rows,
    check_scalar,
    is_traced,
)
from jsamp._core._mesh import vary
from jsamp._core._pytree import pytree, replace, static
from jsamp._core._types import Key, Model, Result, Tree
from jsamp.denoise import Denoiser
from jsamp.denoise._protocol import kicks
from jsamp.solve._plan import Plan, check_plan
from jsamp.solve._run import check_levels, sample, step
from jsamp.solve._state import SampleInfo, check_signal, init, output


class StartSearch(NamedTuple):
    """Hold what `optimal_start` found about its candidates.

    Args:
        index: the best candidate.
        score: [num] mean of the metric over the references, for each candidate.
        stderr: [num] standard error of that mean. Where it is as large as the spread of the scores, the choice is
            chance: use more references.

    Example:
        >>> import jsamp as js
        >>> js.solve.StartSearch(index=0, score=[0.1], stderr=[0.01]).index
        0
    """

    index: Any
    score: Any
    stderr: Any


def optimal_start(
    key: Key,
    condition: Any,
    references: Any,
    targets: Any,
    plan: Plan,
    *,
    num: int = 100,
    metric: Any = None,
    block: int | None = None,
) -> Result:
    """Find one start x_T for every input: the best of `num` noises over a reference set, used instead of fresh noise.

    argmin over candidates x_T ~ N(0, sigma_T^2 I) of the mean over references of metric(sample(condition(reference),
    x_T), target). When x0 | y is Gaussian with the same covariance for every y, the best start is shared, and the mean
    squared error of the best possible start is half that of random ones (3.01 dB). The gain of a search falls with the
    dimension d: of K candidates it leaves (d + E min of K chi^2_d) / 2d of the error.

    Args:
        key: one key.
        condition: reference -> denoiser, a callable tree.
        references: tree with leading axis R: low-resolution images, labels, ...
        targets: [R, ...] what the samples should be.
        plan: a deterministic plan.
        num: candidates K (static).
        metric: (x0, target) -> scalar, smaller is better; None is the mean squared error.
        block: candidates evaluated together; None one after the other.

    Returns:
        `Result(x, StartSearch)`: the start, of the structure of one target.

    Raises:
        TypeError: for something that is not a plan.
        ValueError: for a stochastic plan, num < 1, or a metric that is not finite.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.VE()
        >>> law = lambda y: js.denoise.GaussianMixture(schedule, weights=[1.0], means=y[None], stds=[1.0])
        >>> y = jnp.arange(10.0).reshape(5, 2)
        >>> plan = js.solve.dpmpp(schedule, js.noise.karras_grid(schedule, 10))
        >>> x, found = js.solve.optimal_start(jax.random.key(0), law, y, y, plan, num=50)
        >>> bool(found.score[found.index] == found.score.min()), x.shape
        (True, (2,))

    Cost:
        num R plan.nfe network evaluations, once. Memory of R samples (times `block`), not of num.

    References:
        Ma et al., "Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image Super-Resolution", 2024,
        arXiv:2305.15357.
    """
    check_key(key, "optimal_start")
    check_plan("optimal_start", plan)
    check_count("optimal_start: num", num)
    check_signal("optimal_start: targets", targets)
    _check_pairs(references, targets)
    if block is not None:
        check_count("optimal_start: block", block)
    if plan.stochastic:
        raise ValueError("optimal_start: with a stochastic plan the start does not fix the sample. Use an ODE plan.")
    condition = as_tree("optimal_start: condition", condition, "condition(reference)")
    metric = _squared_error if metric is None else metric
    check_callable("optimal_start: metric", metric, "metric(x0, target)")
    keys = jax.random.split(key, num)

    def candidate(key):
        noise = _tree.normal_like(key, jax.tree.map(lambda v: v[0], targets))
        return jax.tree.map(lambda z: jnp.asarray(plan.sigma[0], z.dtype) * z, noise)

    def evaluate(key):
        x = candidate(key)
        error = lambda r, target: metric(sample(None, condition(r), x, plan).x, target)
        errors = jax.vmap(error)(references, targets)
        return jnp.mean(errors), jnp.std(errors) / float(np.sqrt(max(errors.shape[0] - 1, 1)))

    targets = jax.tree.map(jnp.asarray, targets)
    score, stderr = jax.lax.map(evaluate, keys, batch_size=block)
    if not is_traced(score) and not bool(jnp.isfinite(score).all()):
        raise ValueError(
            "optimal_start: the metric is NaN or infinite for some candidates. Scale the targets as samples."
        )
    index = jnp.argmin(score)
    return Result(candidate(keys[index]), StartSearch(index, score, stderr))


def _check_pairs(references: Any, targets: Any) -> None:
    """Refuse references and targets that are not as many rows each."""
    leaves = [*jax.tree.leaves(references), *jax.tree.leaves(targets)]
    if not jax.tree.leaves(references):
        raise ValueError("optimal_start: references are an empty tree; pass one row for each target.")
    for leaf in leaves:
        check_rows("optimal_start: references and targets", leaf)
    counts = {np.shape(leaf)[0] for leaf in leaves}
    if len(counts) > 1:
        raise ValueError(
            f"optimal_start: references and targets must have as many rows, got leading axes {sorted(counts)}."
        )


def _squared_error(x0, target):
    difference = jax.tree.map(jnp.subtract, x0, target)
    return _tree.dot(difference, difference) / _tree.size(target)


class OptimisedStart(NamedTuple):
    """Hold what `optimise_start` reports.

    Args:
        loss: [steps] loss before each update; NaN after an early stop.
        radius: |x|^2 / (d sigma_T^2) of the result, 1 for typical noise.
        steps: updates made.

    Example:
        >>> import jsamp as js
        >>> js.solve.OptimisedStart(loss=[1.0], radius=1.0, steps=1).steps
        1
    """

    loss: Any
    radius: Any
    steps: Any


def optimise_start(
    denoiser: Model,
    x: Tree,
    plan: Plan,
    loss: Any,
    optimiser: Any,
    *,
    steps: int = 70,
    key: Key | None = None,
    surrogate: Any = None,
    shell: Any = 0.0,
    until: Any = -np.inf,
    remat: bool = True,
) -> Result:
    """Optimise a start until its sample has a wanted feature: gradients pass through the sampler, the model is frozen.

    x_T <- argmin loss(sample(x_T)) + shell (|x_T|^2 / (d sigma_T^2) - 1)^2. Gradients pass through every row with
    `jax.checkpoint`, so that memory is one state for each row and one network. With a `surrogate`, a one-step decoder,
    gradients pass through that alone (DITTO-2); the result is then decoded by the plan.

    Args:
        denoiser: callable tree (x, t, *, key) -> Prediction.
        x: where to begin, usually `schedule.prior(key, shape)`.
        plan: the sampler; a stochastic one needs a key, whose noise is held fixed.
        loss: x0 -> scalar, differentiable.
        optimiser: an optax gradient transformation, or any object with `init(x)` and `update(slope, state, x)`.
        steps: updates at most (static).
        key: None, or one key.
        surrogate: None, or x_T -> x0, a callable tree.
        shell: weight that keeps x_T at the radius of noise.
        until: stop early when the loss is at or below this.
        remat: recompute each row in the backward pass instead of storing it (static).

    Returns:
        `Result(x, OptimisedStart)`: the best start found. `js.sample` it with the same key and plan.

    Raises:
        TypeError: for an optimiser, loss or plan of the wrong kind.
        ValueError: for a loss that is not a scalar, steps < 1, or a stochastic plan without a key.

    Example:
        >>> import jax.numpy as jnp, optax, jsamp as js
        >>> schedule = js.noise.VP()
        >>> law = js.denoise.GaussianMixture(schedule, weights=[1.0], means=[[0.0, 0.0]], stds=[1.0])
        >>> plan = js.solve.ddim(schedule, js.noise.logsnr_grid(schedule, 10))
        >>> feature = lambda x0: (x0.sum() - 1.0) ** 2
        >>> x = js.solve.optimise_start(law, jnp.zeros(2), plan, feature, optax.adam(0.1), steps=60).x
        >>> bool(abs(js.sample(None, law, x, plan).x.sum() - 1) < 0.02)
        True

    Cost:
        About 4 plan.nfe evaluations for each update (3 without remat, or 3 in all with a surrogate). Each call
        compiles: wrap it in `jax.jit` to optimise many starts.

    References:
        Novack et al., "DITTO: Diffusion Inference-Time T-Optimization for Music Generation", 2024, arXiv:2401.12179;
        "DITTO-2: Distilled Diffusion Inference-Time T-Optimization for Music Generation", 2024, arXiv:2405.20289.
    """
    check_plan("optimise_start", plan)
    check_callable("optimise_start: denoiser", denoiser, "denoiser(x, t)")
    check_callable("optimise_start: loss", loss, "loss(x0)")
    check_signal("optimise_start: x", x)
    check_levels("optimise_start", denoiser, plan)
    if not (isinstance(until, float) and np.isinf(until)):
        check_scalar("optimise_start: until", until)
    check_count("optimise_start: steps", steps)
    check_scalar("optimise_start: shell", shell, low=0)
    if not (callable(getattr(optimiser, "init", None)) and callable(getattr(optimiser, "update", None))):
        raise TypeError("optimise_start: optimiser must have init and update, as optax.adam(5e-3) has.")
    if key is not None or plan.stochastic:
        check_key(key, "optimise_start")
    given = jax.tree.map(jnp.asarray, x)
    x = jax.tree.map(lambda v: v.astype(jnp.promote_types(v.dtype, jnp.float32)), given)  # small steps add up
    decode = surrogate if surrogate is not None else lambda x: run_remat(key, denoiser, x, plan, remat=remat)
    found = jax.eval_shape(lambda x: loss(decode(x)), x)
    if jax.tree.map(jnp.shape, found) != ():
        raise ValueError(f"optimise_start: loss must return a scalar, got shape {jax.tree.map(jnp.shape, found)}.")

    def objective(x):
        value = loss(decode(x))
        return value + shell * (_radius(x, plan) - 1) ** 2, value

    def update(carry):
        x, best, low, state, losses, i = carry
        (total, value), slope = jax.value_and_grad(objective, has_aux=True)(x)
        updates, state = optimiser.update(slope, state, x)
        best = _tree.where(total < low, x, best)
        moved = jax.tree.map(lambda v, u: (v + u).astype(v.dtype), x, updates)
        moved = _tree.where(value <= until, x, moved)
        return moved, best, jnp.minimum(total, low), state, losses.at[i].set(value), i + 1

    def unfinished(carry):
        losses, i = carry[4], carry[5]
        return (i < steps) & jnp.logical_not((i > 0) & (losses[i - 1] <= until))

    dtype = jnp.result_type(*jax.tree.leaves(x))
    start = (x, x, jnp.asarray(jnp.inf, dtype), optimiser.init(x), jnp.full(steps, jnp.nan, dtype), jnp.int32(0))
    last, best, low, _, losses, count = jax.lax.while_loop(unfinished, update, vary(start, x, found))
    best = _tree.cast_like(_tree.where(objective(last)[0] < low, last, best), given)
    return Result(best, OptimisedStart(losses, _radius(best, plan), count))


def _radius(x, plan):
    dtype = jnp.result_type(*jax.tree.leaves(x))
    return _tree.dot(x, x) / (_tree.size(x) * jnp.asarray(plan.sigma[0], dtype) ** 2)


def run_remat(key: Key | None, denoiser: Any, x: Any, plan: Plan, *, remat: bool = True) -> Any:
    """The sample of a plan, each row recomputed in the backward pass."""

    def row(state, row):
        return step(key, denoiser, state, row), None

    # Inside a scan nothing can be shared between the passes, so the barrier against it is not needed.
    body = jax.checkpoint(row, prevent_cse=False) if remat else row
    state, _ = jax.lax.scan(body, init(plan, x, kicks=kicks(denoiser)), plan)
    return output(state)


@pytree
class _AroundEstimate:
    """A network of x as a network of the residual u = x - estimate."""

    model: Any
    estimate: Any
    residual: bool = static()

    def __call__(self, u, t):
        found = self.model(jax.tree.map(jnp.add, u, self.estimate), t)
        return jax.tree.map(jnp.subtract, found, self.estimate) if self.residual else found


def regenerate(
    key: Key, denoiser: Denoiser, estimate: Tree, plan: Plan, *, steer: Any = None, keep: Any = None
) -> Result:
    """Repair an estimate by diffusion: the bridge from the estimate plus noise to the clean signal, in few steps.

    A network trained on x_t = alpha x0 + (1 - alpha) estimate + sigma eps is run on the residual u = x - estimate, in
    which the bridge is an ordinary schedule, `js.noise.OUVE`: any plan runs. The run starts at the estimate plus noise
    of the plan's first row; what that start neglects is alpha_T (x0 - estimate), so a better estimate, such as a
    regressor's, needs fewer steps and less noise (StoRM; with the corrupted signal itself it is SGMSE).

    Args:
        key: one key.
        denoiser: a `js.Denoiser` whose network takes x_t (not u) and predicts "score", "eps" or "x0"; what else it
            conditions on is inside the network.
        estimate: the regressor's output, of the structure of x.
        plan: any plan on the denoiser's schedule; `final="zero"` grids return the last predicted mean.
        steer: as in `js.sample`; it sees the residual.
        keep: as in `js.sample`; it sees the residual.

    Returns:
        `Result(x, info)` as `js.sample`.

    Raises:
        TypeError: for something that is not a `js.Denoiser`, or a plan or estimate of the wrong type.
        ValueError: for a network that predicts v or velocity.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> schedule = js.noise.OUVE()
        >>> denoiser = js.Denoiser(lambda x, t: jnp.sign(x), schedule, predicts="x0")
        >>> plan = js.solve.dpmpp(schedule, js.noise.logsnr_grid(schedule, 10, final="zero"))
        >>> js.solve.regenerate(jax.random.key(0), denoiser, jnp.array([0.8, -1.1]), plan).x.tolist()
        [1.0, -1.0]

    Cost:
        plan.nfe network evaluations.

    References:
        Lemercier et al., "StoRM: A Diffusion-based Stochastic Regeneration Model for Speech Enhancement and
        Dereverberation", 2023, arXiv:2212.11851.
    """
    check_key(key, "regenerate")
    check_plan("regenerate", plan)
    check_signal("regenerate: estimate", estimate)
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"regenerate: denoiser must be a js.Denoiser, got {type(denoiser).__name__}.")
    check_choice("regenerate: the denoiser's predicts", denoiser.predicts, ("score", "eps", "x0"))
    estimate = jax.tree.map(jnp.asarray, estimate)
    around = replace(denoiser, model=_AroundEstimate(denoiser.model, estimate, denoiser.predicts == "x0"))
    first, second = jax.random.split(key)
    noise = _tree.normal_like(first, estimate)
    start = jax.tree.map(lambda z: jnp.asarray(plan.sigma[0], z.dtype) * z, noise)
    result: Any = sample(second, around, start, plan, steer=steer, keep=keep)
    x = jax.tree.map(jnp.add, result.x, estimate)
    return Result(x, SampleInfo(*result.info))
