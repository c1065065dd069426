"""Inputs that once gave silent wrong results or crashes: walls, empty supports, wrong resumptions, mixed precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js
from jsamp import mcmc

KEY = jax.random.key(0)


def gaussian(x):
    return -jnp.sum(x**2) / 2


def box(x):
    return jnp.where(jnp.all(jnp.abs(x) <= 1), 0.0, -jnp.inf)


def half_line(x):
    return jnp.where(x > 0, -x, -jnp.inf)


def walled(x):
    return jnp.where(x[0] < 0.5, -0.5 * jnp.sum(x**2), -jnp.inf)


# ---------------------------------------------------------------- walls and empty supports


def test_no_particle_in_the_support_has_evidence_minus_infinity():
    x = jax.random.normal(KEY, (50, 2))
    out = mcmc.smc(KEY, mcmc.MALA(lambda x: jnp.where(x[0] > 90, 0.0, -jnp.inf)), x, reference=gaussian, max_levels=9)
    assert np.isneginf(out.info.log_evidence.value)
    assert np.isinf(out.info.log_evidence.stderr)
    assert not bool(out.info.ok)
    assert np.all(np.isfinite(out.x))
    far = mcmc.MALA(lambda x: jnp.where(x[0] > 90, 0.0, -jnp.inf))
    out = mcmc.ais(KEY, far, x, jnp.linspace(0, 1, 3), reference=gaussian)
    assert np.isneginf(out.info.log_evidence.value)
    assert np.isinf(out.info.log_evidence.stderr)
    assert not bool(out.info.ok)


@pytest.mark.parametrize("kernel", [mcmc.MALA, mcmc.HMC])
def test_evidence_of_particles_whose_gradient_is_not_finite_is_not_ok(kernel):
    # The square root of an untaken branch: finite densities, slopes NaN in one half, which no move leaves or enters.
    target = lambda x: jnp.where(x[0] < 0, 0, jnp.sqrt(jnp.where(x[0] < 9, x[0], 1)) * 0) - jnp.sum(x**2) / 2
    x = jax.random.normal(KEY, (20, 2))
    for at, ok in ((jnp.abs(x), True), (x, False), (-jnp.abs(x), False)):
        move = kernel(target, step_size=0.1)
        assert bool(mcmc.ais(KEY, move, at, jnp.linspace(0, 1, 3), reference=gaussian).info.ok) is ok
        assert bool(mcmc.smc(KEY, move, at, reference=gaussian, max_levels=3).info.ok) is ok


def test_nuts_outside_the_support_stops_at_once_and_says_so():
    kernel = mcmc.NUTS(half_line, step_size=0.5)
    keep = lambda s, i: (i.accept, i.diverged, i.nfe)
    accept, diverged, nfe = jax.jit(lambda x: mcmc.chain(KEY, kernel, x, 20, keep=keep).x)(jnp.float32(-3.0))
    assert np.all(accept == 0)
    assert np.all(diverged)
    assert np.all(nfe == 1)
    # NaN outside is no different, and one such chain of four does not spoil the step size of the others.
    kernel = mcmc.NUTS(lambda x: jnp.where(x > 0, -x, jnp.nan), step_size=0.5)
    assert np.all(jax.jit(lambda x: mcmc.chain(KEY, kernel, x, 5, keep=keep).x[2])(jnp.float32(-3.0)) == 1)
    tune = jax.jit(lambda x: mcmc.tune(KEY, mcmc.NUTS(half_line, step_size=0.5), x, 100, chains=4)[0].step_size)
    assert tune(jnp.array([1.0, 2.0, 0.5, -3.0])) > 0.05


@pytest.mark.parametrize("cls", [mcmc.NUTS, mcmc.HMC])
def test_a_wall_does_not_shrink_the_step_size_to_nothing(cls):
    # A trajectory that meets the wall counts with the acceptance that it had up to there.
    keep = lambda s, i: (i.nfe, s.position[0])
    kernel, x = mcmc.tune(KEY, cls(walled, step_size=0.5), jnp.full(4, -0.3), 600)
    nfe, first = mcmc.chain(KEY, kernel, x, 1000, keep=keep).x
    assert kernel.step_size > 0.05
    assert float(jnp.mean(nfe)) < 60
    # N(0, 1) cut off above 1/2: the mean is -phi(1/2) / Phi(1/2) = -0.5092.
    assert abs(float(jnp.mean(first)) + 0.5092) < 5 * float(js.estimate.mcse(first[None]))


@pytest.mark.parametrize("cls", [mcmc.HMC, mcmc.MAMS])
def test_a_trajectory_of_fixed_length_that_meets_a_wall_is_no_reason_for_shorter_steps(cls):
    # A third of the trajectories end outside whatever the step, so that no step has an acceptance of 0.8 or 0.9.
    target = lambda x: jnp.where(x[0] > 0, -x[0] - x[1] ** 2 / 2, -jnp.inf)
    kernel, x = mcmc.tune(KEY, cls(target, step_size=0.5), jnp.ones(2), 600)
    assert 0.01 < kernel.step_size < 1
    first = mcmc.chain(KEY, kernel, x, 2000, keep=lambda s, i: s.position[0]).x
    assert abs(float(jnp.mean(first)) - 1) < 5 * float(js.estimate.mcse(first[None]))


def test_starts_and_data_that_spoil_a_run_are_refused_by_its_parts_too():
    cusp = lambda x: -jnp.linalg.norm(x)  # its gradient at 0 is NaN
    with pytest.raises(ValueError, match="pathfinder: the gradient of the log-density at the start is not finite"):
        mcmc.pathfinder(KEY, cusp, jnp.zeros(2), 20)
    with pytest.raises(ValueError, match="ParallelTempering: the gradient of the log-density at the start"):
        mcmc.ParallelTempering(mcmc.MALA(cusp), jnp.array([1.0, 0.5])).init(jnp.zeros((2, 2)))
    score = mcmc.MinibatchScore(gaussian, lambda x, row: -jnp.sum((x - row) ** 2), num_data=100)
    with pytest.raises(ValueError, match="whole data, 500 rows, but the score has num_data=100"):
        mcmc.SGLD(score, jnp.zeros((500, 2)), batch=10)
    mcmc.SGLD(score, jnp.zeros((10, 2)))  # one minibatch of the hundred rows


@pytest.mark.parametrize("cls", [mcmc.MALA, mcmc.GHMC])
def test_the_other_kernels_tune_beside_a_wall(cls):
    kernel, _ = mcmc.tune(KEY, cls(walled, step_size=0.5), jnp.full(4, -0.3), 600)
    assert kernel.step_size > 0.02


def test_mclmc_turns_round_at_a_wall():
    target = lambda x: jnp.where(jnp.all(x > 0), -jnp.sum(x), -jnp.inf)
    kernel, x = mcmc.tune(KEY, mcmc.MCLMC(target), jnp.ones((8, 2)), 1000, chains=8)
    assert kernel.step_size > 1e-3
    draws = js.chains(KEY, kernel, x, 4000, keep=lambda s, i: (s.position, i.diverged)).x
    assert np.all(np.asarray(draws[0]) > 0)
    assert np.any(draws[1])  # a reversal is flagged
    assert abs(float(jnp.mean(jnp.sum(draws[0], -1))) - 2) < 0.3  # unadjusted: the wall leaves some bias


@pytest.mark.parametrize("cls", [mcmc.ULA, mcmc.BAOAB, mcmc.OBABO])
def test_unadjusted_kernels_say_when_they_leave_the_support(cls):
    kernel = cls(half_line, step_size=2.0)
    x, bad = mcmc.chain(KEY, kernel, 0.1, 50, keep=lambda s, i: (s.position, i.diverged)).x
    assert np.any(x < 0)
    assert np.array_equal(bad, x <= 0)


# ---------------------------------------------------------------- temperatures


def test_a_term_without_weight_does_not_count():
    kernel = lambda beta: mcmc.tempered(mcmc.RandomWalk(gaussian), beta, reference=box)
    assert float(kernel(1.0).logdensity(2.0)) == -2.0
    assert float(kernel(0.0).logdensity(0.5)) == 0.0
    assert np.isneginf(kernel(0.5).logdensity(2.0))
    both = mcmc.tempered(mcmc.RandomWalk(box), 0.3, reference=box)
    assert float(both.logdensity(0.5)) == 0.0
    assert np.isneginf(both.logdensity(2.0))
    result = mcmc.chain(KEY, mcmc.tempered(mcmc.RandomWalk(box, step_size=2.0), 0.3, reference=box), 0.5, 200)
    assert int(result.info.diverged) == 0
    assert float(mcmc.tempered(mcmc.ULA(score=lambda x: -x), 0.5, reference=lambda x: -2 * x**2).score(1.0)) == -2.5


def test_a_term_without_weight_has_no_slope():
    # The slope of the root is no number below zero; 0 times it bent every trajectory that came there.
    kernel = lambda beta: mcmc.tempered(mcmc.RandomWalk(gaussian), beta, reference=jnp.sqrt)
    assert float(jax.grad(kernel(1.0).logdensity)(-0.5)) == 0.5
    kernel = lambda beta: mcmc.tempered(mcmc.RandomWalk(jnp.sqrt), beta, reference=gaussian)
    assert float(jax.grad(kernel(0.0).logdensity)(-0.5)) == 0.5
    assert float(mcmc.tempered(mcmc.ULA(score=jnp.sqrt), 0.0).score(-0.5)) == 0.0


def test_replicas_whose_reference_has_a_smaller_support():
    kernel = mcmc.ParallelTempering(mcmc.RandomWalk(gaussian, step_size=2.0), [1.0, 0.5, 0.0], reference=box)
    run = lambda key: mcmc.chain(key, kernel, jnp.zeros(3), 400, burn=20, keep=lambda s, i: s.position[0]).x
    cold = np.asarray(jax.vmap(run)(jax.random.split(KEY, 100)), np.float64)
    second = (cold**2).mean(1)
    assert abs(second.mean() - 1) < 5 * second.std(ddof=1) / 10
    assert second.std(ddof=1) / 10 < 0.05


# ---------------------------------------------------------------- composite kernels under temperatures


MEAN, SPREAD = np.array([2.0, -1.0]), 0.5
EVIDENCE = float(np.sum(-(MEAN**2) / 2 / (1 + SPREAD**2) - 0.5 * np.log(1 + SPREAD**2) + np.log(SPREAD)))


def likelihood(x):
    return -jnp.sum((x - MEAN) ** 2) / 2 / SPREAD**2


def prior(x):
    return gaussian(x) - jnp.log(2 * jnp.pi)


def posterior(x):
    return likelihood(x) + prior(x)


def in_parts(z):
    return posterior(jnp.stack(z))


COMPOSITES = {
    "compose": mcmc.compose(mcmc.MALA(posterior, step_size=0.1), mcmc.RandomWalk(posterior, step_size=0.5)),
    "repeat": mcmc.repeat(mcmc.MALA(posterior, step_size=0.1), 2),
    "metropolize": mcmc.metropolize(mcmc.ULA(posterior, step_size=0.1), posterior),
    "elliptical": mcmc.EllipticalSlice(likelihood),
    "on": mcmc.compose(
        mcmc.on(mcmc.RandomWalk(in_parts, step_size=0.8), 0), mcmc.on(mcmc.Slice(in_parts), 1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSITES)
def test_composite_kernels_in_populations(name):
    kernel = COMPOSITES[name]
    reference = None if name == "elliptical" else (lambda z: prior(jnp.stack(z))) if name == "on" else prior

    def run(key):
        start, move = jax.random.split(key)
        x = jax.random.normal(start, (200, 2))
        x = (x[:, 0], x[:, 1]) if name == "on" else x
        info = mcmc.smc(move, kernel, x, reference=reference, max_levels=12, moves=3).info
        return info.log_evidence.value, info.ok

    log_evidence, ok = jax.vmap(run)(jax.random.split(KEY, 30))
    assert np.all(ok)
    ratio = np.exp(np.asarray(log_evidence, np.float64) - EVIDENCE)
    assert abs(ratio.mean() - 1) < 5 * ratio.std(ddof=1) / np.sqrt(30)
    assert ratio.std(ddof=1) < 1


def test_composite_kernels_elsewhere():
    kernel = COMPOSITES["elliptical"]
    x = jax.random.normal(KEY, (40, 2))
    assert bool(mcmc.ais(KEY, kernel, x, jnp.linspace(0, 1, 4)).info.ok)
    tempered = mcmc.ParallelTempering(COMPOSITES["compose"], [1.0, 0.3])
    assert mcmc.chain(KEY, tempered, jnp.zeros((2, 2)), 5).x.shape == (5, 2, 2)
    assert mcmc.chain(KEY, mcmc.ParallelTempering(kernel, [1.0, 0.0]), jnp.zeros((2, 2)), 5).x.shape == (5, 2, 2)
    # The proposal inside `metropolize` is conditioned together with the accept step.
    whole = lambda z: posterior(jnp.stack([z["a"], z["b"]]))
    block = mcmc.on(mcmc.metropolize(mcmc.ULA(whole, step_size=0.1), whole), "a")
    assert mcmc.chain(KEY, block, {"a": 0.0, "b": 1.0}, 5).x["b"].tolist() == [1.0] * 5
    with pytest.raises(TypeError, match="Gibbs has no logdensity"):
        mcmc.tempered(mcmc.compose(mcmc.Gibbs(lambda k, z: z["b"], "a"), mcmc.on(mcmc.MALA(whole), "b")), 0.5)
    with pytest.raises(TypeError, match="reference is missing"):
        mcmc.smc(KEY, mcmc.MALA(posterior), x)
    with pytest.raises(ValueError, match="the reference is not finite at particle"):
        mcmc.smc(KEY, mcmc.MALA(posterior), 3 * x, reference=box)


# ---------------------------------------------------------------- starts and resumption


def test_starts_that_cannot_be_left_are_refused():
    with pytest.raises(ValueError, match="gradient of the log-density at the start"):
        mcmc.chain(KEY, mcmc.MALA(lambda x: -jnp.linalg.norm(x)), jnp.zeros(2), 3)
    with pytest.raises(ValueError, match="gradient of the log-density at the start"):
        mcmc.tune(KEY, mcmc.MALA(lambda x: -jnp.linalg.norm(x)), jnp.zeros(2), 3)
    walk = mcmc.RandomWalk(half_line)
    for kernel, x in (
        (mcmc.cycle(walk, walk), -1.0),
        (mcmc.repeat(walk, 2), -1.0),
        (mcmc.ensemble(walk), jnp.array([1.0, -1.0])),
        (mcmc.ParallelTempering(walk, [1.0, 0.5]), jnp.array([1.0, -1.0])),
        (mcmc.on(mcmc.RandomWalk(lambda z: half_line(z["a"])), "a"), {"a": -1.0}),
        (mcmc.EllipticalSlice(half_line), -1.0),
        (mcmc.IndependentMH(half_line, jax.random.normal, gaussian), -1.0),
    ):
        with pytest.raises(ValueError, match="log-density at the start"):
            mcmc.chain(KEY, kernel, x, 3)


def misfit(data, x):
    return -jnp.sum((x - data) ** 2) / 2


@pytest.mark.parametrize("cls", [mcmc.RandomWalk, mcmc.MALA, mcmc.NUTS])
def test_a_run_resumed_with_other_data_samples_their_law(cls, tmp_path):
    # A state that still held the log-density of the old data would never accept again.
    make = lambda data: cls(jax.tree_util.Partial(misfit, jnp.asarray(data)), step_size=0.7)
    state = mcmc.chain(KEY, make([0.0, 0.0]), jnp.zeros(2), 20).info.state
    mcmc.save(tmp_path / "run", state)
    other = make([8.0, -8.0])
    state = mcmc.load(tmp_path / "run", other, jnp.zeros(2))
    x = np.concatenate([r.x for r in mcmc.stream(KEY, other, jnp.zeros(2), 1020, state=state)])
    assert np.all(np.abs(x[-800:].mean(0) - np.array([8.0, -8.0])) < 0.5)


def test_a_run_is_resumed_with_its_own_key_and_kernel(tmp_path):
    kernel, x = mcmc.MALA(gaussian), jnp.zeros(2)
    state = mcmc.chain(KEY, kernel, x, 5).info.state
    with pytest.raises(ValueError, match="another key"):
        mcmc.stream(jax.random.key(1), kernel, x, 9, state=state)
    with pytest.raises(TypeError, match="another kernel than NUTS"):
        mcmc.stream(KEY, mcmc.NUTS(gaussian), x, 9, state=state)
    mcmc.save(tmp_path / "run", state)
    with pytest.raises(TypeError, match="its kernel is no NUTS"):
        mcmc.load(tmp_path / "run", mcmc.NUTS(gaussian), x)


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    kernel, x = mcmc.MALA(gaussian), jnp.zeros(2)
    state = mcmc.chain(KEY, kernel, x, 5).info.state
    path = tmp_path / "a.b"
    mcmc.save(path, state)
    assert [p.name for p in tmp_path.iterdir()] == ["a.b.npz"]
    whole = (tmp_path / "a.b.npz").read_bytes()

    def full(*args, **arrays):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        mcmc.save(path, state)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.b.npz"]
    assert int(mcmc.load(path, kernel, x).step) == 5
    for damage in (whole[: len(whole) // 2], b"", b"nothing of the kind", whole.replace(b"leaf0", b"leafX")):
        (tmp_path / "a.b.npz").write_bytes(damage)
        with pytest.raises(ValueError, match=r"load: a\.b\.npz is damaged, or was not written by"):
            mcmc.load(path, kernel, x)
    with pytest.raises(FileNotFoundError):
        mcmc.load(tmp_path / "none", kernel, x)
    with pytest.raises(TypeError, match="load: path must be a file name"):
        mcmc.load(3, kernel, x)


# ---------------------------------------------------------------- kernels of other makes, precision, disabled jit


class Outsider:
    """A kernel of nobody's, with a log-density and a cache of its own."""

    def __init__(self, logdensity):
        self.logdensity = logdensity

    def init(self, x):
        return mcmc.State(jnp.asarray(x), {"seen": jnp.zeros((), jnp.int32)}, None)

    def step(self, key, state):
        info = mcmc.Info(jnp.ones(()), jnp.zeros((), jnp.int32), jnp.zeros((), bool), None)
        x = state.position + jax.random.normal(key, state.position.shape)
        return mcmc.State(x, {"seen": state.cache["seen"] + 1}, None), info


