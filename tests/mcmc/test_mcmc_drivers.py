"""Drivers: chunks, resume, checkpoints, reducers, memory, interruption, foreign kernels."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsamp import mcmc

START = jnp.array([0.3, -0.2])
KEY = jax.random.key(0)


def logdensity(x):
    return -jnp.sum(x**2) / 2


@pytest.mark.parametrize("cls", [mcmc.MALA, mcmc.HMC, mcmc.BAOAB])
def test_chunks_and_resume_have_the_same_bits(cls, tmp_path):
    kernel = cls(logdensity, step_size=0.3)
    whole = mcmc.chain(KEY, kernel, START, 100).x
    for chunk in (100, 30):
        parts = [r.x for r in mcmc.stream(KEY, kernel, START, 100, chunk=chunk)]
        assert np.array_equal(np.concatenate(parts), whole)
    # Killed after two chunks, saved, loaded, continued.
    kept = []
    for result in mcmc.stream(KEY, kernel, START, 100, chunk=30):
        kept.append(result.x)
        mcmc.save(tmp_path / "run.npz", result.info.state)
        if len(kept) == 2:
            break
    state = mcmc.load(tmp_path / "run.npz", kernel, START)
    kept += [r.x for r in mcmc.stream(KEY, kernel, START, 100, chunk=30, state=state)]
    assert np.array_equal(np.concatenate(kept), whole)


KILLED = """
import os, signal, sys
import jax, jax.numpy as jnp, numpy as np
from jsamp import mcmc
kernel = mcmc.NUTS(lambda x: -jnp.sum(x**2) / 2, step_size=0.3)
start = jnp.array([0.3, -0.2])
for i, result in enumerate(mcmc.stream(jax.random.key(0), kernel, start, 60, chunk=20)):
    np.save(f"{sys.argv[1]}/{i}.npy", result.x)
    mcmc.save(f"{sys.argv[1]}/run.npz", result.info.state)
    if i == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    folder = str(pathlib.Path(mcmc.__file__).parents[2])
    paths = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    dead = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths})
    assert dead.returncode == -signal.SIGKILL
    kernel = mcmc.NUTS(logdensity, step_size=0.3)
    state = mcmc.load(tmp_path / "run.npz", kernel, START)
    kept = [np.load(tmp_path / f"{i}.npy") for i in range(2)]
    kept += [r.x for r in mcmc.stream(KEY, kernel, START, 60, chunk=20, state=state)]
    assert np.array_equal(np.concatenate(kept), mcmc.chain(KEY, kernel, START, 60).x)


def test_longer_thinned_and_burnt_runs_share_the_stream():
    kernel = mcmc.MALA(logdensity, step_size=0.3)
    long = mcmc.chain(KEY, kernel, START, 60).x
    assert np.array_equal(mcmc.chain(KEY, kernel, START, 20).x, long[:20])
    assert np.array_equal(mcmc.chain(KEY, kernel, START, 20, thin=3).x, long[2::3])
    burnt = mcmc.chain(KEY, kernel, START, 16, thin=3, burn=12)
    assert np.array_equal(burnt.x, long[14::3])
    assert int(burnt.info.nfe) == 60
    assert int(burnt.info.state.step) == 60


def test_a_saved_state_is_refused_by_another_run(tmp_path):
    kernel = mcmc.MALA(logdensity, step_size=0.3)
    state = mcmc.chain(KEY, kernel, START, 5).info.state
    mcmc.save(tmp_path / "run", state)
    with pytest.raises(TypeError, match="another run"):
        mcmc.load(tmp_path / "run", mcmc.BAOAB(logdensity), START)
    with pytest.raises(TypeError, match="wanted"):
        mcmc.load(tmp_path / "run", kernel, jnp.zeros(3))
    with pytest.raises(TypeError, match="another kernel"):
        mcmc.stream(KEY, mcmc.BAOAB(logdensity), START, 10, state=state)
    with pytest.raises(ValueError, match="step 5"):
        mcmc.stream(KEY, kernel, START, 3, state=state)


