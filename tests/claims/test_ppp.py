"""Sultan, "Probabilistic partitive partitioning": repeatable clusters, and their number found rather than given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp.fit._partition import adjusted_rand

SEEDS = jax.random.split(jax.random.key(0), 20)
RNG = np.random.default_rng(3)


def rows(x):
    return jnp.asarray(x, jnp.float32)


def found(x, most, keys, restarts=2):
    run = jax.jit(lambda key: js.fit.ppp(key, x, most=most, restarts=restarts).x)
    return [run(key) for key in keys]


@pytest.mark.slow
def test_a_grid_of_blobs_gets_one_set_of_labels_from_every_seed():
    """Where plain k-means from random rows ends elsewhere each time."""
    grid = 8.0 * np.stack(np.meshgrid(range(5), range(5)), -1).reshape(-1, 2)
    x = rows(np.repeat(grid, 24, 0) + RNG.normal(size=(600, 2)))
    truth = jnp.repeat(jnp.arange(25), 24)
    share = jnp.full(600, 1 / 600)
    results = found(x, 27, SEEDS)
    assert [int(one.num) for one in results] == [25] * 20
    assert all(np.array_equal(one.labels, results[0].labels) for one in results)
    assert float(adjusted_rand(results[0].labels, truth, 27, share)) > 0.999
    starts = jnp.stack([jax.random.permutation(key, x)[:25] for key in SEEDS])
    plain = [js.fit.kmeans(None, x, 25, start=start).info.labels for start in starts]
    alike = [float(adjusted_rand(plain[0], other, 25, share)) for other in plain[1:]]
    assert max(alike) < 0.999
    assert np.mean(alike) < 0.9


def test_a_round_a_long_and_a_flat_cloud_are_one_cluster():
    """The likelihood alone splits a disc into several Gaussians; partitions that do not repeat are not valid."""
    angle, radius = RNG.uniform(0, 2 * np.pi, 800), np.sqrt(RNG.uniform(size=800))
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    clouds = {"round": RNG.normal(size=(400, 2)), "long": RNG.normal(size=(400, 2)) * [6, 1], "disc": disc}
    for name, cloud in clouds.items():
        result = js.fit.ppp(jax.random.key(1), rows(cloud), most=6, restarts=4)
        assert int(result.x.num) == 1, name
        if name == "disc":
            assert int(np.argmin(result.info.bic)) > 0


def test_a_cut_across_two_streaks_repeats_and_is_refused_where_the_mixture_disagrees():
    """k-means cuts two long streaks across, from every start alike; the mixture of Gaussians finds other rows together.

    What is not claimed: neither are the streaks found, and a flat bar five times as long as wide is cut in two or three.
    """
    rng = np.random.default_rng(1)
    streaks = np.concatenate([rng.normal(size=(200, 2)) * [6, 0.3] + [0, y] for y in (1.2, -1.2)])
    result = js.fit.ppp(jax.random.key(1), rows(streaks), most=6, restarts=4)
    assert float(result.info.stability[1]) > 0.9
    assert float(result.info.agreement[1]) < 0.7
    assert int(np.argmin(result.info.bic)) > 0
    assert int(result.x.num) == 1
    bar = rng.uniform(-1, 1, size=(800, 2)) * [5, 1]
    assert int(js.fit.ppp(jax.random.key(1), rows(bar), most=6, restarts=4).x.num) in (2, 3)


def test_the_number_of_clusters_is_found():
    for k in (2, 5):
        centers = np.stack([10 * np.cos(2 * np.pi * np.arange(k) / k), 10 * np.sin(2 * np.pi * np.arange(k) / k)], 1)
        x = rows(np.repeat(centers, 400 // k, 0) + RNG.normal(size=(400, 2)))
        assert int(js.fit.ppp(jax.random.key(2), x, most=6, restarts=4).x.num) == k