class Heir(mcmc.MALA):
    """A subclass of a kernel."""


def everybody():
    walk = mcmc.RandomWalk(gaussian)
    return {
        **{cls.__name__: cls(gaussian) for cls in (mcmc.ULA, mcmc.MALA, mcmc.Barker, mcmc.HMC, mcmc.BAOAB, mcmc.OBABO,
                                                   mcmc.GHMC, mcmc.MCLMC, mcmc.Slice, mcmc.EllipticalSlice)},
        "NUTS": mcmc.NUTS(gaussian, max_depth=2), "RandomWalk": walk, "Outsider": Outsider(gaussian),
        "Heir": Heir(gaussian), "score": mcmc.ULA(score=lambda x: -x),
        "IndependentMH": mcmc.IndependentMH(gaussian, lambda key: jax.random.normal(key, (3,)), gaussian),
        "SGLD": mcmc.SGLD(lambda x, batch: -x, jnp.zeros(3)), "Corrector": mcmc.Corrector(lambda x, t: -x, 1.0),
        "metropolize": mcmc.metropolize(walk, gaussian), "tempered": mcmc.tempered(walk, 0.5),
        "repeat": mcmc.repeat(walk, 2), "cycle": mcmc.cycle(walk, mcmc.MALA(gaussian)),
        "compose": mcmc.compose(walk, mcmc.MALA(gaussian)), "AutoencoderMH": mcmc.AutoencoderMH(lambda x: x / 2, 1.0),
    }  # fmt: skip


