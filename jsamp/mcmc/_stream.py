"""The host driver: chunks of one compiled scan, with progress, interruption, checkpoints and exact resume."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _npz
from jsamp._core._progress import bar
from jsamp._core._random import words
from jsamp._core._types import Key, Result, Tree
from jsamp.mcmc import _drive as d
from jsamp.mcmc import _protocol as protocol
from jsamp.mcmc._origin import kind, numbers
from jsamp.mcmc._protocol import Kernel


def stream(
    key: Key,
    kernel: Kernel,
    x: Tree,
    num: int,
    *,
    chunk: int = 1000,
    state: d.ChainState | None = None,
    keep: Callable | None = None,
    thin: int = 1,
    reduce: tuple = (),
    progress: bool = False,
) -> Iterator[Result]:
    """Run a kernel in chunks from the host: bounded memory, a progress bar, Ctrl-C, resume.

    A generator. Every chunk runs one compiled program; the draws are bit for bit those of `chain`, whatever the chunk
    length, and a run continued from a saved state is bit for bit the run that was not interrupted. Ctrl-C (or `break`)
    ends the loop; everything yielded so far stays with the caller, and `result.info.state` continues the run.

    Args:
        key: the key of the whole run; pass the same one when resuming (another one is refused).
        kernel: a `Kernel` for one chain, or `ensemble(kernel)` for many.
        x: start position. Not used when `state` is given, beyond checking it.
        num: kept draws of the whole run, those before `state` included.
        chunk: kept draws per yielded result.
        state: a `ChainState`, from `result.info.state` or `load`, to resume from. Where the kernel's numbers or data
            are not those of the run that wrote it, what it holds of the target is computed anew.
        keep: as in `chain`.
        thin: as in `chain`.
        reduce: as in `chain`; their carries are part of the state.
        progress: draw a tqdm bar when tqdm is installed (the extra `mcmc`).

    Returns:
        An iterator of `Result(x, info)`; x has a leading axis of at most `chunk` ([chains, chunk] for an `ensemble`),
        `info.state` is the state after it.

    Raises:
        TypeError: for something that is not a kernel or a key, or a state of another kernel or position.
        ValueError: for counts below 1, a non-finite start, another key than that of the state, or a state beyond the
            end of the run.

    Example:
        >>> import jax, jax.numpy as jnp, jsamp as js
        >>> kernel = js.mcmc.ULA(lambda x: -jnp.sum(x**2) / 2, step_size=0.1)
        >>> [r.x.shape for r in js.mcmc.stream(jax.random.key(0), kernel, jnp.zeros(2), 250, chunk=100)]
        [(100, 2), (100, 2), (50, 2)]

    Cost:
        num * thin steps; memory chunk * what `keep` returns, one compilation per chunk length (at most two).
    """
    tree, keep, reduce = d.door("stream", key, kernel, keep, thin, reduce)
    num, chunk = _checks.check_count("stream: num", num), _checks.check_count("stream: chunk", chunk)
    progress = _checks.check_flag("stream: progress", progress)
    if state is None:
        d.check_position(tree, x)
        run: d.ChainState = d.begin(key, tree, x, reduce)
        d.check_start("stream", tree, x, run.kernel)
    else:
        _match("stream: state", state, jax.eval_shape(d.begin, key, tree, x, reduce))
        run = _resumed(key, tree, state)
    done, rest = divmod(int(run.step), thin)
    if done > num or rest:
        raise ValueError(f"stream: the state is at step {int(run.step)}, the run is {num} draws of {thin} steps.")
    return _chunks(key, tree, keep, reduce, run, done, num, chunk, thin, progress)


def _resumed(key, kernel, run):
    """The state of a run to continue: of this key and kind of kernel, with a cache of this target."""
    made = np.asarray(run.origin)
    if made[1] != kind(kernel):
        raise TypeError(f"stream: the state was made by another kernel than {type(kernel).__name__}. Resume with it.")
    if made[0] != numbers(words(key)):
        raise ValueError("stream: the state was made with another key. Resume with the key of the first run.")
    now = numbers(kernel)
    if made[2] == now:
        return run  # bit for bit the run that was not interrupted
    fresh = protocol.refreshed(kernel, run.kernel.position, protocol.memory_of(run.kernel))
    return run._replace(kernel=fresh, origin=run.origin.at[2].set(now))


def _chunks(key, kernel, keep, reduce, state, done, num, chunk, thin, progress):
    with contextlib.suppress(KeyboardInterrupt), bar(progress, num, done=done) as advance:
        while done < num:
            size = min(chunk, num - done)
            state, kept, sums = d.advance(key, kernel, reduce, keep, state, 0, num=size, thin=thin, burning=False)
            jax.block_until_ready(kept)
            done += size
            advance(size)
            reduced = tuple(r.value(c) for r, c in zip(reduce, state.reducers, strict=True))
            yield Result(kept, d.ChainInfo(state, sums[0] / (size * thin), sums[1], sums[2], reduced))


def _match(name, got, wanted):
    if jax.tree.structure(got) != jax.tree.structure(wanted):
        raise TypeError(
            f"{name} belongs to another kernel: its structure is {jax.tree.structure(got)}, wanted "
            f"{jax.tree.structure(wanted)}. Resume with the kernel, position and reducers of the first run."
        )
    for (path, leaf), want in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        if jnp.shape(leaf) != want.shape or leaf.dtype != want.dtype:
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} is {leaf.dtype}{list(jnp.shape(leaf))}, wanted "
                f"{want.dtype}{list(want.shape)}. Resume with the position of the first run."
            )


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save(path: str | pathlib.Path, state: Tree) -> None:
    """Write the state of a run to one `.npz` file: the whole of it, or nothing.

    The file is written beside its place, flushed to the disk, and then takes the place in one step, so that an earlier
    file stays whole until the new one is.

    Args:
        path: file name; `.npz` is appended when it does not end so.
        state: a `ChainState` (or any tree of arrays and typed keys).

    Raises:
        TypeError: for a leaf that is no array.
        OSError: when the file cannot be written; nothing is left of it.

    Example:
        >>> import jax, jsamp as js, tempfile
        >>> kernel = js.mcmc.ULA(lambda x: -x**2 / 2, step_size=0.1)
        >>> state = js.mcmc.chain(jax.random.key(0), kernel, 0.0, 5).info.state
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     js.mcmc.save(folder + "/run.npz", state)
        ...     int(js.mcmc.load(folder + "/run.npz", kernel, 0.0).step)
        5

    Cost:
        Writing the state once.
    """
    path = _named("save", path)
    arrays, names = {}, []
    for i, (where, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
        if not (hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float))):
            raise TypeError(f"save: state{jax.tree_util.keystr(where)} must be an array, got {type(leaf).__name__}.")
        leaf = jnp.asarray(leaf)
        names.append([jax.tree_util.keystr(where), str(leaf.dtype)])
        leaf = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        # npz has no bfloat16: the bits travel as bytes, the dtype in the header.
        arrays[f"leaf{i}"] = leaf if leaf.dtype.kind in "biufc" else leaf[..., None].view(np.uint8)
    arrays["header"] = np.frombuffer(json.dumps(names).encode(), np.uint8)
    _npz.write(path, arrays)


def _named(who, path):
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{who}: path must be a file name, got {_checks.shown(path)}.")
    path = pathlib.Path(path)
    return path if path.name.endswith(".npz") else path.with_name(path.name + ".npz")


def load(path: str | pathlib.Path, kernel: Kernel, x: Tree, *, reduce: tuple = ()) -> d.ChainState:
    """Read a state written by `save`, for the kernel, position and reducers of that run.

    Args:
        path: file name.
        kernel: the kernel of the run (its numbers may differ: the state holds none of them).
        x: a position of the same structure.
        reduce: the reducers of the run.

    Returns:
        The `ChainState`, bit for bit.

    Raises:
        FileNotFoundError: when there is no such file.
        TypeError: when the file belongs to another kernel, position or set of reducers.
        ValueError: when the file is damaged, or was not written by `save`.

    Example:
        >>> import jax, jsamp as js, tempfile
        >>> kernel = js.mcmc.ULA(lambda x: -x**2 / 2, step_size=0.1)
        >>> state = js.mcmc.chain(jax.random.key(0), kernel, 0.0, 5).info.state
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     js.mcmc.save(folder + "/run.npz", state)
        ...     bool(js.mcmc.load(folder + "/run.npz", kernel, 0.0).kernel.position == state.kernel.position)
        True

    Cost:
        Reading the file.
    """
    tree = d.as_kernel(kernel)
    like = jax.eval_shape(d.begin, jax.random.key(0), tree, x, tuple(reduce))
    wanted = jax.tree_util.tree_leaves_with_path(like)
    path = _named("load", path)
    names, raw = _read(path)
    expected = [[jax.tree_util.keystr(where), str(leaf.dtype)] for where, leaf in wanted]
    if names != expected:
        differ = [pair for pair in zip(names, expected, strict=False) if pair[0] != pair[1]]
        first = differ[0] if differ else (f"{len(names)} arrays", f"{len(expected)} arrays")
        raise TypeError(f"load: the file holds another run: {first[0]} where {first[1]} was wanted.")
    leaves = [_restored(path, array, want) for array, (_, want) in zip(raw, wanted, strict=True)]
    state = jax.tree.unflatten(jax.tree.structure(like), leaves)
    _match("load: state", state, like)
    if np.asarray(state.origin)[1] != kind(tree):
        raise TypeError(f"load: the file holds another run: its kernel is no {type(kernel).__name__}.")
    return state


def _read(path):
    """Names and arrays of a file, or one refusal for all the ways in which it may be damaged."""
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            names = json.loads(bytes(file["header"]).decode())
            return names, [file[f"leaf{i}"] for i in range(len(names))]
    except FileNotFoundError:
        raise
    except _npz.DAMAGE as error:
        raise ValueError(
            f"load: {path.name} is damaged, or was not written by jsamp.mcmc.save ({type(error).__name__}: {error})."
        ) from error


def _restored(path, array, want):
    try:
        if _is_key(want):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(want))
        if array.dtype != want.dtype:
            array = array.view(want.dtype)[..., 0]
        return jnp.asarray(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"load: {path.name} is damaged: {error}.") from error
