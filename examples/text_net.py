"""Two small character models in plain jax.numpy, and the text that they were trained on.

`masked` is a transformer for masked diffusion: (x [L], t) -> logits [L, V]. It ignores t: the best prediction depends
on what is masked alone. `recurrent` is a gated recurrent unit for autoregression: (carry, token) -> (carry, logits).
Weights are trees of arrays, made by `train_text.py`; the text is the documentation that every Python carries.
"""

from __future__ import annotations

import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""Characters by token id; anything else is read as a space."""
VOCABULARY = len(ALPHABET)
MASK = VOCABULARY
LENGTH = 128
WIDTH, LAYERS, HEADS, HIDDEN, REACH = 96, 2, 4, 160, 4
MODELS = pathlib.Path(__file__).parent / "models"


def corpus() -> np.ndarray:
    """The topics of Python's own help system, as token ids: about 465,000 characters of technical English."""
    from pydoc_data.topics import topics

    return encode("\n".join(topics[name] for name in sorted(topics)))


def encode(text: str) -> np.ndarray:
    """Token ids of a text."""
    place = {character: i for i, character in enumerate(ALPHABET)}
    return np.array([place.get(character, place[" "]) for character in text], np.int32)


def decode(tokens) -> str:
    """The text of token ids; masks are shown as a low line, errors as a question mark."""
    shown = ALPHABET + "_"
    return "".join(shown[i] if 0 <= i < len(shown) else "?" for i in np.asarray(tokens).tolist())


def split(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training part, and the last twentieth for tests."""
    cut = len(tokens) - len(tokens) // 20
    return tokens[:cut], tokens[cut:]


def fingerprint(tokens: np.ndarray) -> str:
    """The first digits of a hash of the text: versions of Python differ in a few pages."""
    return hashlib.sha256(np.asarray(tokens, np.uint8).tobytes()).hexdigest()[:12]


def _scaled(key, *shape):
    return jax.random.normal(key, shape) / np.sqrt(shape[0])


def init_masked(key) -> dict:
    """Random weights of the transformer."""
    keys = iter(jax.random.split(key, 4 + 4 * LAYERS))
    params = {
        "embed": 0.3 * jax.random.normal(next(keys), (VOCABULARY + 1, WIDTH)),
        "place": 0.1 * jax.random.normal(next(keys), (LENGTH, WIDTH)),
        "near": _scaled(next(keys), (2 * REACH + 1) * WIDTH, WIDTH),
        "out": _scaled(next(keys), WIDTH, VOCABULARY),
        "bias": jnp.zeros(VOCABULARY),
        "scale": jnp.ones(WIDTH),
    }
    for i in range(LAYERS):
        params |= {
            f"{i}_qkv": _scaled(next(keys), WIDTH, 3 * WIDTH),
            f"{i}_mix": 0.5 * _scaled(next(keys), WIDTH, WIDTH),
            f"{i}_up": _scaled(next(keys), WIDTH, 4 * WIDTH),
            f"{i}_down": 0.5 * _scaled(next(keys), 4 * WIDTH, WIDTH),
            f"{i}_scale": jnp.ones((2, WIDTH)),
        }
    return params


def _norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def masked(params, x, t):
    """Logits [L, V] of the character at each site of x [L], L <= 128; `t` is not read."""
    length = x.shape[0]
    # What stands next to a site says most about it: a convolution before the attention saves it learning where that is.
    around = jnp.pad(params["embed"][x], ((REACH, REACH), (0, 0)))
    around = jnp.concatenate([around[i : i + length] for i in range(2 * REACH + 1)], 1)
    h = around @ params["near"] + params["place"][:length]
    for i in range(LAYERS):
        scale = params[f"{i}_scale"]
        q, k, v = jnp.split((_norm(h, scale[:1]) @ params[f"{i}_qkv"]).reshape(length, HEADS, -1), 3, -1)
        weight = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k) / np.sqrt(WIDTH / HEADS))
        h = h + jnp.einsum("hqk,khd->qhd", weight, v).reshape(length, WIDTH) @ params[f"{i}_mix"]
        h = h + jax.nn.gelu(_norm(h, scale[1:]) @ params[f"{i}_up"]) @ params[f"{i}_down"]
    return _norm(h, params["scale"][None]) @ params["out"] + params["bias"][None]


def init_recurrent(key) -> dict:
    """Random weights of the recurrent unit."""
    k = jax.random.split(key, 4)
    return {
        "embed": 0.3 * jax.random.normal(k[0], (VOCABULARY, WIDTH)),
        "read": _scaled(k[1], WIDTH, 3 * HIDDEN),
        "keep": _scaled(k[2], HIDDEN, 3 * HIDDEN),
        "gates": jnp.zeros(3 * HIDDEN),
        "out": _scaled(k[3], HIDDEN, VOCABULARY),
        "bias": jnp.zeros(VOCABULARY),
    }


def recurrent(params, carry, token):
    """The next carry [HIDDEN], and logits [V] of the next character."""
    z, r, n = jnp.split(params["embed"][token] @ params["read"] + params["gates"], 3)
    hz, hr, hn = jnp.split(carry @ params["keep"], 3)
    z, r = jax.nn.sigmoid(z + hz), jax.nn.sigmoid(r + hr)
    carry = (1 - z) * carry + z * jnp.tanh(n + r * hn)
    return carry, carry @ params["out"] + params["bias"]


def empty_carry():
    """The recurrent model's carry before a text."""
    return jnp.zeros(HIDDEN)


def load(kind: str, path: str | pathlib.Path | None = None):
    """A trained model, "masked" or "recurrent", as a callable tree with float32 weights."""
    with np.load(path or MODELS / f"text_{kind}.npz") as file:
        params = {name: jnp.asarray(file[name], jnp.float32) for name in file.files}
    return jax.tree_util.Partial({"masked": masked, "recurrent": recurrent}[kind], params)


def save(kind: str, params: dict, path: str | pathlib.Path | None = None) -> None:
    """Write weights as float16."""
    np.savez(path or MODELS / f"text_{kind}.npz", **{name: np.asarray(v, np.float16) for name, v in params.items()})