@pytest.mark.parametrize("name", everybody())
def test_every_kernel_composes_with_every_other(name):
    # Before and after each: the state keeps its type, so any of them may run in a loop.
    kernels, x = everybody(), jnp.ones(3)
    neighbours = [other for first in kernels for other in (kernels[first], kernels[name])]
    kernel = mcmc.compose(*neighbours)

    def twice(key):
        state = kernel.init(x)
        return state, kernel.step(key, state)

    before, (after, info) = jax.eval_shape(twice, KEY)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert info.accept.shape == ()


def test_named_compositions_run():
    # The pairs that once died: a value beside a gradient, a user's kernel, a subclass, a foreign algorithm.
    blackjax = pytest.importorskip("blackjax")
    walk = mcmc.metropolize(mcmc.RandomWalk(gaussian), gaussian)
    for other in (walk, Outsider(gaussian), Heir(gaussian), blackjax.mala(gaussian, 0.5)):
        for kernel in (mcmc.compose(other, mcmc.MALA(gaussian)), mcmc.compose(mcmc.MALA(gaussian), other)):
            assert np.all(np.isfinite(mcmc.chain(KEY, kernel, jnp.ones(3), 3).x))
    kernel, _ = mcmc.tune(KEY, Heir(gaussian), jnp.ones(3), 60)
    assert type(kernel) is Heir
    assert kernel.step_size > 0.2
    with pytest.raises(TypeError, match="got the class MALA"):
        mcmc.chain(KEY, mcmc.MALA, jnp.ones(3), 3)
    langevin = mcmc.metropolize(mcmc.ULA(gaussian), gaussian)
    assert langevin.step(KEY, langevin.init(jnp.ones(2)))[1].nfe == 3  # two gradients of the proposal, one density


