"""Every public callable, with one argument wrong at a time: right, or refused by our own ValueError or TypeError.

`python tests/law/test_bad_values.py ROOM ...` (or `room.name`) prints each call that ends otherwise.
"""

import inspect
import pathlib
import sys
import traceback
import warnings

import good_calls
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp

PACKAGE = pathlib.Path(jsamp.__file__).parent
HERE = pathlib.Path(__file__).resolve().parent


class Thing:
    """Nothing that anybody wants."""


BAD = {
    "a key": good_calls.KEY, "text": "no", "None": None, "NaN": float("nan"), "inf": float("inf"), "-1": -1, "0": 0,
    "2^31": 2**31, "0.5": 0.5, "an empty list": [], "no rows": np.zeros((0, 3), np.float32),
    "one row": np.ones((1, 3), np.float32), "a ragged list": [[1.0], [1.0, 2.0]], "a matrix": np.ones((2, 2), np.float32),
    "an object": Thing(), "a dict": {"a": 1.0}, "complex": 1j, "True": True, "strings": np.array(["a", "b"]),
    "labels": np.arange(5),
}  # fmt: skip

# Data that pass through: NaN in, NaN out, as the docstring says; and what a user's own function made NaN of.
NAN_STAYS_VISIBLE = {
    ("denoise.ConservativePart", "coefficient"), ("denoise.ConservativePart", "explained"),
    ("solve.sample", "x"), ("solve.init", "x"), ("solve.output", "state"), ("solve.step", "state"), ("solve.step", "row"),
    ("solve.optimise_start", "until"), ("solve.optimise_start", "x"), ("mcmc.annealed", "sigmas"), ("estimate.rhat", "x"), ("estimate.ess", "x"), ("estimate.mcse", "x"), ("estimate.mean", "x"),
    ("estimate.ebfmi", "energy"), ("mcmc.refresh", "x"), ("mcmc.refresh", "state"), ("mcmc.picked", "info"),
    ("mcmc.annealed", "x"), ("select.RowBlocks", "rows"),
}  # fmt: skip

ERRORS = 0.01  # the share of calls that may still end in an error of a library or of another type


def damaged(value):
    """Yield a good array with one bad entry, a row short, as integers, and in huge and tiny units."""
    if (
        not isinstance(value, (np.ndarray, jax.Array))
        or not jnp.issubdtype(value.dtype, jnp.floating)
        or value.size < 2
    ):
        return
    for name, entry in (("one NaN", np.nan), ("one inf", np.inf)):
        copy = np.array(value)
        copy.flat[1] = entry
        yield name, copy
    yield "a row short", np.array(value)[:-1]
    yield "integers", np.array(value).astype(int)
    for unit in (1e25, 1e-25):
        yield f"in units of {unit}", (np.array(value) * unit).astype(value.dtype)


def outcome(call):
    """Call, and say "right", "refused", "NaN", or where and how it failed."""
    try:
        result = call()
    except Exception as error:
        frames = [pathlib.Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
        ours = frames[-1].is_relative_to(PACKAGE) or frames[-1].is_relative_to(HERE)
        if isinstance(error, (ValueError, TypeError)) and ours:
            return "refused"
        frame = [
            f for f in traceback.extract_tb(error.__traceback__) if pathlib.Path(f.filename).is_relative_to(PACKAGE)
        ]
        where = f"{pathlib.Path(frame[-1].filename).relative_to(PACKAGE)}:{frame[-1].lineno}" if frame else "?"
        return f"{where} {type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
    return "NaN" if any(map(has_nan, jax.tree.leaves(result))) else "right"


def has_nan(leaf):
    """Whether a leaf is a floating array or number with a NaN."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, float) and leaf != leaf
    return isinstance(dtype, np.dtype) and dtype.kind == "f" and bool(np.isnan(np.asarray(leaf)).any())


def calls(name, thing):
    """Yield (parameter, name of the bad value, call) for every parameter of a callable."""
    arguments, options = good_calls.good(name)
    signature = inspect.signature(thing)
    usual = signature.bind(*arguments, **options)
    usual.apply_defaults()
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for label, value in (*BAD.items(), *damaged(usual.arguments[parameter.name])):
            bound = signature.bind(*arguments, **options)
            bound.arguments[parameter.name] = (value,) if parameter.kind is parameter.VAR_POSITIONAL else value
            yield parameter.name, label, lambda bound=bound: thing(*bound.args, **bound.kwargs)


def faults(room):
    """The number of calls, and two lists: errors from elsewhere, and NaN without a word."""
    number, errors, silent = 0, [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, thing in good_calls.public().items():
            if room not in (name, name.split(".")[0]):
                continue
            arguments, options = good_calls.good(name)
            usual = outcome(lambda f=thing, a=arguments, o=options: f(*a, **o))
            if usual not in ("right", "NaN") and name not in good_calls.BY_CALLABLE:
                continue  # new here: its parameters have other meanings than their names say
            assert usual in ("right", "NaN"), f"the good call of {name}: {usual}"
            for parameter, label, call in calls(name, thing):
                found = outcome(call)
                number += 1
                line = f"{name}({parameter}={label}): {found}"
                if found == "NaN" and (name, parameter) not in NAN_STAYS_VISIBLE:
                    silent.append(line)
                elif found not in ("right", "refused", "NaN"):
                    errors.append(line)
    return number, errors, silent


@pytest.mark.parametrize("room", sorted({name.split(".")[0] for name in good_calls.public()}))
def test_one_wrong_argument(room):
    number, errors, silent = faults(room)
    assert len(errors) <= ERRORS * number, f"{len(errors)} of {number}:\n" + "\n".join(errors[:40])
    assert not silent, "\n".join(silent)


if __name__ == "__main__":
    jax.config.update("jax_traceback_filtering", "off")  # as in conftest: the last frame says who raised
    for asked in sys.argv[1:] or sorted({name.split(".")[0] for name in good_calls.public()}):
        number, errors, silent = faults(asked)
        print(
            *errors,
            *silent,
            f"{asked}: {number} calls, {len(errors)} errors from elsewhere, {len(silent)} NaN",
            sep="\n",
        )
