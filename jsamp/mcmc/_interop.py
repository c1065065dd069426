"""Bridges: numpyro models in, arviz out."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsamp._core import _checks, _tree
from jsamp._core._pytree import pytree, static
from jsamp._core._types import Key, Tree


@pytree
class _Model:
    # Arrays and floating numbers among the arguments are leaves: another data set of the same shapes, or another prior
    # scale, does not recompile. Everything else (counts, names, flags) is structure, because models branch and build
    # shapes with it.
    arrays: tuple
    function: Any = static()
    rest: tuple = static()
    structure: Any = static()

    def arguments(self):
        arrays = iter(self.arrays)
        leaves = [next(arrays) if value is _ARRAY else value for value in self.rest]
        return jax.tree.unflatten(self.structure, leaves)


_ARRAY = object()


def _is_number(leaf):
    # Narrower than `_callable.is_number`: a numpy integer is a count here, as models build shapes with it.
    return isinstance(leaf, (jax.Array, np.ndarray, float, np.floating))


def _split(function, args, kwargs):
    leaves, structure = jax.tree.flatten((args, kwargs))
    held = [_is_number(leaf) for leaf in leaves]
    arrays = tuple(jnp.asarray(leaf) for leaf, yes in zip(leaves, held, strict=True) if yes)
    rest = tuple(_ARRAY if yes else leaf for leaf, yes in zip(leaves, held, strict=True))
    return _Model(arrays, function, rest, structure)


@pytree
class _Density:
    model: _Model

    def __call__(self, z):
        from numpyro.infer.util import potential_energy

        args, kwargs = self.model.arguments()
        return -potential_energy(self.model.function, args, kwargs, z)


@pytree
class _Constrain:
    model: _Model

    def __call__(self, z):
        from numpyro.infer.util import constrain_fn

        args, kwargs = self.model.arguments()
        return constrain_fn(self.model.function, args, kwargs, z, return_deterministic=True)


class NumpyroModel(NamedTuple):
    """Hold a numpyro model as jsamp takes it; made by `from_numpyro`.

    Args:
        logdensity: log joint density over the unconstrained sites, a callable tree whose leaves are the data.
        x: an initial position, a dictionary of unconstrained sites.
        constrain: maps one position to the model's sites, deterministic ones included; vmap it over draws.

    Example:
        >>> import jsamp as js
        >>> js.mcmc.NumpyroModel._fields
        ('logdensity', 'x', 'constrain')
    """

    logdensity: Any
    x: Any
    constrain: Any

    def starts(self, key: Key, num: int) -> Tree:
        """Draw starts for several chains: uniform in [-2, 2] in the unconstrained space, where the density is finite.

        Args:
            key: one JAX key.
            num: number of chains (static).

        Returns:
            A tree like `x` with a leading axis [num]. Of 20 candidates per chain the first with a finite log-density
            and gradient is taken (the last, where there is none).
        """
        _checks.check_key(key, "starts")
        _checks.check_count("starts: num", num)
        return _starts(key, self.logdensity, self.x, num)


CANDIDATES, RADIUS = 20, 2.0


@functools.partial(jax.jit, static_argnames="num")
def _starts(key, logdensity, x, num):
    def one(key):
        leaves, structure = jax.tree.flatten(x)
        keys = jax.random.split(key, len(leaves))
        drawn = [jax.random.uniform(k, v.shape, v.dtype, -RADIUS, RADIUS) for k, v in zip(keys, leaves, strict=True)]
        drawn = jax.tree.unflatten(structure, drawn)
        value, slope = jax.value_and_grad(logdensity)(drawn)
        return drawn, jnp.isfinite(value) & _tree.all_finite(slope)

    def search(key):
        def go_on(carry):
            i, _, good = carry
            return (i < CANDIDATES) & ~good

        def attempt(carry):
            i, *_ = carry
            return (i + 1, *one(jax.random.fold_in(key, i)))

        return jax.lax.while_loop(go_on, attempt, (jnp.int32(1), *one(jax.random.fold_in(key, 0))))[1]

    return jax.vmap(search)(jax.random.split(key, num))


def _refuse_sites(model, key, args, kwargs):
    """Refuse a model whose joint density is no function of continuous sites alone."""
    from numpyro import handlers
    from numpyro.primitives import Messenger

    class Watch(Messenger):  # a trace leaves out what has no name
        def process_message(self, msg):
            if msg["type"] == "prng_key":
                raise ValueError(
                    "from_numpyro: the model draws a key by numpyro.prng_key() (a callable start of numpyro.param "
                    "does, too), so its density is not one function of its sites. Make what is random a site, or draw "
                    "it before and pass it as an argument."
                )

    sites = handlers.trace(handlers.seed(Watch(model), key)).get_trace(*args, **kwargs)
    for name, site in sites.items():
        kind = site["type"]
        if kind == "sample" and not site["is_observed"] and site["fn"].support.is_discrete:
            raise ValueError(
                f"from_numpyro: site {name!r} is discrete and has no gradient. Sum it out, for example by "
                f"numpyro.distributions.MixtureSameFamily."
            )
        if kind == "plate" and site["args"][1] not in (None, site["args"][0]):
            raise ValueError(
                f"from_numpyro: plate {name!r} takes {site['args'][1]} of {site['args'][0]} rows at random, so there "
                f"is no density. Leave subsample_size out; for minibatches see js.mcmc.SGLD."
            )


def from_numpyro(model: Any, *args: Any, key: Key | None = None, **kwargs: Any) -> NumpyroModel:
    """Read a numpyro model: its log-density, a start, and the map back to its sites.

    Args:
        model: a numpyro model with continuous latent sites (supports that depend on other sites are not taken).
        *args: the model's arguments; arrays and floating numbers among them are leaves of the log-density.
        key: key of the initial position; default `jax.random.key(0)`. A model argument named `key` is passed by
            `functools.partial`. Under `vmap` over keys, `x` is one start per key.
        **kwargs: the model's keyword arguments.

    Returns:
        `NumpyroModel(logdensity, x, constrain)`.

    Raises:
        ImportError: without numpyro (the extra `mcmc`).
        TypeError: for a model that is not callable, or a key that is none.
        ValueError: for a model with a discrete latent site, a plate that subsamples, a dynamic support, randomness of
            its own (`numpyro.prng_key`), or no continuous latent site.

    Example:
        >>> import jax
        >>> import jsamp as js
        >>> def model(y):
        ...     import numpyro, numpyro.distributions as dist
        ...     scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(0.0, scale), obs=y)
        >>> target = js.mcmc.from_numpyro(model, 1.5)
        >>> draws = js.mcmc.chain(jax.random.key(0), js.mcmc.NUTS(target.logdensity), target.x, 5).x
        >>> bool((jax.vmap(target.constrain)(draws)["scale"] > 0).all())
        True

    Cost:
        One trace of the model here; a log-density costs one run of the model.
    """
    from numpyro.infer.util import initialize_model

    _checks.check_callable("from_numpyro: model", model, "model(*args)")
    key = jax.random.key(0) if key is None else key
    _checks.check_key(key, "from_numpyro")
    split = _split(model, args, kwargs)
    args, kwargs = split.arguments()
    _refuse_sites(model, key, args, kwargs)
    found = initialize_model(key, model, model_args=args, model_kwargs=kwargs, dynamic_args=False, validate_grad=False)
    x = found.param_info.z
    if not jax.tree.leaves(x):
        raise ValueError("from_numpyro: the model has no continuous latent site to sample.")
    density = _Density(split)
    start = jax.tree.map(jnp.asarray, x)
    mine, theirs = _checks.concrete(density(start)), _checks.concrete(found.potential_fn(start))
    if mine is not None and theirs is not None and not np.isclose(mine, -theirs, rtol=1e-4, atol=1e-3):
        raise ValueError(
            "from_numpyro: the model's supports depend on other sites, which is not taken. Reparametrise it with fixed "
            "supports."
        )
    return NumpyroModel(density, start, _Constrain(split))


def to_arviz(draws: Any, *, diagnostics: dict | None = None, chains: bool = True) -> Any:
    """Hand draws to arviz, as its `InferenceData`.

    Args:
        draws: [chains, draws, ...], a tree; a dictionary names its variables, other leaves are named by their path.
        diagnostics: [chains, draws] arrays for `sample_stats`; arviz calls them `acceptance_rate`, `diverging`,
            `energy`, `lp`.
        chains: False when there is no chain axis.

    Returns:
        An `arviz.InferenceData` with a posterior group.

    Raises:
        ImportError: without arviz below 1 (the extra `mcmc`).

    Example:
        >>> import jax.numpy as jnp
        >>> import jsamp as js
        >>> js.mcmc.to_arviz({"a": jnp.zeros((2, 10, 3))}).posterior["a"].shape
        (2, 10, 3)

    Cost:
        One copy to the host.
    """
    import arviz  # pyright: ignore[reportMissingImports]

    chains = _checks.check_flag("to_arviz: chains", chains)

    def named(tree):
        if isinstance(tree, dict) and all(hasattr(leaf, "shape") for leaf in tree.values()):
            items = tree.items()
        else:
            items = [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
        arrays = {str(name): np.asarray(leaf) for name, leaf in items}
        return arrays if chains else {name: leaf[None] for name, leaf in arrays.items()}

    return arviz.from_dict(posterior=named(draws), sample_stats=None if diagnostics is None else named(diagnostics))


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator=".") or "x"