MIXED = {"a": np.ones(2, np.float32), "b": np.ones(3, np.float64)}


def wide(z):
    return jnp.asarray(-sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(z)), jnp.float64)


class Last:
    """A reducer that is a plain object."""

    def init(self, x):
        return x

    def update(self, carry, state, info):
        return state.position

    def value(self, carry):
        return carry


def test_hooks_that_return_text_and_reducers_that_are_no_trees_are_refused():
    kernel, text = mcmc.MALA(gaussian, step_size=0.5), lambda state, info: (state.position, "text")
    match = "keep must return an array or a tree of arrays, got 'text'"
    for run in (
        lambda: mcmc.chain(KEY, kernel, jnp.ones(2), 2, keep=text),
        lambda: mcmc.chain(KEY, kernel, jnp.ones(2), 2, keep=text, burn=1, thin=2),
        lambda: js.chains(KEY, kernel, jnp.ones((2, 2)), 2, keep=text),
        lambda: next(mcmc.stream(KEY, kernel, jnp.ones(2), 2, keep=text)),
    ):
        with pytest.raises(TypeError, match=match):
            run()
    with pytest.raises(TypeError, match="logdensity must return one scalar, got 'text'"):
        mcmc.chain(KEY, mcmc.MALA(lambda x: "text", step_size=0.5), jnp.ones(2), 2)
    with pytest.raises(TypeError, match="chain: the reducer Last is not a tree of arrays"):
        mcmc.chain(KEY, kernel, jnp.ones(2), 2, reduce=(Last(),))


