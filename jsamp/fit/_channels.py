"""Which channels to measure for a task: channels are closed one after another while the task is learned (TADRED)."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._callable import as_tree
from jsamp._core._progress import bar
from jsamp._core._types import Array, Key, Result
from jsamp.fit._covariance import HIGHEST
from jsamp.fit._gates import Channels, ChannelSchedule, Gate, scores_of, through
from jsamp.fit._minimise import minimise

WIDTH, BATCH, STEPS, RATE = 64, 128, 16, 3e-3


class ChannelsInfo(NamedTuple):
    """Report a choice of channels, size by size; the first size is all of them.

    Args:
        sizes: [T] channels left.
        masks: [T, C], True for those that are left.
        loss: [T] held-out mean square errors of the targets, in their 99th percentiles.
        baseline: the same error of the targets' mean.
        ok: [T], True where the model is better than the mean by three standard errors over the held-out rows. After a
            size where it is not, channels were closed by chance: give it more rows, epochs, or other networks.
        gap: [T] how much more a channel that was kept is missed, at least, than one that was closed; infinite where
            none was closed. At 0 their order decided.
        epochs: [T] epochs made.
        models: a `Channels` for each size.
        stopped: "" when all sizes were reached, "interrupted" after Ctrl-C.

    Example:
        >>> import jsamp as js
        >>> js.fit.ChannelsInfo([2], None, None, None, None, None, None, (), "").sizes
        [2]
    """

    sizes: Any
    masks: Any
    loss: Any
    baseline: Any
    ok: Any
    gap: Any
    epochs: Any
    models: Any
    stopped: str


class _Nets(NamedTuple):
    score: Any
    task: Any


class _Data(NamedTuple):
    train: tuple
    held: tuple
    center: Any
    scale: Any
    unit: Any


def choose_channels(
    key: Key,
    X: Array,
    y: Array,
    sizes: Sequence[int] | int,
    *,
    score: Any = None,
    task: Any = None,
    schedule: ChannelSchedule | None = None,
    optimiser: Any = None,
    batch: int | None = None,
    validation: tuple[Array, Array] | None = None,
    rank: Literal["loss", "weight"] = "loss",
    progress: bool = False,
) -> Result:
    """Choose the channels, columns of X, that serve best to predict y, in decreasing numbers.

    Two networks are trained at once. The task sees g * x, where the gates g = mix s(x) + (1 - mix) w go from scores of
    the row, s = 2 sigmoid(score(x)), to one weight w per channel, their mean. Then the channels that are missed least
    are faded out, to their medians, the task learns to do without them, and the next size begins from these networks.
    No subset is tried: the price is that of one training for each size. Channels that go together are judged one by
    one, so of those that correlate all may go at once: several sizes on the way down help.

    The paper takes the channels of least weight for those that are missed least. A weight rises with the task's own
    on that channel, whatever its spread: on the pixels of digits it keeps the rim, and is worse than chance. What the
    loss rises by when one channel is closed, on the rows of the training, chose better in all that was tried.

    Other differences from the paper's program: mean scores are taken at the end of an epoch, the optimiser starts
    afresh at each size, the score of fresh networks starts at exactly 1 and the first layer of their task small, and
    batches and rates are for smaller data.

    Args:
        key: one key.
        X: [n, C] floating; channels are divided by the 99th percentiles of their absolute values.
        y: [n] or [n, M] floating targets, scaled likewise; labels as columns of zeros and ones.
        sizes: a decreasing sequence of numbers of channels below C, or one number.
        score: callable tree [n, C] -> [n, C]; None is a perceptron of 64 rectified units.
        task: callable tree [n, C] -> [n, M] of scaled rows and targets; None is a perceptron of 64 rectified units.
        schedule: a `ChannelSchedule`; None is the paper's.
        optimiser: as for `minimise`; None is Adam at 3e-3. Pass the same object again to share its compiled step.
        batch: rows per step; None is 128, or a sixteenth of the rows if that is less.
        validation: held-out (X, y) that decides when to stop; None holds a fifth of the rows, drawn by the key.
        rank: what tells which channels go: "loss", what it rises by without one, or "weight", as in the paper.
        progress: draw a tqdm bar over the sizes when tqdm is installed.

    Returns:
        `Result(Channels, ChannelsInfo)`: the model of the last size, and those of all. Ctrl-C returns the sizes that
        are done, and raises when there is none.

    Raises:
        ValueError: for sizes that do not decrease or are out of range, lengths that differ, NaN, fewer than 2 rows.
        TypeError: for integers in X or y, and networks, schedules or optimisers of the wrong kind.

    Example:
        >>> import jax, jsamp as js
        >>> X = jax.random.normal(jax.random.key(1), (200, 4))
        >>> schedule = js.fit.ChannelSchedule(settle=10, blend=3, fade=3, patience=2, epochs=30)
        >>> found = js.fit.choose_channels(jax.random.key(0), X, 2 * X[:, 2], 1, schedule=schedule).x
        >>> found.index.tolist()
        [2]

    Cost:
        For each size, at least settle + blend + fade + patience epochs of both networks, and C evaluations of the task
        on all rows to rank the channels. The step is compiled once, whatever the sizes and their number. Held-out rows
        are evaluated at once.

    References:
        Blumberg, Slator and Alexander, "Experimental design for multi-channel imaging via task-driven feature
        selection", 2024, arXiv:2210.06891.
    """
    _checks.check_key(key, "choose_channels")
    _checks.check_flag("choose_channels: progress", progress)
    _checks.check_choice("choose_channels: rank", rank, ("loss", "weight"))
    schedule = ChannelSchedule() if schedule is None else schedule
    if not isinstance(schedule, ChannelSchedule):
        raise TypeError(f"choose_channels: schedule must be a ChannelSchedule, got {_checks.shown(schedule)}.")
    split, first, train = jax.random.split(key, 3)
    data = _prepared(split, X, y, validation)
    rows, count = data.train[0].shape
    sizes = (count, *_decreasing(sizes, count))
    batch = (
        min(BATCH, max(1, rows // STEPS))
        if batch is None
        else _checks.check_count("choose_channels: batch", batch, high=rows)
    )
    fit = _Fit(schedule, _adam() if optimiser is None else optimiser, batch, data)
    nets = _nets(first, score, task, data)
    stages, stopped = [], ""
    try:
        with bar(progress, len(sizes), unit="size") as advance:
            for found in _stages(train, fit, nets, sizes, rank):
                stages.append(found)
                advance(1)
    except KeyboardInterrupt:
        if not stages:
            raise
        stopped = "interrupted"
    *columns, models = zip(*stages, strict=True)
    done, masks, losses, ok, gaps, epochs = map(np.array, columns)
    return Result(
        models[-1], ChannelsInfo(done, masks, losses, fit.mean_errors.mean(), ok, gaps, epochs, models, stopped)
    )


def _stages(key: Key, fit: Any, nets: _Nets, sizes: tuple[int, ...], rank: str) -> Any:
    """Close channels size by size; yield the columns of the report."""
    data = fit.data
    mask, weight, gate = np.ones(sizes[0], bool), jnp.ones_like(data.center), None
    for stage, size in enumerate(sizes):
        worth = _missed(gate, nets, data.train) if gate is not None and rank == "loss" else weight
        drop = _least(worth, mask, mask.sum() - size)
        gap = _gap(worth, mask, drop)
        nets, weight, gate, loss, epochs = fit.stage(
            jax.random.fold_in(key, stage), nets, mask, drop, weight, first=not stage
        )
        mask = mask & ~drop
        ok = _beats(_row_errors(gate, nets, data.held), fit.mean_errors)
        model = Channels(nets.task, jnp.asarray(mask), gate.weight, data.center, data.scale, data.unit)
        yield size, mask, loss, ok, gap, epochs, model


def _decreasing(sizes: Any, count: int) -> tuple[int, ...]:
    if _checks.is_traced(sizes):
        raise TypeError("choose_channels: sizes must be known numbers: they fix the stages.")
    if isinstance(sizes, (list, tuple, range)):
        listed = list(sizes)
    elif isinstance(sizes, (int, np.integer)):
        listed = [sizes]
    elif hasattr(sizes, "dtype") and jnp.issubdtype(sizes.dtype, jnp.integer) and sizes.ndim <= 1:
        listed = np.atleast_1d(np.asarray(sizes)).tolist()
    else:
        raise TypeError(f"choose_channels: sizes must be numbers of channels, got {_checks.shown(sizes)}.")
    listed = [_checks.check_count("choose_channels: sizes", one, high=count - 1) for one in listed]
    if not listed or any(b >= a for a, b in itertools.pairwise(listed)):
        raise ValueError(f"choose_channels: sizes must decrease, such as ({count - 1}, 1); got {tuple(listed)}.")
    return tuple(listed)


def _checked(who: str, X: Any, y: Any) -> None:
    _checks.check_rows(f"{who}: X", X, ndim=2)
    _checks.check_rows(f"{who}: y", y, num=np.shape(X)[0])
    _checks.check_floating(f"{who}: X", X)
    _checks.check_floating(f"{who}: y (labels as columns of zeros and ones)", y)
    _checks.check_on_host(who, X, y)
    _checks.check_finite(f"{who}: X", X)
    _checks.check_finite(f"{who}: y", y)
    if np.ndim(y) > 2 or np.shape(X)[1] < 2 or 0 in np.shape(y):
        raise ValueError(f"{who}: want X [n, C >= 2] and y [n] or [n, M]; got {np.shape(X)} and {np.shape(y)}.")


def _prepared(key: Key, X: Any, y: Any, validation: Any) -> _Data:
    """Check the data, hold some of it out, and scale it by what is trained on."""
    _checked("choose_channels", X, y)
    _checks.check_on_host("choose_channels", key)
    dtype = jnp.promote_types(jnp.result_type(np.asarray(X), np.asarray(y)), jnp.float32)
    X, y = np.asarray(X, np.float64), np.asarray(y, np.float64)
    if validation is None:
        if len(X) < 2:
            raise ValueError("choose_channels: X must have at least 2 rows: some are held out. Got 1.")
        order = np.asarray(jax.random.permutation(key, len(X)))
        held, kept = np.split(order, [math.ceil(len(X) / 5)])
        X, y, held_X, held_y = X[kept], y[kept], X[held], y[held]
    else:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise TypeError(f"choose_channels: validation must be a pair (X, y), got {_checks.shown(validation)}.")
        _checked("choose_channels: validation", *validation)
        held_X, held_y = (np.asarray(one, np.float64) for one in validation)
        if held_X.shape[1:] != X.shape[1:] or held_y.shape[1:] != y.shape[1:]:
            raise ValueError(
                f"choose_channels: validation must have the columns of X and y, {X.shape[1:]} and {y.shape[1:]}; got "
                f"{held_X.shape[1:]} and {held_y.shape[1:]}."
            )
    scale, unit = _units(X), _units(y)
    cast = lambda value: jnp.asarray(value, dtype)
    table = lambda y: cast((y / unit).reshape(len(y), -1))
    center = cast(np.median(X / scale, 0))
    return _Data((cast(X / scale), table(y)), (cast(held_X / scale), table(held_y)), center, cast(scale), cast(unit))


def _units(values: np.ndarray) -> np.ndarray:
    """99th percentiles of absolute values, or their largest, or 1."""
    size = np.abs(values)
    found = np.quantile(size, 0.99, axis=0)
    found = np.where(found > 0, found, size.max(0))
    return np.where(found > 0, found, 1.0)


def _least(worth: Any, mask: np.ndarray, count: int) -> np.ndarray:
    """Mark the open channels of least worth; of equal ones, the first."""
    order = np.argsort(np.where(mask, np.asarray(worth), np.inf), kind="stable")
    marked = np.zeros_like(mask)
    marked[order[:count]] = True
    return marked


def _gap(worth: Any, mask: np.ndarray, drop: np.ndarray) -> float:
    worth = np.asarray(worth)
    return float(worth[mask & ~drop].min() - worth[drop].max()) if drop.any() else math.inf


def _beats(errors: Any, mean: np.ndarray) -> bool:
    """Whether square errors of rows are below those of the mean, by three standard errors of the difference."""
    better = mean - np.asarray(errors)
    return len(better) > 1 and bool(better.mean() > 3 * better.std(ddof=1) / math.sqrt(len(better)))


def _nets(key: Key, score: Any, task: Any, data: _Data) -> _Nets:
    """The networks as trees, fresh ones where none are given, with the shapes of what they return checked."""
    count, outputs = data.train[0].shape[1], data.train[1].shape[1]
    keys = jax.random.split(key)
    given = lambda name, value: as_tree(f"choose_channels: {name}", value, f"{name}(X)")
    # A gate grows as the square of the task's weight on it less that of the first draw: a large draw drowns the scores.
    fresh = lambda key, last, gain: jax.tree_util.Partial(_perceptron, _layers(key, (count, WIDTH, last), gain, data))
    nets = _Nets(
        fresh(keys[0], count, 0.0) if score is None else given("score", score),
        fresh(keys[1], outputs, 1.0) if task is None else given("task", task),
    )
    # Weakly typed numbers would make the step compile twice.
    nets = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype) if isinstance(leaf, jax.Array) else leaf, nets)
    for name, net, width in (("score", nets.score, count), ("task", nets.task, outputs)):
        got = jax.eval_shape(net, data.held[0])
        if getattr(got, "shape", None) != (len(data.held[0]), width):
            shown = getattr(got, "shape", type(got))
            raise ValueError(f"choose_channels: {name} must map [n, {count}] to [n, {width}], got {shown}.")
    return nets


def _layers(key: Key, sizes: tuple[int, int, int], last: float, data: _Data) -> list[dict[str, jax.Array]]:
    """Layers of a perceptron with a small first one; a last gain of 0 makes its first output exactly 0."""
    dtype = data.center.dtype
    layers = []
    for k, (a, b, gain) in enumerate(zip(sizes, sizes[1:], (0.1, last), strict=False)):
        W = gain / math.sqrt(a) * jax.random.normal(jax.random.fold_in(key, k), (a, b), dtype)
        layers.append({"W": W, "b": jnp.zeros(b, dtype)})
    return layers


def _perceptron(layers: Any, X: jax.Array) -> jax.Array:
    first, last = layers
    # Small first weights leave of tanh a linear map, which is blind to even functions such as |x|; a kink scales along.
    hidden = jax.nn.relu(jnp.matmul(X, first["W"], precision=HIGHEST) + first["b"][None])
    return jnp.matmul(hidden, last["W"], precision=HIGHEST) + last["b"][None]


def _square_errors(gate: Gate, nets: _Nets, batch: Any) -> jax.Array:
    """Square errors of the task behind a gate, mean over the targets, [rows]."""
    X, y = batch
    return jnp.mean((nets.task(through(gate, scores_of(nets.score, X), X)) - y) ** 2, 1)


def _miss(gate: Gate, key: Key, nets: _Nets, batch: Any) -> tuple[jax.Array, None]:
    """Their mean over the rows: the loss of `minimise`."""
    return jnp.mean(_square_errors(gate, nets, batch)), None


@jax.jit
def _row_errors(gate: Gate, nets: _Nets, data: Any) -> jax.Array:
    """Square errors of held-out rows, with the fixed weights."""
    return _square_errors(gate._replace(mix=jnp.zeros_like(gate.mix)), nets, data)


@jax.jit
def _missed(gate: Gate, nets: _Nets, data: Any) -> jax.Array:
    """Close each channel in turn, and say what the loss is then, [C]."""
    one = lambda c: jnp.mean(_square_errors(gate._replace(open=gate.open.at[c].set(0)), nets, data))
    return jax.lax.map(one, jnp.arange(gate.open.shape[0]))


@jax.jit
def _mean_scores(score: Any, X: jax.Array) -> jax.Array:
    return jnp.mean(scores_of(score, X), 0)


@functools.cache
def _adam() -> Any:
    import optax

    return optax.adam(RATE)


class _Fit(NamedTuple):
    schedule: ChannelSchedule
    optimiser: Any
    batch: int
    data: _Data

    @property
    def mean_errors(self):
        """[held-out rows] square errors of the mean of the targets."""
        centre = np.mean(np.asarray(self.data.train[1]), 0, keepdims=True)
        return np.mean((np.asarray(self.data.held[1]) - centre) ** 2, 1)

    def stage(self, key, nets, mask, drop, weight, *, first):
        """Train at one size: what it starts with, what it closes, the weights so far -> nets, weights, gate, loss."""
        schedule, data = self.schedule, self.data
        steps, dtype = len(data.train[0]) // self.batch, data.center.dtype
        state, best, epoch = None, (math.inf, 0, nets), 0
        for epoch in range(schedule.epochs):
            if epoch == schedule.settle:
                weight = (weight + _mean_scores(nets.score, data.train[0])) / 2
            mix, left = (jnp.asarray(one, dtype) for one in schedule(epoch, first))
            gate = Gate(mix, jnp.where(drop, left, jnp.asarray(mask, dtype)), weight, data.center)
            loss = jax.tree_util.Partial(_miss, gate)
            state = state if state is None else state._replace(loss=(loss,))
            nets, info = minimise(
                key, loss, nets, data.train, optimiser=self.optimiser, steps=steps * (epoch + 1), batch=self.batch,
                state=state,
            )  # fmt: skip
            if info.stopped:
                raise KeyboardInterrupt
            state = info.state
            if epoch >= schedule.warm:
                error = float(jnp.mean(_row_errors(gate, nets, data.held)))
                best = (error, epoch, nets) if not error >= best[0] else best
                if epoch - best[1] >= schedule.patience:
                    break
        error, _, nets = best
        behind = _mean_scores(nets.score, data.train[0]) if first else weight
        return nets, behind, gate._replace(mix=jnp.zeros_like(gate.mix)), error, epoch + 1
