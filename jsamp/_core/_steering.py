"""How a runner asks a steer: the helpers behind the page `jsamp/steer/_protocol.py`, below every room that runs one."""

from __future__ import annotations

from typing import Any

import jax

HOOKS = ("init", "time", "mid", "post", "final")
RETURNS = {"mid": "(g, x, prediction, index)", "post": "(g, x, keep_history)", "final": "(x, report)"}


def stochastic(steer: Any) -> bool:
    """Whether a steer says that its hooks draw random numbers; a steer that says nothing does not."""
    return bool(getattr(steer, "stochastic", False))


def on_noise(steer: Any) -> str | None:
    """Say whether a steer's post "changes" the noise that the row drew, "reads" it, or neither (None)."""
    return getattr(steer, "on_noise", None)


def chooses(steer: Any) -> bool:
    """Whether `final` of a steer returns one of the particles, without their axis; one that says nothing does not."""
    return bool(getattr(steer, "chooses", False))


def wrapped(steer: Any, g: Any, denoiser: Any) -> Any:
    """The denoiser of this row, as the steer's optional `wrap` makes it."""
    return steer.wrap(g, denoiser) if hasattr(steer, "wrap") else denoiser


def ask(steer: Any, hook: str, *args: Any) -> Any:
    """Call a hook, and refuse what it must not return: an x of as many rows would pass for the parts."""
    found, wanted = getattr(steer, hook)(*args), RETURNS[hook]
    if not isinstance(found, tuple) or len(found) != wanted.count(",") + 1:
        got = f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__
        raise TypeError(f"{type(steer).__name__}: {hook} must return {wanted}, got {got}.")
    if hook == "post" and found[2] is None:
        raise TypeError(f"{type(steer).__name__}: post must return True or False for keep_history, got None.")
    return found


def reordered(steer: Any, g: Any, index: Any) -> Any:
    """The steer's state after another one has reordered the particles, by its optional `reorder`."""
    return steer.reorder(g, index) if hasattr(steer, "reorder") else g


def check_steer(who: str, steer: Any) -> None:
    """Refuse what is no steer: lacking hooks, a class in place of an instance, an object that is no JAX tree."""
    if isinstance(steer, type):
        raise TypeError(f"{who} must be a steer, got the class {steer.__name__}. Pass an instance of it.")
    missing = [name for name in HOOKS if not callable(getattr(steer, name, None))]
    if missing and callable(steer):
        raise TypeError(
            f"{who}: {type(steer).__name__} is a function, but no steer. A noise of your own goes into "
            f"js.steer.OwnNoise, what you want to keep of a run into keep=; other steers derive from js.steer.Hooks."
        )
    if missing:
        raise TypeError(
            f"{who}: {type(steer).__name__} lacks the hooks {', '.join(missing)} of js.steer.Steer. Derive the class "
            f"from js.steer.Hooks, which has all of them in neutral form."
        )
    if any(leaf is steer for leaf in jax.tree.leaves(steer)):
        raise TypeError(
            f"{who}: {type(steer).__name__} is not a JAX tree. Decorate its class with @js.pytree, or derive it from "
            f"js.steer.Hooks."
        )


def explain_missing_key(who: str, steer: Any, error: Exception) -> None:
    """Say that hooks drew without a key, when this is what JAX's error means; else return."""
    if "PRNG key" in str(error) and "None" in str(error):
        raise ValueError(
            f"{who}: key is None, but a hook of {type(steer).__name__} draws random numbers. Pass "
            f"key=jax.random.key(0), and give the steer the class attribute stochastic = True."
        ) from error