@pytest.mark.parametrize("x", [MIXED, np.ones(3, np.float32)], ids=["mixed", "float32"])
def test_dtypes_are_pinned_at_the_door(x, x64):
    # A density that computes in float64 whatever it is given: no state changes its type.
    score = jax.grad(wide)
    kernels = [
        *(cls(wide) for cls in (mcmc.ULA, mcmc.MALA, mcmc.Barker, mcmc.HMC, mcmc.BAOAB, mcmc.OBABO, mcmc.GHMC,
                                mcmc.MCLMC, mcmc.Slice, mcmc.RandomWalk)),
        mcmc.NUTS(wide, max_depth=2), mcmc.EllipticalSlice(wide), mcmc.Corrector(lambda x, t: score(x), 1.0),
        mcmc.SGLD(lambda x, batch: score(x), jnp.ones(3)), mcmc.pSGLD(lambda x, batch: score(x), jnp.ones(3)),
        mcmc.SGHMC(lambda x, batch: score(x), jnp.ones(3)), mcmc.AutoencoderMH(lambda x: x, 1.0),
        mcmc.metropolize(mcmc.ULA(wide), wide), mcmc.metropolize(mcmc.RandomWalk(wide), score=score),
        mcmc.cycle(mcmc.MALA(wide), mcmc.Slice(wide)),
    ]  # fmt: skip
    for kernel in (*kernels, mcmc.compose(*kernels)):
        run = lambda key, kernel=kernel: mcmc.chain(key, kernel, x, 3, burn=1, reduce=(mcmc.Moments(),)).x
        out = jax.eval_shape(run, KEY)
        assert [v.dtype for v in jax.tree.leaves(out)] == [v.dtype for v in jax.tree.leaves(x)]
    many = jax.tree.map(lambda leaf: np.stack([leaf] * 4), x)
    kernel = mcmc.HMC(wide)
    for driver in (
        lambda key: mcmc.tune(key, kernel, many, 30, chains=4)[1],
        lambda key: mcmc.tune(key, mcmc.MCLMC(wide), many, 30, chains=4)[1],
        lambda key: mcmc.smc(key, kernel, many, reference=wide).x,
        lambda key: mcmc.ais(key, kernel, many, jnp.linspace(0, 1, 3), reference=wide).x,
        lambda key: mcmc.ParallelTempering(kernel, [1.0, 0.5, 0.2, 0.0], reference=wide).init(many).position,
    ):
        out = jax.eval_shape(driver, KEY)
        assert [v.dtype for v in jax.tree.leaves(out)] == [v.dtype for v in jax.tree.leaves(x)]


