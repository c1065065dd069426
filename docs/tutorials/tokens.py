"""A token model.

You have logits, from a masked or an autoregressive model, and want texts.
"""

# A masked model gives each site the law of its token. This one is exact: texts of six letters out of four, all equal
# to the first or to its neighbour in the alphabet, half of the time each.
import jax
import jax.numpy as jnp

import jsamp as js

VOCABULARY, MASK, LENGTH = 4, 4, 6


def model(x, t):
    """Logits [L, V] given what is known of the text, by counting over the sixteen possible pairs."""
    first = jnp.arange(VOCABULARY)
    allowed = jnp.stack([first, (first + 1) % VOCABULARY], axis=1)  # [first letter, 2]
    fits = (x[None, :, None] == allowed[:, None, :]).any(-1) | (x == MASK)[None]
    belief = jnp.where(fits.all(1) & ((x[0] == MASK) | (x[0] == first)), 1.0, 0.0)
    inside = jnp.einsum("a,aps->s", belief / belief.sum(), jax.nn.one_hot(allowed, VOCABULARY) / 2)
    at_start = belief / belief.sum()
    return jnp.log(jnp.where(jnp.arange(LENGTH)[:, None] == 0, at_start[None], inside[None]) + 1e-9)


# The process says how texts are masked; `first_hitting` draws when each mask is lifted, so that decoding is exact in
# as many calls as there are masks. A decoding is a table, like a plan.
process = js.tokens.Masked(mask=MASK)
masked = jnp.full(LENGTH, MASK)


def write(key):
    k0, k1 = jax.random.split(key)
    return js.tokens.decode(k1, model, masked, js.tokens.first_hitting(k0, process, masked)).x


texts = jax.jit(jax.vmap(write))(jax.random.split(jax.random.key(0), 2000))
step = (texts - texts[:, :1]) % VOCABULARY
print("letters that break the rule:", int((step > 1).sum()))
print(f"share of the first letter's neighbour: {jnp.mean(step[:, 1:] == 1):.1f}")
# > letters that break the rule: 0
# > share of the first letter's neighbour: 0.5

# Sites that are not masked are a prompt and stay.
prompt = masked.at[0].set(2)
key = jax.random.key(1)
print(set(js.tokens.decode(key, model, prompt, js.tokens.first_hitting(key, process, prompt)).x.tolist()) <= {2, 3})
# > True

# An autoregressive model is a step from carry and token to carry and logits; transforms of logits compose.
table = jnp.log(jnp.array([[0.1, 0.9], [0.6, 0.4]]))
forward = lambda carry, token: (carry, table[token])
text = js.tokens.generate(jax.random.key(2), forward, (), 2000).x
print(f"share of ones: {text.mean():.2f}, of the stationary law {0.9 / 1.5:.2f}")
# > share of ones: 0.60, of the stationary law 0.60

# A watermark does not change the law of the text, and is found again with its key.
mark = js.tokens.Exponential(jax.random.key(7), length=64, vocabulary=2)
marked = js.tokens.generate(jax.random.key(3), forward, (), 60, mark=mark).x
print("p-value below .05:", bool(js.tokens.detect(jax.random.key(4), marked, mark).p_value < 0.05))
# > p-value below .05: True
