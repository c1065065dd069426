"""Garcin et al., "DRED": prioritised replay keeps to the dataset and learns where there is most to learn."""

import jax
import jax.numpy as jnp
import numpy as np

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
    greedy = select.Replay(beta=0.5, mix=0.0, stale=0.0, transform="rank")
    run = jax.jit(jax.vmap(learn, (0, None)))
    (worst, counts), (flat, _), (_, few) = (run(keys, replay) for replay in (score, uniform, greedy))
    assert float(worst.mean()) < 0.7 * float(flat.mean())
    # Staleness lets nothing starve: the level seen least is seen 24 times of 400, and 11 times without it.
    assert float(counts.mean(0).min()) > 1.8 * float(few.mean(0).min())


def test_generated_levels_enter_only_outside_the_dataset():
    replay = select.Replay(beta=0.1, mix=0.5)
    state = replay.init(12, dataset=8)
    for slot in range(8):
        state = replay.update(state, slot, 0.01 * (1 + slot))  # most generated levels teach more than the dataset's
    for key in jax.random.split(jax.random.key(0), 30):
        k1, k2 = jax.random.split(key)
        state, slot, _ = replay.insert(state, jax.random.uniform(k1), jax.random.uniform(k2))
        assert int(slot) >= 8
    np.testing.assert_allclose(state.score[:8], 0.01 * np.arange(1, 9), rtol=1e-6)
    assert bool(state.filled.all())
    assert float(state.second[8:].min()) > 0.5  # only levels that teach at least as much replaced others


def test_generated_levels_keep_to_the_data_and_teach_it_better_than_random_ones():
    """Levels on a sphere in 12 parameters: those between encoded levels of the dataset stay there and teach it.

    Levels drawn from the whole domain (unsupervised environment design) miss the sphere, and teach nothing about it.
    """
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(12, 3)))[0]

    def sphere(n):
        x = rng.normal(size=(n, 3))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ axes.T

    def target(x):
        x = x @ axes
        return np.sin(3 * x[:, 0]) + np.cos(3 * x[:, 1]) * x[:, 2]

    def error(levels, test):  # a student that answers as at the nearest level it has seen
        near = np.argmin(((test[:, None] - levels[None]) ** 2).sum(-1), 1)
        return np.mean((target(levels)[near] - target(test)) ** 2)

    def outside(x):
        return np.sqrt(((x - x @ axes @ axes.T) ** 2).sum(1) + (np.linalg.norm(x @ axes, axis=1) - 1) ** 2).mean()

    errors, off = [], []
    for seed in range(10):
        data, test, key = sphere(24), sphere(400), jax.random.key(seed)
        spread = jnp.full((24, 12), 0.02)  # of a variational encoder
        made = select.interpolate_latents(key, jnp.asarray(data, jnp.float32), spread, pairs=12, points=6)
        domain = rng.uniform(-1, 1, size=(72, 12))
        off.append((outside(np.asarray(made)), outside(domain)))
        errors.append([error(np.concatenate([data, extra]), test) for extra in (np.asarray(made), domain, data[:0])])
    generated, domain, alone = np.mean(errors, 0)  # .18, .30, .30
    assert np.mean(off, 0)[0] < 0.1 * np.mean(off, 0)[1]
    assert generated < 0.75 * domain
    assert generated < 0.75 * alone
