"""Garcin et al., "DRED": prioritised replay keeps to the dataset and learns where there is most to learn."""

import jax
import jax.numpy as jnp

from jsamp import select

DIFFICULTY = jnp.asarray([0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.02, 0.01])


def learn(key, replay, steps=400):
    """Every visit lowers a level's error by its own factor; the score is the error seen."""
    state = replay.init(8, dataset=8)

    def step(carry, k):
        state, error = carry
        slot, state = replay.sample(k, state)
        state = replay.update(state, slot, error[slot])
        return (state, error.at[slot].mul(1 - DIFFICULTY[slot])), slot

    (_, error), slots = jax.lax.scan(step, (state, jnp.ones(8)), jax.random.split(key, steps))
    return jnp.max(error), jnp.bincount(slots, length=8)


def test_prioritised_replay_lowers_the_worst_error():
    keys = jax.random.split(jax.random.key(0), 50)
    score = select.Replay(beta=0.5, mix=0.0, stale=0.3, transform="rank")
    uniform = select.Replay(beta=1e6, mix=0.0, stale=0.0, transform="rank")
    worst, counts = jax.jit(jax.vmap(lambda k: learn(k, score)))(keys)
    flat, _ = jax.jit(jax.vmap(lambda k: learn(k, uniform)))(keys)
    assert float(worst.mean()) < 0.7 * float(flat.mean())
    assert int(counts.min()) > 5  # staleness lets nothing starve


def test_generated_levels_enter_only_outside_the_dataset():
    replay = select.Replay(beta=0.1, mix=0.5)
    state = replay.init(12, dataset=8)
    for slot in range(8):
        state = replay.update(state, slot, 1.0 + slot)
    for key in jax.random.split(jax.random.key(0), 30):
        k1, k2 = jax.random.split(key)
        state, slot, _ = replay.insert(state, jax.random.uniform(k1), jax.random.uniform(k2))
        assert int(slot) >= 8
    assert state.score[:8].tolist() == [1.0 + s for s in range(8)] and bool(state.filled.all())
    assert float(state.second[8:].min()) > 0.5  # only levels that teach at least as much replaced others