def test_nuts_runs_without_jit():
    kernel = mcmc.NUTS(gaussian, step_size=0.5, max_depth=2)
    want = kernel.step(KEY, kernel.init(jnp.ones(2)))[0].position
    with jax.disable_jit():
        got = kernel.step(KEY, kernel.init(jnp.ones(2)))[0].position
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_corrector_stays_where_the_score_is_zero():
    result = mcmc.chain(KEY, mcmc.Corrector(lambda x, t: -x, 1.0), jnp.zeros(2), 3)
    assert np.all(result.x == 0)
    assert int(result.info.diverged) == 3


def test_numpyro_scalars_are_leaves_and_starts_come_by_vmap():
    numpyro = pytest.importorskip("numpyro")

    def model(y, scale, rows=3):
        mean = numpyro.sample("mean", numpyro.distributions.Normal(0.0, scale))
        with numpyro.plate("rows", rows):
            numpyro.sample("y", numpyro.distributions.Normal(mean, 1.0), obs=y)

    y = jnp.array([1.0, 2.0, 3.0])
    targets = [mcmc.from_numpyro(model, y, scale) for scale in (1.0, np.float32(2.0), 3.5)]
    assert len({jax.tree.structure(t.logdensity) for t in targets}) == 1
    for target, scale in zip(targets, (1.0, 2.0, 3.5), strict=True):
        slope = jax.grad(target.logdensity)({"mean": jnp.float32(0.0)})["mean"]
        assert np.isclose(slope, 6.0)
        curve = jax.grad(lambda m, t=target: jax.grad(t.logdensity)({"mean": m})["mean"])(jnp.float32(0.0))
        assert np.isclose(curve, -3 - 1 / scale**2)
    starts = jax.vmap(lambda key: mcmc.from_numpyro(model, y, 1.0, key=key).x)(jax.random.split(KEY, 4))
    assert len(np.unique(starts["mean"])) == 4
    with pytest.raises(TypeError, match="key must be a JAX key"):
        mcmc.from_numpyro(model, y, 1.0, key=0)
    # Several chains of a model in one call: sites come back as [chains, draws]. The posterior mean is 6 / 4.
    result = js.chains(KEY, targets[0], 4, 300, warm=200)
    assert result.x["mean"].shape == (4, 300)
    assert float(js.estimate.rhat(result.x["mean"])) < 1.05
    estimate = js.estimate.mean(result.x["mean"])
    assert abs(float(estimate.value) - 1.5) < 5 * float(estimate.stderr)
    assert int(result.info.warm_nfe.sum()) > 200 * 4


