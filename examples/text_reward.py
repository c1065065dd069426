"""Texts of a masked character model steered by a reward: by gradient, by soft values, by particles that weigh.

    python examples/text_reward.py --population 8

The reward counts a letter. `js.tokens.Reward` tilts the network's own log-probabilities by the gradient of the reward;
`SoftValue` keeps one of M children in each row, `SMC` weighs and redraws particles. All are beside the best of M texts,
which uses as many network calls; the NELBO (bits per character, smaller is more likely) says what the reward cost.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import text_net as net
from text_decoding import PROCESS, bits

import jsamp as js

LETTER = net.encode("e")[0]


def reward(x0):
    """How many of the letter each text [P, L] has."""
    return jnp.sum(x0 == LETTER, -1).astype(jnp.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--runs", type=int, default=4)
    options = parser.parse_args()
    model = net.load("masked")
    x = jnp.full((options.population, options.length), net.MASK, jnp.int32)
    gradient = js.tokens.Reward(model, lambda soft: jnp.sum(soft[:, LETTER]), scale=1.0)
    value = lambda x, prediction, info: reward(prediction.x0)
    plans = {
        "best of the population": (model, None),
        "gradient of the reward": (gradient, None),
        "soft values": (model, js.steer.SoftValue(value, reward, temperature=0.5)),
        "weighted particles": (model, js.steer.SMC(lambda *row: 0.5 * value(*row), lambda x0: 0.5 * reward(x0))),
    }
    print(f"{'method':26} reward  bits per character   a text")
    for name, (network, steer) in plans.items():

        def one(key, network=network, steer=steer):
            k0, k1 = jax.random.split(key)
            table = js.tokens.first_hitting(k0, PROCESS, x)
            text = jnp.atleast_2d(js.tokens.decode(k1, network, x, table, steer=steer).x)
            return text[jnp.argmax(reward(text))]

        texts = jax.jit(lambda keys, one=one: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), options.runs))
        worth = float(np.mean(reward(texts)))
        print(f"{name:26} {worth:6.1f} {bits(model, texts, 32):8.2f}             {net.decode(texts[0])!r}", flush=True)


if __name__ == "__main__":
    main()
