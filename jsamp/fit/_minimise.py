"""The one optimisation loop of the house."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._progress import bar
from jsamp._core._types import Key, Result
from jsamp.fit import _layout
from jsamp.fit._data import batches
from jsamp.fit._resume import MinimiseState, check_same_run, origin_of, resumed


class MinimiseInfo(NamedTuple):
    """Report a run of `minimise`.

    Args:
        loss: [steps] values before each update of this call, float32; [steps, players] for several losses.
        average: the model with the moving average of its trained arrays, or None.
        kept: what `keep` returned, stacked over the steps, or None.
        state: a `MinimiseState` to go on from.
        stopped: "" when all steps were made, "interrupted" after Ctrl-C, "data ended" when the iterator ran out.

    Example:
        >>> import jsamp as js
        >>> js.fit.MinimiseInfo(loss=[1.0], average=None, kept=None, state=None, stopped="").stopped
        ''
    """

    loss: Any
    average: Any
    kept: Any
    state: Any
    stopped: str


def minimise(
    key: Key,
    loss: Any,
    model: Any,
    data: Any,
    *,
    optimiser: Any,
    steps: int,
    batch: int | None = None,
    ema: Any = None,
    follow: Any = None,
    trainable: Callable | None = None,
    keep: Callable | None = None,
    progress: bool = False,
    state: MinimiseState | None = None,
) -> Result:
    """Train a model on a loss: one compiled step, called `steps` times.

    Step k uses the key `fold_in(key, k)`. Arrays are drawn without replacement in a fresh order each epoch (rows left
    over at its end wait for the next order). A run continued from `info.state` is bit for bit the run that was not
    interrupted; an iterator goes on where it stands. Gradients flow to the floating arrays of the model; Python
    numbers, integers and functions inside it stay as they are, as do variables of an nnx module that are not
    `nnx.Param`. Data in arrays, and batches in numpy arrays, are refused when they hold NaN; that of JAX batches and of
    the loss is left visible in `info.loss`.

    Several players: a tuple of models, a tuple of losses, each of which names its player, and one optimiser or a tuple.
    Within a step the losses act in turn, each on what the ones before it left.

    Args:
        key: one key.
        loss: a `js.loss` object, any callable (key, model, batch) -> (scalar, aux), or a tuple of them.
        model: a callable tree: an nnx or equinox module, `jax.tree_util.Partial(linen.apply, variables)`, a dataclass;
            or a tuple of players.
        data: a tree of arrays [n, ...], of which each step takes `batch` rows (numpy arrays and memory maps are
            gathered on the host, JAX arrays on the device); an iterator of batches; or a callable tree step -> batch.
        optimiser: an optax gradient transformation, or any object with `init(params)` and `update(slope, state,
            params)`; a tuple gives each loss its own.
        steps: updates of the whole run, those before `state` included.
        batch: rows per step; None when `data` gives batches.
        ema: decay of a moving average of the trained arrays: a number in [0, 1), warmed up as min(ema, (1 + k) / (10 +
            k)), or a function of the step. The average is `info.average`.
        follow: decay by which the second player follows the first, the target network of a consistency loss: a number
            (0 copies) or a function of the step.
        trainable: (path, array) -> bool; False freezes an array. The path is as `jax.tree_util.keystr` gives it.
        keep: (model, aux) -> tree to record at every step; model is before the update.
        progress: draw a tqdm bar when tqdm is installed.
        state: None, or the `info.state` of a run to go on with; it replaces `model`, and `loss` where it remembers. On
            other data, or with another key, go on from `state._replace(origin=None)`.

    Returns:
        `Result(model, MinimiseInfo)`. Ctrl-C ends the run and returns what there is.

    Raises:
        TypeError: for a loss, optimiser, model or batch of the wrong kind.
        ValueError: for data or a batch without rows, a batch larger than the data, NaN in the data, a model without
            arrays, a state of another run.

    Example:
        >>> import jax, jax.numpy as jnp, optax, jsamp as js
        >>> data = 2.0 * jax.random.normal(jax.random.key(1), (1000, 1))
        >>> gain = jax.tree_util.Partial(lambda c, x, t: c * x, jnp.zeros(()))
        >>> at_one = js.loss.UniformTimes(1.0, 1.001)
        >>> loss = js.loss.Match(js.noise.VE(), predicts="x0", times=at_one)
        >>> model, info = js.fit.minimise(
        ...     jax.random.key(0), loss, gain, data, optimiser=optax.adam(0.02), steps=300, batch=250, ema=0.99)
        >>> round(float(info.average.args[0]), 1)  # s^2 / (s^2 + sigma^2)
        0.8

    Cost:
        A step of the optimiser written by hand. Memory: twice the model, its gradients and the optimiser's state. The
        step is compiled once for all calls with one loss structure, model structure and optimiser object.
    """
    _checks.check_flag("minimise: progress", progress)
    losses, optimisers = _players(loss, optimiser)
    _checks.check_key(key, "minimise")
    _checks.check_on_host("minimise", key, model, state)
    steps = _checks.check_count("minimise: steps", steps)
    ema, follow = _layout.as_decay("minimise: ema", ema), _layout.as_decay("minimise: follow", follow)
    for name, value, form in (("trainable", trainable, "trainable(path, array)"), ("keep", keep, "keep(model, aux)")):
        if value is not None:
            _checks.check_callable(f"minimise: {name}", value, form)
    given = model
    if state is not None:
        state = resumed(state, steps)
        model = state.model
    program = _program(model, losses, optimisers, ema, follow, trainable, keep)
    source = batches(key, data, batch)
    origin = origin_of(key, source)
    if state is None:
        run = program.begin(model, losses)
    else:
        check_same_run(given, jax.eval_shape(program.held, program.numbers(model)), state, origin)
        run = state
    run = run._replace(origin=origin)
    run, values, kept, stopped = _loop(key, program, source, run, steps, progress)
    made = jnp.asarray(np.asarray(jax.device_get(values), np.float32))  # jnp.stack would take up each value by itself
    kept = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept) if kept else None
    return Result(run.model, MinimiseInfo(made, program.averaged(run), kept, run, stopped))


def _players(loss: Any, optimiser: Any) -> tuple[tuple, tuple]:
    losses = loss if type(loss) is tuple else (loss,)
    if not losses:
        raise ValueError("minimise: loss is an empty tuple.")
    for one in losses:
        _checks.check_callable("minimise: loss", one, "loss(key, model, batch)")
    # Optimisers are NamedTuples: a bare tuple is one for each loss.
    optimisers = optimiser if type(optimiser) is tuple else (optimiser,) * len(losses)
    if len(optimisers) != len(losses):
        raise ValueError(f"minimise: {len(losses)} losses need as many optimisers, got {len(optimisers)}.")
    for one in optimisers:
        if not (callable(getattr(one, "init", None)) and callable(getattr(one, "update", None))):
            raise TypeError(f"minimise: optimiser must have init and update, as optax.adam(1e-3) has; got {type(one)}.")
    return losses, optimisers


@jax.jit
def _any_nan(arrays: list[Any]) -> jax.Array:
    return jnp.stack([jnp.isnan(array).any() for array in arrays]).any()


class _Program(NamedTuple):
    """Hold the static parts of a run; hashable, so that one compiled step serves every call with the same parts."""

    layout: Any
    losses: tuple
    trained: tuple
    optimisers: tuple
    followers: tuple | None
    ema: Any
    follow: Any
    keep: Any

    def begin(self, model, losses):
        numbers = self.numbers(model)
        return MinimiseState(0, self.layout.build(numbers), tuple(losses), *self.held(numbers))

    def numbers(self, model):
        """Take the arrays of a model, refused where NaN would be trained."""
        _, numbers = _layout.take_apart(model)
        numbers = [jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in numbers]
        known = [numbers[k] for k in self.averaged_places() if not _checks.is_traced(numbers[k])]
        if known and _any_nan(known):
            raise ValueError("minimise: model holds NaN in an array that is trained, so every step would. Start anew.")
        return numbers

    def held(self, numbers):
        """Start the optimisers and the average."""
        params = [self.layout.masked(numbers, chosen) for chosen in self.trained]
        states = tuple(one.init(p) for one, p in zip(self.optimisers, params, strict=True))
        return states, None if self.ema is None else [_wide(numbers[k]) for k in self.averaged_places()]

    def averaged_places(self):
        return sorted(set().union(*self.trained))

    def changed_places(self):
        count, start = self.followers or (0, 0)
        return sorted(set().union(*self.trained, range(start, start + count)))

    def put_losses(self, losses, remembered):
        pairs = zip(self.losses, losses, remembered, strict=True)
        return tuple(old if new is None else shape.build(new) for shape, old, new in pairs)

    def averaged(self, run):
        if run.average is None:
            return None
        numbers = _layout.take_apart(run.model)[1]
        for k, value in zip(self.averaged_places(), run.average, strict=True):
            numbers[k] = value.astype(numbers[k].dtype)
        return self.layout.build(numbers)


def _wide(leaf):
    return jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32))


def _program(model, losses, optimisers, ema, follow, trainable, keep) -> _Program:
    layout = _layout.take_apart(model)[0]
    trained = tuple(_layout.trained_by("minimise", model, getattr(one, "player", None), trainable) for one in losses)
    followers = None
    if follow is not None:
        if type(model) is not tuple or len(model) < 2:
            raise TypeError("minimise: follow needs a tuple of players, of which the second follows the first.")
        if jax.tree.structure(model[0]) != jax.tree.structure(model[1]):
            raise TypeError("minimise: the second player must have the structure of the first to follow it.")
        first, second = (_layout.take_apart(one)[1] for one in model[:2])
        if list(map(np.shape, first)) != list(map(np.shape, second)):
            raise TypeError("minimise: the second player must have the shapes of the first to follow it.")
        count = len(first)
        followers = (count, count)
    shapes = tuple(_layout.take_apart(one, counts=True)[0] for one in losses)
    return _Program(layout, shapes, trained, optimisers, followers, ema, follow, keep)


def _step(program: _Program, form, key, step, numbers, losses, states, average, data, order, position, size):
    """One update of every player, on one batch."""
    if order is not None:
        index = jax.lax.dynamic_slice_in_dim(order, position, size)
        data = jax.tree.map(lambda leaf: leaf[index], data)
    key, numbers, values, auxes, remembered = jax.random.fold_in(key, step), list(numbers), [], [], ()
    before, states = program.layout.build(numbers), jax.tree.unflatten(form, states)
    for i, chosen in enumerate(program.trained):
        loss = program.losses[i].build(losses[i])
        one = key if len(losses) == 1 else jax.random.fold_in(key, i)

        def objective(part, loss=loss, one=one, chosen=chosen, held=tuple(numbers)):
            model = list(held)
            for k, leaf in zip(chosen, part, strict=True):
                model[k] = leaf
            return _scalar(loss(one, program.layout.build(model), data))

        part = [numbers[k] for k in chosen]
        (value, aux), slope = jax.value_and_grad(objective, has_aux=True)(part)  # pyright: ignore[reportGeneralTypeIssues]
        tree = lambda leaves, chosen=chosen: program.layout.masked(
            [dict(zip(chosen, leaves, strict=True)).get(k) for k in range(len(numbers))], chosen
        )
        inside = lambda params, objective=objective: objective(jax.tree.leaves(params))[0]
        extra = {"value": value, "grad": tree(slope), "value_fn": inside} if _takes_extra(program.optimisers[i]) else {}
        updates, state = program.optimisers[i].update(tree(slope), states[i], tree(part), **extra)
        for k, leaf, move in zip(chosen, part, jax.tree.leaves(updates), strict=True):
            numbers[k] = (leaf + move).astype(leaf.dtype)
        states = (*states[:i], state, *states[i + 1 :])
        kept = loss.remember(aux) if hasattr(loss, "remember") else loss
        remembered = (*remembered, None if kept is loss else _layout.take_apart(kept, counts=True)[1])
        values.append(value.astype(jnp.float32))
        auxes.append(aux)
    numbers, average = _averages(program, step, numbers, average)
    record = None
    if program.keep is not None:
        record = program.keep(before, auxes[0] if len(auxes) == 1 else tuple(auxes))
        _checks.check_made("minimise: keep", record)
    changed = [numbers[k] for k in program.changed_places()]
    value = values[0] if len(values) == 1 else jnp.stack(values)
    return changed, remembered, _flat(states, form), average, value, record


@functools.lru_cache(maxsize=64)
def _compiled(program: _Program, form: Any, size: int):
    """One compiled step for all runs with the same static parts: a call need not hash them again."""
    return jax.jit(functools.partial(_step, program, form, size=size))


def _scalar(found):
    if type(found) is not tuple or len(found) != 2:
        raise TypeError("minimise: loss(key, model, batch) must return a pair (scalar, aux).")
    _checks.check_made("minimise: the loss", found[0], wanted="a scalar")
    if jnp.shape(found[0]) != ():
        raise TypeError(f"minimise: the loss must be a scalar, got shape {jnp.shape(found[0])}. Take its mean.")
    if not jnp.issubdtype(jnp.result_type(found[0]), jnp.floating):
        raise TypeError(f"minimise: the loss must be floating point, got {jnp.result_type(found[0])}.")
    return found


def _flat(states, form):
    found = jax.tree.structure(states)
    if found != form:
        raise TypeError(f"minimise: an optimiser must keep the structure of its state, {form}, got {found}.")
    return jax.tree.leaves(states)


def _takes_extra(optimiser):
    parameters = inspect.signature(optimiser.update).parameters.values()
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def _averages(program, step, numbers, average):
    """Move the average and the follower towards the trained arrays."""
    mix = lambda decay, old, new: old + (1 - decay).astype(old.dtype) * (new.astype(old.dtype) - old)
    if program.ema is not None:
        count = step.astype(jnp.float32)
        warm = jnp.where(callable(program.ema), jnp.inf, (1 + count) / (10 + count))
        decay = jnp.minimum(_layout.decay_at("minimise: ema", program.ema, step), warm)
        average = [mix(decay, old, numbers[k]) for k, old in zip(program.averaged_places(), average, strict=True)]
    if program.followers is not None:
        count, start = program.followers
        decay = _layout.decay_at("minimise: follow", program.follow, step)
        for k in range(count):
            old = numbers[start + k]
            if isinstance(old, jax.Array) and jnp.issubdtype(old.dtype, jnp.inexact):
                numbers[start + k] = mix(decay, old, jnp.asarray(numbers[k]))
    return numbers, average


def _on_device(numbers):
    """The numbers as arrays, once: a Python number would be sent anew at each step."""
    return [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in numbers]


def _loop(key, program, source, run, steps, progress):
    """Call the compiled step until the end, an interrupt, or the end of the data."""
    given, places = _layout.take_apart(run.model)[1], program.changed_places()
    states, form = jax.tree.flatten(run.optimiser)  # a state of trees is taken apart in Python: once, not at each call
    carry = (run.step, _on_device(given), run.loss, states, run.average)
    values, kept, stopped, make, leaves = [], [], "", None, None
    with bar(progress, steps, done=run.step, unit="step") as advance, contextlib.suppress(KeyboardInterrupt):
        stopped = "interrupted"
        while carry[0] < steps:
            found = source(carry[0])
            if found is None:
                stopped = "data ended"
                break
            step, numbers, losses, states, average = carry
            if leaves is None:
                leaves = tuple(_on_device(_layout.take_apart(one, counts=True)[1]) for one in losses)
            make = _compiled(program, form, found[3]) if make is None else make
            changed, remembered, states, average, value, record = make(
                key, step, numbers, leaves, states, average, *found[:3]
            )
            numbers = list(numbers)
            for k, leaf in zip(places, changed, strict=True):
                numbers[k] = leaf
            if any(one is not None for one in remembered):
                losses, leaves = program.put_losses(losses, remembered), None
            values.append(value)
            kept.append(record)
            # One assignment: an interrupt comes before or after it.
            carry = step + 1, numbers, losses, states, average
            advance(1)
        else:
            stopped = ""
    done = carry[0] - run.step
    for k in places:
        given[k] = carry[1][k]
    _, _, losses, states, average = carry
    optimiser = jax.tree.unflatten(form, states)
    state = MinimiseState(carry[0], program.layout.build(given), losses, optimiser, average, run.origin)
    return state, values[:done], [record for record in kept[:done] if record is not None], stopped