def test_interruption_ends_the_loop_quietly(monkeypatch):
    from jsamp.mcmc import _stream

    calls = []
    honest = _stream.d.advance

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(*args, **options)

    monkeypatch.setattr(_stream.d, "advance", interrupted)
    kept = [r.x for r in mcmc.stream(KEY, mcmc.MALA(logdensity), START, 100, chunk=10)]
    assert np.concatenate(kept).shape == (20, 2)


def test_progress_bar(capsys):
    pytest.importorskip("tqdm")
    list(mcmc.stream(KEY, mcmc.MALA(logdensity), START, 20, chunk=10, progress=True))
    assert "20/20" in capsys.readouterr().err


def test_only_what_keep_asks_is_stored():
    kernel = mcmc.NUTS(logdensity, step_size=0.3)

    def stored(keep):
        run = jax.jit(lambda key: mcmc.chain(key, kernel, START, 1000, keep=keep)).lower(KEY).compile()
        return run.memory_analysis().output_size_in_bytes

    position = stored(None)
    assert position <= 1000 * 2 * 4 + 600
    assert stored(lambda state, info: ()) <= 600
    assert stored(lambda state, info: (state.position, info.accept)) <= position + 1000 * 4 + 64


def test_streaming_moments_and_rhat_equal_the_stored_ones():
    kernel = mcmc.ensemble(mcmc.MALA(logdensity, step_size=0.3))
    x = jnp.stack([START, 3 + START, START - 3])
    reducers = (mcmc.Moments(), mcmc.Moments(covariance=True), mcmc.OnlineRhat())
    result = mcmc.chain(KEY, kernel, x, 200, burn=10, reduce=reducers)
    draws = np.asarray(result.x, np.float64).swapaxes(0, 1)  # [draws, chains, 2]
    flat = draws.reshape(200, -1)
    plain, whole, rhat = result.info.reduced
    assert int(plain.count) == 200
    np.testing.assert_allclose(plain.mean, flat.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain.variance, flat.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(whole.variance, np.cov(flat.T), rtol=1e-3, atol=1e-4)
    within, between = draws.var(0, ddof=1).mean(0), draws.mean(0).var(0, ddof=1)
    np.testing.assert_allclose(rhat, np.sqrt((199 / 200 * within + between) / within), rtol=1e-4)
    # In chunks, the reducers' carries travel in the state.
    *_, last = mcmc.stream(KEY, kernel, x, 200, chunk=70, reduce=reducers)
    full = mcmc.chain(KEY, kernel, x, 200, reduce=reducers)
    for a, b in zip(jax.tree.leaves(last.info.reduced), jax.tree.leaves(full.info.reduced), strict=True):
        assert np.array_equal(a, b)


def test_divergences_are_flagged_and_rejected():
    def cliff(x):
        return jnp.where(x[0] > 1, jnp.nan, logdensity(x))

    for cls in (mcmc.MALA, mcmc.HMC, mcmc.NUTS, mcmc.RandomWalk):
        result = mcmc.chain(KEY, cls(cliff, step_size=0.9), jnp.zeros(2), 300)
        assert int(result.info.diverged) > 0, cls.__name__
        assert np.all(np.asarray(result.x)[:, 0] <= 1)
        assert np.all(np.isfinite(result.x))


def test_a_tree_position_equals_the_flat_one():
    # Same law: moments agree; the noise is drawn leaf by leaf, so the bits differ.
    scale = jnp.array([0.5, 1.0, 2.0])
    flat = mcmc.HMC(lambda x: -jnp.sum((x / scale) ** 2) / 2, step_size=0.4, metric=scale**2)
    tree = mcmc.HMC(
        lambda z: -(z["a"] ** 2) * 2 - jnp.sum((z["b"] / scale[1:]) ** 2) / 2, step_size=0.4,
        metric={"a": jnp.float32(0.25), "b": scale[1:] ** 2},
    )  # fmt: skip
    a = mcmc.chain(KEY, flat, jnp.zeros(3), 4000).x
    b = mcmc.chain(KEY, tree, {"a": jnp.float32(0), "b": jnp.zeros(2)}, 4000).x
    both = np.column_stack([b["a"], b["b"]])
    np.testing.assert_allclose(a.std(0) / scale, 1, atol=0.1)
    np.testing.assert_allclose(both.std(0) / np.asarray(scale), 1, atol=0.1)


def test_blackjax_algorithms_run_unchanged():
    blackjax = pytest.importorskip("blackjax")
    for algorithm in (blackjax.mala(logdensity, 0.5), blackjax.nuts(logdensity, 0.5, jnp.ones(2))):
        result = mcmc.chain(KEY, algorithm, START, 500, burn=10)
        assert result.x.shape == (500, 2)
        assert 0.5 < float(result.info.accept) <= 1
        assert abs(float(jnp.var(result.x)) - 1) < 0.4
        parts = [r.x for r in mcmc.stream(KEY, algorithm, START, 50, chunk=20)]
        assert np.array_equal(np.concatenate(parts), mcmc.chain(KEY, algorithm, START, 50).x)


def test_numpyro_models_and_arviz():
    numpyro = pytest.importorskip("numpyro")
    arviz = pytest.importorskip("arviz")

    def model(y, count, weight=1.0):
        scale = numpyro.sample("scale", numpyro.distributions.LogNormal(0.0, 1.0))
        numpyro.deterministic("double", 2 * scale)
        with numpyro.plate("rows", count):
            numpyro.sample("y", numpyro.distributions.Normal(0.0, scale * weight), obs=y)

    y = jnp.array([1.0, -2.0, 0.5])
    target = mcmc.from_numpyro(model, y, 3)
    # log p(log s) of the unconstrained site: LogNormal prior and Jacobian leave N(0, 1) in log s.
    z = 0.3
    by_hand = (
        -0.5 * z**2
        - 0.5 * np.log(2 * np.pi)
        + np.sum(-0.5 * (np.asarray(y) / np.exp(z)) ** 2 - z - 0.5 * np.log(2 * np.pi))
    )
    assert np.isclose(float(target.logdensity({"scale": jnp.float32(z)})), by_hand, rtol=1e-5)
    assert len(jax.tree.leaves(target.logdensity)) == 1
    draws = jax.vmap(lambda k: mcmc.chain(k, mcmc.NUTS(target.logdensity), target.x, 50).x)(jax.random.split(KEY, 2))
    sites = jax.vmap(jax.vmap(target.constrain))(draws)
    np.testing.assert_allclose(sites["double"], 2 * sites["scale"], rtol=1e-6)
    data = mcmc.to_arviz({k: sites[k] for k in ("scale", "double")}, diagnostics={"lp": draws["scale"]})
    assert isinstance(data, arviz.InferenceData)
    assert data.posterior["scale"].shape == (2, 50)


def test_numpyro_models_without_a_density_are_refused():
    numpyro = pytest.importorskip("numpyro")

    def mixed():
        share = numpyro.sample("share", numpyro.distributions.Beta(1.0, 1.0))
        numpyro.sample("side", numpyro.distributions.Bernoulli(share))

    def some_rows(y):
        mean = numpyro.sample("mean", numpyro.distributions.Normal(0.0, 1.0))
        with numpyro.plate("rows", 6, subsample_size=2):
            numpyro.sample("y", numpyro.distributions.Normal(mean, 1.0), obs=numpyro.subsample(y, 0))

    def noisy(y):
        mean = numpyro.sample("mean", numpyro.distributions.Normal(0.0, 1.0))
        noise = jax.random.normal(numpyro.prng_key())
        numpyro.sample("y", numpyro.distributions.Normal(mean + noise, 1.0), obs=y)

    def started_at_random(y):
        slope = numpyro.param("slope", jax.random.normal)
        numpyro.sample(
            "y",
            numpyro.distributions.Normal(slope * numpyro.sample("x", numpyro.distributions.Normal(0.0, 1.0)), 1.0),
            obs=y,
        )

    for model in (noisy, started_at_random):
        with pytest.raises(ValueError, match=r"from_numpyro: the model draws a key by numpyro.prng_key\(\)"):
            mcmc.from_numpyro(model, 1.0)
    with pytest.raises(ValueError, match="site 'side' is discrete"):
        mcmc.from_numpyro(mixed)
    with pytest.raises(ValueError, match="plate 'rows' takes 2 of 6 rows"):
        mcmc.from_numpyro(some_rows, jnp.ones(6))