def test_several_chains_are_the_chains_one_by_one():
    kernel = mcmc.MALA(gaussian, step_size=0.5)
    starts = jnp.array([[0.0, 1.0], [2.0, 3.0], [-1.0, 0.5]])
    result = js.chains(KEY, kernel, starts, 20, burn=3, thin=2, reduce=(mcmc.Moments(),))
    assert result.x.shape == (3, 20, 2)
    assert result.info.accept.shape == (3,)
    assert result.info.reduced[0].mean.shape == (3, 2)
    for i, key in enumerate(jax.random.split(jax.random.split(KEY, 3)[2], 3)):
        alone = mcmc.chain(key, kernel, starts[i], 20, burn=3, thin=2)
        np.testing.assert_allclose(result.x[i], alone.x, rtol=2e-5, atol=1e-5)
    # An ensemble's draws have the same axes, whole or in chunks.
    together = mcmc.ensemble(kernel)
    whole = mcmc.chain(KEY, together, starts, 10).x
    assert whole.shape == (3, 10, 2)
    parts = [r.x for r in mcmc.stream(KEY, together, starts, 10, chunk=4)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    accepts = mcmc.chain(KEY, together, starts, 10, keep=lambda s, i: (i.aux.accept, i.accept)).x
    assert accepts[0].shape == (3, 10)
    assert accepts[1].shape == (10,)
