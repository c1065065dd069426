"""The host driver: chunks of one compiled scan, with progress, interruption, checkpoints and exact resume."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks
from jsamp._core._types import Result
from jsamp.mcmc import _drive as d


def stream(
    key: Any,
    kernel: Any,
    x: Any,
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
        key: the key of the whole run; pass the same one when resuming.
        kernel: a `Kernel` for one chain, or `ensemble(kernel)` for many.
        x: start position. Not used when `state` is given, beyond checking it.
        num: kept draws of the whole run, those before `state` included.
        chunk: kept draws per yielded result.
        state: a `ChainState`, from `result.info.state` or `load`, to resume from.
        keep: as in `chain`.
        thin: as in `chain`.
        reduce: as in `chain`; their carries are part of the state.
        progress: draw a tqdm bar when tqdm is installed (the extra `mcmc`).

    Returns:
        An iterator of `Result(x, info)`; x has a leading axis of at most `chunk`, `info.state` is the state after it.

    Raises:
        TypeError: for something that is not a kernel or a key, or a state of another kernel or position.
        ValueError: for counts below 1, a non-finite start, or a state beyond the end of the run.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsamp import mcmc
        >>> kernel = mcmc.ULA(lambda x: -jnp.sum(x**2) / 2, step_size=0.1)
        >>> [r.x.shape for r in mcmc.stream(jax.random.key(0), kernel, jnp.zeros(2), 250, chunk=100)]
        [(100, 2), (100, 2), (50, 2)]

    Cost:
        num * thin steps; memory chunk * what `keep` returns, one compilation per chunk length (at most two).
    """
    kernel, keep = d.door("stream", key, kernel, keep, thin)
    num, chunk = _checks.check_count("stream: num", num), _checks.check_count("stream: chunk", chunk)
    reduce = tuple(reduce)
    if state is None:
        run: d.ChainState = d.begin(key, kernel, x, reduce)
        d.check_finite("stream", d.logdensity_of(run.kernel))
    else:
        run = state
        _match("stream: state", run, jax.eval_shape(d.begin, key, kernel, x, reduce))
    done, rest = divmod(int(run.step), thin)
    if done > num or rest:
        raise ValueError(f"stream: the state is at step {int(run.step)}, the run is {num} draws of {thin} steps.")
    return _chunks(key, kernel, keep, reduce, run, done, num, chunk, thin, progress)


def _chunks(key, kernel, keep, reduce, state, done, num, chunk, thin, progress):
    bar = _bar(num, done) if progress else None
    try:
        while done < num:
            size = min(chunk, num - done)
            state, kept, sums = d.advance(key, kernel, reduce, keep, state, 0, num=size, thin=thin, burning=False)
            jax.block_until_ready(kept)
            done += size
            if bar is not None:
                bar.update(size)
            reduced = tuple(r.value(c) for r, c in zip(reduce, state.reducers, strict=True))
            yield Result(kept, d.ChainInfo(state, sums[0] / (size * thin), sums[1], sums[2], reduced))
    except KeyboardInterrupt:
        return
    finally:
        if bar is not None:
            bar.close()


def _bar(total, done):
    try:
        import tqdm  # pyright: ignore[reportMissingModuleSource]
    except ImportError:
        return None
    return tqdm.tqdm(total=total, initial=done, unit="draw")


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


def save(path: str | pathlib.Path, state: Any) -> None:
    """Write the state of a run to one `.npz` file, atomically.

    Args:
        path: file name; `.npz` is appended when missing.
        state: a `ChainState` (or any tree of arrays and typed keys).

    Example:
        >>> import jax, jax.numpy as jnp, tempfile
        >>> from jsamp import mcmc
        >>> kernel = mcmc.ULA(lambda x: -x**2 / 2, step_size=0.1)
        >>> state = mcmc.chain(jax.random.key(0), kernel, 0.0, 5).info.state
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mcmc.save(folder + "/run.npz", state)
        ...     int(mcmc.load(folder + "/run.npz", kernel, 0.0).step)
        5

    Cost:
        One copy of the state to the host.
    """
    path = pathlib.Path(path)
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    arrays, names = {}, []
    for i, (where, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(state)):
        leaf = jnp.asarray(leaf)
        names.append([jax.tree_util.keystr(where), str(leaf.dtype)])
        leaf = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        # npz has no bfloat16: the bits travel as bytes, the dtype in the header.
        arrays[f"leaf{i}"] = leaf if leaf.dtype.kind in "biufc" else leaf.view(np.uint8)
    arrays["header"] = np.frombuffer(json.dumps(names).encode(), np.uint8)
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)


def load(path: str | pathlib.Path, kernel: Any, x: Any, *, reduce: tuple = ()) -> d.ChainState:
    """Read a state written by `save`, for the kernel, position and reducers of that run.

    Args:
        path: file name.
        kernel: the kernel of the run (its numbers may differ: the state holds none of them).
        x: a position of the same structure.
        reduce: the reducers of the run.

    Returns:
        The `ChainState`, bit for bit.

    Raises:
        TypeError: when the file belongs to another kernel, position or set of reducers.

    Example:
        >>> import jax, tempfile
        >>> from jsamp import mcmc
        >>> kernel = mcmc.ULA(lambda x: -x**2 / 2, step_size=0.1)
        >>> state = mcmc.chain(jax.random.key(0), kernel, 0.0, 5).info.state
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mcmc.save(folder + "/run.npz", state)
        ...     bool(mcmc.load(folder + "/run.npz", kernel, 0.0).kernel.position == state.kernel.position)
        True

    Cost:
        Reading the file.
    """
    like = jax.eval_shape(d.begin, jax.random.key(0), d.as_kernel(kernel), x, tuple(reduce))
    wanted = jax.tree_util.tree_leaves_with_path(like)
    path = pathlib.Path(path)
    with np.load(path if path.suffix == ".npz" else path.with_name(path.name + ".npz")) as file:
        names = json.loads(bytes(file["header"]).decode())
        raw = [file[f"leaf{i}"] for i in range(len(names))]
    expected = [[jax.tree_util.keystr(where), str(leaf.dtype)] for where, leaf in wanted]
    if names != expected:
        differ = [pair for pair in zip(names, expected, strict=False) if pair[0] != pair[1]]
        first = differ[0] if differ else (f"{len(names)} arrays", f"{len(expected)} arrays")
        raise TypeError(f"load: the file holds another run: {first[0]} where {first[1]} was wanted.")
    leaves = []
    for array, (_, want) in zip(raw, wanted, strict=True):
        if _is_key(want):
            leaves.append(jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(want)))
        else:
            leaves.append(jnp.asarray(array if array.dtype == want.dtype else array.view(want.dtype)))
    state = jax.tree.unflatten(jax.tree.structure(like), leaves)
    _match("load: state", state, like)
    return state
