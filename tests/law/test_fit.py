"""The laws of the house for jsamp.fit."""

import types
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from cases import Case, pairs
from jax.experimental.sparse import BCSR
from surrogate_cases import SURROGATES

import jsamp as js

KEY = jax.random.key(0)
DATA = jax.random.normal(jax.random.key(1), (12, 2))
LOSS = js.loss.Match(js.noise.VE(), predicts="x0", times=js.loss.UniformTimes(0.5, 1.0))
SGD = optax.sgd(0.1)
MODEL = jax.tree_util.Partial(lambda c, x, t: c * x, jnp.ones(2))


def minimise(key=KEY, loss=LOSS, model=MODEL, data=DATA, optimiser=SGD, steps=2, batch=4, **options):
    return js.fit.minimise(key, loss, model, data, optimiser=optimiser, steps=steps, batch=batch, **options)


def refusal(match, **options):
    return lambda: minimise(**options), match


STATE = js.fit.MinimiseState(9, MODEL, (LOSS,), (SGD.init(MODEL),), None)

REFUSALS = [
    refusal("minimise: key is None", key=None),
    refusal("minimise: key must be", key=3),
    refusal("minimise: loss must be callable", loss=3.0),
    refusal("loss is an empty tuple", loss=()),
    refusal("loss must be floating point, got int32", loss=lambda key, model, batch: (jnp.int32(1), None)),
    refusal("data must hold numbers, got an array of object", data=np.full(8, None)),
    refusal("batch 0 of data has no rows", data=iter([np.zeros((0, 2), np.float32)]), batch=None),
    refusal(r"ema\(step\) must be one number, got shape \(2,\)", ema=lambda step: jnp.ones(2)),
    refusal("pair", loss=lambda key, model, batch: jnp.sum(model.args[0])),
    refusal("must be a scalar", loss=lambda key, model, batch: (model.args[0], None)),
    refusal("no floating array to train", model=lambda x, t: x),
    refusal("no floating array to train", trainable=lambda path, leaf: False),
    refusal("trainable must be callable", trainable=3),
    refusal("as many optimisers", optimiser=(SGD, SGD)),
    refusal("init and update", optimiser=0.1),
    refusal("minimise: steps must be", steps=0),
    refusal("minimise: steps must be", steps=1.5),
    refusal("batch, the rows per step", batch=None),
    refusal("at most the 12 rows", batch=13),
    refusal("minimise: batch must be", batch=0),
    refusal("data frames by .to_numpy", data=types.SimpleNamespace(shape=(2, 1)), batch=1),  # a frame has no dtype
    refusal("data is empty", data={}),
    refusal("one leading axis", data=(DATA, DATA[:3])),
    refusal("Convert lists", data=[1.0, 2.0]),
    refusal("NaN", data=DATA.at[3, 0].set(jnp.nan)),
    refusal("data holds NaN or infinity", data=np.where(np.arange(24).reshape(12, 2) == 5, np.inf, DATA)),
    refusal("batch 0 of data holds NaN", data=lambda step: np.full((4, 2), np.nan, np.float32), batch=None),
    refusal("bytes of images", data=jnp.zeros((12, 2), jnp.uint8)),
    refusal("batch must be None", data=iter([DATA])),
    refusal("batch 1 of data is", data=iter([DATA, DATA[:, :1]]), batch=None),
    refusal("batch 1 of data is", data=iter([DATA, DATA.astype(jnp.bfloat16)]), batch=None),
    refusal("must hold arrays", data=lambda step: [1.0], batch=None),
    refusal("ema must be a number in", ema=1.0),
    refusal("ema must be a number in", ema="yes"),
    refusal("follow needs a tuple", follow=0.9),
    refusal("shapes of the first", follow=0.9, model=(MODEL, jax.tree.map(lambda w: jnp.stack([w, w]), MODEL))),
    refusal("structure of the first", follow=0.9, model=(MODEL, {"w": jnp.ones(2)}), loss=lambda k, m, b: (0.0, None)),
    refusal("keep must be callable", keep=3),
    refusal("keep must return an array or a tree of arrays, got 'text'", keep=lambda model, aux: (aux, "text")),
    refusal("the loss must return a scalar, got 'text'", loss=lambda key, model, batch: ("text", None)),
    refusal("state must be the info.state", state=3),
    refusal("state is at step 9", state=STATE),
]


def run(thing, key, data):
    return minimise(key=key, data=data, loss=thing).x.args[0]


SCHEDULE = js.noise.VP()
GAUSSIAN = js.denoise.GaussianMixture(SCHEDULE, weights=[1.0], means=[[1.0, 0.0]], stds=[0.5])
SPACE = js.fit.Space(SCHEDULE, 3)
PLANS = js.solve.stack([js.solve.ddim(SCHEDULE, js.noise.logsnr_grid(SCHEDULE, 3))])
SCORE = js.fit.trajectory_score(GAUSSIAN, DATA, DATA)


def search(thing, key, x):
    score = js.fit.trajectory_score(GAUSSIAN, x, x)
    return js.fit.search_plan(key, score, SPACE, budget=4, population=4, starts=SPACE.random(key, 2)).x


def search_times(thing, key, x):
    return js.fit.search_grid(key, lambda grids: grids.sum(1), np.arange(9), 3, budget=4, population=4).x


def learn(thing, key, x):
    build = lambda grid: js.solve.ddim(SCHEDULE, grid)
    grid = js.noise.time_grid(SCHEDULE, 3)
    return js.fit.learn_plan(key, GAUSSIAN, build, x=x, reference=x, steps=2, batch=4, grid=grid).x


ROWS = jnp.concatenate([DATA[:6], DATA[6:] + 9])
WHERE = (np.arange(12) > 5).astype(np.int32)
PAIR = js.fit.Mixture(
    [0.4, 0.6], np.array([[0.0, 0.0], [9.0, 9.0]], np.float32), np.stack([np.eye(2, dtype=np.float32)] * 2)
)


RING = jnp.kron(jnp.eye(2), jnp.ones((6, 6)) - jnp.eye(6)).at[0, 6].set(1).at[6, 0].set(1)


def network(change):
    return lambda: js.fit.communities(KEY, change(np.array(RING)), max_communities=4)


def entry(i, j, value):
    def change(links):
        links[i, j] = value
        return links

    return change


NETWORKS = {
    "communities": Case(
        lambda: js.fit.communities, (np.asarray(RING),), lambda f, key, x: f(key, (x > 0.5) * 1.0, max_communities=4),
        mechanism="communities", dtypes=None, tolerance=1e-2,
        refusals=[
            (lambda: js.fit.communities(None, RING), "communities: key is None"),
            (lambda: js.fit.communities(KEY, RING, max_communities=13), "max_communities must be in 1..12"),
            (lambda: js.fit.communities(KEY, RING, max_communities=4, restarts=0), "communities: restarts"),
            (lambda: js.fit.communities(KEY, RING[:3]), "must be square"),
            (lambda: js.fit.communities(KEY, scipy.sparse.csr_array(RING)), "Pass BCOO.from_scipy_sparse"),
            (lambda: js.fit.communities(KEY, BCSR.fromdense(RING)), "Pass adjacency.to_bcoo"),
            (lambda: js.fit.communities(KEY, SimpleNamespace(nodes=[0, 1])), "Pass networkx.to_numpy_array"),
            (network(lambda a: 0 * a), "has no links"),
            (network(lambda a: 2 * a), "zeros and ones"),
            (network(entry(3, 3, 1)), "links to itself"),
            (network(entry(0, 9, 1)), "must be symmetric"),
            (network(entry(0, 1, np.nan)), "zeros and ones"),
        ],
    ),
    "Communities": Case(
        lambda: lambda x: js.fit.Communities(x, x, x), (DATA,), returns=js.fit.Communities,
        refusals=[
            (lambda: js.fit.communities(KEY, RING, max_communities=4).x.cut(3), "num must be in 1..2"),
            (lambda: js.fit.communities(KEY, RING, max_communities=4).x.cut(1.5), "must be one integer"),
        ],
    ),
    "CommunitiesInfo": Case(
        lambda: lambda x: js.fit.CommunitiesInfo(x, x, x, x, x, x), (DATA,), returns=js.fit.CommunitiesInfo
    ),
}  # fmt: skip
CLUSTERS = {
    "kmeans": Case(
        lambda: js.fit.kmeans, (ROWS,), lambda f, key, x: f(key, x, 3, restarts=2, steps=5), dtypes="raised",
        refusals=[
            (lambda: js.fit.kmeans(None, ROWS, 2), "kmeans: key is None"),
            (lambda: js.fit.kmeans(KEY, ROWS, 13), "kmeans: num must be in 1..12"),
            (lambda: js.fit.kmeans(KEY, WHERE, 2), "must be floating point"),
            (lambda: js.fit.kmeans(KEY, ROWS[:, 0], 2), "must be a matrix"),
            (lambda: js.fit.kmeans(KEY, ROWS.at[0, 0].set(jnp.nan), 2), "NaN"),
            (lambda: js.fit.kmeans(KEY, ROWS, 2, start=ROWS[:3]), "start must be centres of shape"),
            (lambda: js.fit.kmeans(KEY, ROWS, 2, start=ROWS[:2], restarts=2), "Leave one of them out"),
            (lambda: js.fit.kmeans(KEY, ROWS, 2, restarts=0), "kmeans: restarts"),
            (lambda: js.fit.kmeans(KEY, ROWS, 2, steps=0), "kmeans: steps"),
            (lambda: js.fit.kmeans(KEY, ROWS, 2, tolerance=-1.0), "kmeans: tolerance"),
            (lambda: js.fit.kmeans(KEY, ROWS, 2, weights=np.ones(3)), "kmeans: weights"),
            (lambda: js.fit.kmeans(KEY, ROWS, 2, weights=-np.ones(12)), "kmeans: weights"),
        ],
    ),
    "KMeansInfo": Case(lambda: lambda x: js.fit.KMeansInfo(x, x, x, x, x), (DATA,), returns=js.fit.KMeansInfo),
    "mixture": Case(
        lambda: js.fit.mixture, (ROWS,), lambda f, key, x: f(key, x, 2, steps=5), dtypes="raised", tolerance=1e-3,
        refusals=[
            (lambda: js.fit.mixture(None, ROWS, 2), "mixture: key is None"),
            (lambda: js.fit.mixture(KEY, ROWS, 0), "mixture: num must be"),
            (lambda: js.fit.mixture(KEY, ROWS, 2, covariance="tied"), "mixture: covariance must be one of"),
            (lambda: js.fit.mixture(KEY, ROWS, 2, floor=-1.0), "mixture: floor"),
            (lambda: js.fit.mixture(KEY, ROWS, 2, tolerance=np.nan), "mixture: tolerance"),
            (lambda: js.fit.mixture(KEY, ROWS, 2, start=WHERE + 1), "mixture: start must lie in 0..1"),
            (lambda: js.fit.mixture(KEY, ROWS, 2, start=ROWS), "mixture: start must be integers"),
            (lambda: js.fit.mixture(KEY, ROWS, 3, start=PAIR), "mixture: start has means"),
            (lambda: js.fit.mixture(KEY, ROWS.at[0, 0].set(jnp.inf), 2), "infinity"),
        ],
    ),
    "MixtureInfo": Case(lambda: lambda x: js.fit.MixtureInfo(x, x, x, x, x), (DATA,), returns=js.fit.MixtureInfo),
    "Mixture": Case(
        lambda: PAIR, (DATA[0],), smooth=True, dtypes=None,
        refusals=[
            (lambda: js.fit.Mixture([1.0], np.zeros((2, 2)), np.zeros((2, 2, 2))), "weight .k., mean"),
            (lambda: js.fit.Mixture([np.nan], np.zeros((1, 2)), np.zeros((1, 2, 2))), "Mixture: weight must be finite"),
            (lambda: PAIR(DATA), "must be one point"),
        ],
    ),
    "ppp": Case(
        lambda: js.fit.ppp, (ROWS,), lambda f, key, x: f(key, x, most=3, restarts=2, steps=5), dtypes="raised",
        tolerance=1e-3,
        refusals=[
            (lambda: js.fit.ppp(None, ROWS), "ppp: key is None"),
            (lambda: js.fit.ppp(KEY, ROWS, most=13), "ppp: most must be in 1..12"),
            (lambda: js.fit.ppp(KEY, ROWS, restarts=1), "ppp: restarts must be >= 2"),
            (lambda: js.fit.ppp(KEY, ROWS, accept=1.5), "ppp: accept"),
            (lambda: js.fit.ppp(KEY, list(range(4))), "must be floating point"),
        ],
    ),
    "PPPInfo": Case(lambda: lambda x: js.fit.PPPInfo(x, x, x, x, x), (DATA,), returns=js.fit.PPPInfo),
    "Partition": Case(lambda: lambda x: js.fit.Partition(x, x, x, x), (DATA,), returns=js.fit.Partition),
}  # fmt: skip


def record(kind, *values):
    return Case(lambda: lambda x: kind(x, *values), (DATA,), returns=kind)


def stand_in(thing, key, x):
    found = js.fit.likelihood_surrogate(
        key, lambda x: -jnp.sum(x**2), lambda u: 2 * u - 1, 20, dim=2, delete=10, stop=0.5, moves=3, steps=2
    )
    return found.x, found.info.log_weights


REGISTRY = (
    CLUSTERS
    | SURROGATES
    | {
        "likelihood_surrogate": Case(
            lambda: SPACE,
            (np.asarray(DATA),),
            stand_in,
            stochastic=True,
            host=True,
            dtypes=None,
            refusals=[
                (
                    lambda: js.fit.likelihood_surrogate(KEY, lambda x: x, lambda u: u, 8, dim=2),
                    "likelihood_surrogate: loglikelihood must return",
                )
            ],
        ),
        "SurrogateInfo": record(js.fit.SurrogateInfo, *[None] * 11),
        "search_plan": Case(lambda: SPACE, (np.asarray(DATA),), search, stochastic=True, host=True, dtypes=None),
        "search_grid": Case(lambda: SPACE, (np.asarray(DATA),), search_times, stochastic=True, host=True, dtypes=None),
        "learn_plan": Case(lambda: SPACE, (np.asarray(DATA),), learn, stochastic=True, host=True, dtypes=None),
        "Space": Case(
            lambda: SPACE,
            (np.asarray(DATA),),
            lambda space, key, x: space.decode(space.random(key, 1)[0]),
            stochastic=True,
            host=True,
            dtypes=None,
            refusals=[(lambda: js.fit.Space(SCHEDULE, 1), "Space: nfe must be")],
        ),
        "trajectory_score": Case(
            lambda: PLANS,
            (DATA,),
            lambda plans, key, x: js.fit.trajectory_score(GAUSSIAN, x, x)(plans),
            dtypes=None,
            refusals=[
                (lambda: js.fit.trajectory_score(GAUSSIAN, DATA, DATA[:3]), "trajectory_score: reference must have")
            ],
        ),
        "sample_score": Case(
            lambda: PLANS,
            (DATA,),
            lambda plans, key, x: js.fit.sample_score(GAUSSIAN, x, jnp.mean)(plans),
            dtypes=None,
            refusals=[(lambda: js.fit.sample_score(GAUSSIAN, DATA, 3), "sample_score: distance must be callable")],
        ),
        "PlanScore": Case(lambda: SCORE, (DATA,), lambda score, key, x: score(PLANS) + 0 * x[0, 0], dtypes=None),
        "Genome": record(js.fit.Genome, None, None, None),
        "Search": record(js.fit.Search, [], []),
        "SearchInfo": record(js.fit.SearchInfo, None, 1, [], None),
        "LearnInfo": record(js.fit.LearnInfo, None),
        "minimise": Case(lambda: LOSS, (np.asarray(DATA),), run, stochastic=True, host=True, refusals=REFUSALS),
        "MinimiseState": Case(
            lambda: lambda x: js.fit.MinimiseState(0, x, (), (), None), (DATA,), returns=js.fit.MinimiseState
        ),
        "MinimiseInfo": Case(
            lambda: lambda x: js.fit.MinimiseInfo(x, x, None, None, None), (DATA,), returns=js.fit.MinimiseInfo
        ),
    }
)
TREATED = np.arange(12) % 2
OUTCOME = np.asarray(DATA[:, 0] + TREATED)


def effects(images=DATA, treatment=TREATED, outcome=OUTCOME, encoder=jnp.tanh, clusters=2, key=KEY, **options):
    return js.fit.effect_mixture(key, images, treatment, outcome, encoder, clusters, **({"steps": 2} | options))


HEADS = (jnp.ones(2), 0.5, jnp.array([[0.0, 1.0], [0.0, -0.5]]), jnp.array([0.0, 0.2]), jnp.array([0.0, 1.0]))
EFFECTS = {
    "effect_mixture": Case(
        lambda: jax.tree_util.Partial(jnp.tanh), (np.asarray(DATA),), lambda f, key, x: effects(x, encoder=f, key=key, batch=4),
        stochastic=True, host=True, dtypes=None,
        refusals=[
            (lambda: effects(key=None), "effect_mixture: key is None"),
            (lambda: effects(images=TREATED[:, None]), "must be floating point"),
            (lambda: effects(images=DATA[:, 0]), "images must be .n, ...."),
            (lambda: effects(images=DATA.at[0, 0].set(jnp.nan)), "NaN"),
            (lambda: effects(treatment=OUTCOME), "must be 0 and 1"),
            (lambda: effects(treatment=np.ones(12)), "12 of 12 units are treated"),
            (lambda: effects(treatment=TREATED[:5]), "treatment must be a vector of shape"),
            (lambda: effects(outcome=np.ones(12)), "outcome is constant"),
            (lambda: effects(outcome=OUTCOME * np.nan), "outcome must be finite"),
            (lambda: effects(encoder=3), "encoder must be callable"),
            (lambda: effects(encoder=jnp.sum), "must map an image"),
            (lambda: effects(clusters=0), "clusters must be"),
            (lambda: effects(outcome=np.full(12, 0.1)), "outcome is constant"),
            (lambda: effects(encoder=lambda x: x / 0), "encoder.images. holds NaN or infinity"),
            (lambda: effects(batch=13), "effect_mixture: batch must be in 1..12"),
            (lambda: effects(train_encoder=1), "must be True or False"),
        ],
    ),
    "EffectMixture": Case(
        lambda: js.fit.EffectMixture(jax.tree_util.Partial(jnp.tanh), *HEADS, jnp.ones((2, 2))), (DATA[0],),
        lambda found, key, x: (found(x), found.individual(x), found.salience(x)), dtypes=None, smooth=True,
        refusals=[(lambda: js.fit.EffectMixture(3, *HEADS, jnp.ones((2, 2))), "encoder must be callable")],
    ),
    "EffectInfo": Case(lambda: lambda x: js.fit.EffectInfo(x, x, x, x, x), (DATA,), returns=js.fit.EffectInfo),
}  # fmt: skip


def fit_line(x, y, rows):
    return jnp.mean((y * rows - jnp.mean(x)) ** 2) / 2 + jnp.sum(y**2) / 2


def bilevel(upper=fit_line, lower=fit_line, rate=0.1, lower_rate=0.3, **options):
    return js.fit.Bilevel(upper, lower, rate, lower_rate, **options)


YS, BLOCKS = jnp.array([0.3, -0.2, 0.5]), (DATA.reshape(3, 8)[:, :5], DATA.reshape(3, 8))


def begun(key=KEY, x=YS[:2], ys=YS, data=BLOCKS, **options):
    return lambda: bilevel(**options).init(key, x, ys, data)


def stepped(kernel, key, x):
    data = jax.tree.map(lambda leaf: leaf.astype(x.dtype), BLOCKS)
    state = kernel.init(key, x[:2], x, data)
    return kernel.step(key, kernel.step(key, state, data)[0], data)


def refused_step(key=KEY, data=BLOCKS, state=None, **options):
    kernel = bilevel(**({"blocks": 2} | options))
    return lambda: kernel.step(key, js.fit.BilevelState(*[YS] * 7) if state is None else state, data)


BILEVEL = {
    "Bilevel": (
        Case(
            lambda: bilevel(blocks=2, batch=4), (YS,), stepped, stochastic=True, smooth=True, dtypes="refused",
            refusals=[
                (lambda: bilevel(upper=3), "Bilevel: upper must be callable"),
                (lambda: bilevel(lower=lambda x, y: x), "Bilevel: lower must be callable"),
                (lambda: bilevel(rate=0.0), "Bilevel: rate must be"),
                (lambda: bilevel(rate=[0.1, 0.2]), "Bilevel: rate must be one number"),
                (lambda: bilevel(lower_rate=-0.1), "Bilevel: lower_rate must be"),
                (lambda: bilevel(blocks=0), "Bilevel: blocks must be"),
                (lambda: bilevel(blocks=1.5), "Bilevel: blocks must be"),
                (lambda: bilevel(batch=0), "Bilevel: batch must be"),
                (lambda: bilevel(batch=(1, 2, 3)), "Bilevel: batch must be one count or a pair"),
                (lambda: bilevel(track="v1"), "Bilevel: track must be one of"),
                (lambda: bilevel(alpha=0.0), "Bilevel: alpha must be"),
                (lambda: bilevel(beta=1.1), "Bilevel: beta must be"),
                (lambda: bilevel(gamma=-1.0), "Bilevel: gamma must be"),
                (lambda: bilevel(solve_rate=0.0), "Bilevel: solve_rate must be"),
                (lambda: bilevel(floor=0.0), "Bilevel: floor must be"),
                (lambda: bilevel(floor=None), "Bilevel: floor must be"),
                (lambda: bilevel(radius=np.nan), "Bilevel: radius must be"),
                (begun(key=None, batch=2), "Bilevel.init: key is None"),
                (begun(key=3), "Bilevel.init: key must be"),
                (begun(x=np.arange(2)), "Bilevel.init: x must be floating"),
                (begun(x=jnp.ones(2, jnp.bfloat16)), "must be float32 or float64"),
                (begun(ys=YS.at[1].set(jnp.nan)), "Bilevel.init: ys must be finite"),
                (begun(ys=jnp.float32(1)), "ys must have leaves"),
                (begun(ys=(YS, YS[:2])), "ys must have leaves"),
                (begun(data=BLOCKS[0]), "data must be a pair"),
                (begun(data=(BLOCKS[0], None)), "lower data is empty"),
                (begun(data=(BLOCKS[0], BLOCKS[1][:2])), "with m = 3 blocks"),
                (begun(data=(BLOCKS[0], YS)), "with m = 3 blocks"),
                (begun(data=(BLOCKS[0] * jnp.inf, BLOCKS[1])), "upper data must be finite"),
                (begun(blocks=4), "at most the 3 blocks"),
                (begun(batch=6), "upper data: batch must be at most the 5 rows"),
                (begun(upper=lambda x, y, rows: rows), "upper must return a floating scalar"),
                (begun(lower=lambda x, y, rows: 1), "lower must return a floating scalar"),
                (refused_step(key=None), "Bilevel.step: key is None"),
                (refused_step(state=3), "state must be a BilevelState"),
                (refused_step(data=3.0), "data must be a pair"),
                (refused_step(alpha=1.0), "Pass gamma=0"),
            ],
        ),
        Case(lambda: bilevel(track="products", batch=(2, None)), (YS,), stepped, stochastic=True, dtypes="refused",
             mechanism="bilevel products"),
    ),
    "BilevelState": record(js.fit.BilevelState, *[None] * 6),
    "BilevelInfo": record(js.fit.BilevelInfo, *[None] * 3),
}  # fmt: skip
SHORT = js.fit.ChannelSchedule(settle=1, blend=1, fade=1, patience=1, epochs=4)
KEPT = js.fit.Channels(jax.tree_util.Partial(jnp.tanh), DATA[0] > -9, DATA[0], DATA[1], DATA[2], jnp.ones(2))


def choose(X=DATA, y=OUTCOME, sizes=1, key=KEY, **options):
    return js.fit.choose_channels(key, X, y, sizes, **({"schedule": SHORT, "optimiser": SGD} | options))


CHANNELS = {
    "choose_channels": Case(
        lambda: SHORT, (np.asarray(DATA),), lambda f, key, x: choose(x, x[:, 0], key=key).info.loss,
        stochastic=True, host=True, dtypes=None,
        refusals=[
            (lambda: choose(key=None), "choose_channels: key is None"),
            (lambda: choose(TREATED[:, None]), "must be floating point"),
            (lambda: choose(y=TREATED), "labels as columns of zeros and ones"),
            (lambda: choose(y=OUTCOME[:5]), "y must have 12 rows"),
            (lambda: choose(DATA[:, :1]), "want X"),
            (lambda: choose(DATA.at[0, 0].set(jnp.nan)), "X must be finite"),
            (lambda: choose(y=OUTCOME * np.nan), "y must be finite"),
            (lambda: choose(DATA[:1], OUTCOME[:1]), "at least 2 rows"),
            (lambda: choose(sizes=2), "sizes must be in 1..1"),
            (lambda: choose(sizes=(1, 1)), "sizes must decrease"),
            (lambda: choose(sizes=()), "sizes must decrease"),
            (lambda: choose(sizes="1"), "sizes must be numbers of channels"),
            (lambda: choose(sizes=1.5), "sizes must be numbers of channels"),
            (lambda: choose(score=3), "score must be callable"),
            (lambda: choose(task=lambda X: X), "task must map"),
            (lambda: choose(schedule=25), "schedule must be a ChannelSchedule"),
            (lambda: choose(optimiser=0.1), "init and update"),
            (lambda: choose(batch=10), "batch must be in 1..9"),
            (lambda: choose(validation=DATA), "validation must be a pair"),
            (lambda: choose(validation=(DATA[:, :1], OUTCOME)), "want X"),
            (lambda: choose(validation=(DATA, DATA)), "validation must have the columns"),
            (lambda: choose(progress=1), "must be True or False"),
        ],
    ),
    "ChannelSchedule": Case(
        lambda: SHORT, (jnp.float32(2.0),), dtypes="float32",
        refusals=[
            (lambda: js.fit.ChannelSchedule(epochs=45), "epochs must exceed"),
            (lambda: js.fit.ChannelSchedule(settle=0), "settle must be >= 1"),
            (lambda: SHORT(-1), "epoch must be"),
        ],
    ),
    "Channels": Case(
        lambda: KEPT, (DATA,), smooth=True, dtypes=None,
        refusals=[
            (lambda: KEPT(DATA[0]), "Channels: X must be"),
            (lambda: js.fit.Channels(3, *[DATA[0]] * 5), "task must be callable"),
            (lambda: js.fit.Channels(jnp.tanh, DATA[0] > 0, DATA[0], DATA[0], DATA, DATA[0]), "must all be .C."),
            (lambda: js.fit.Channels(jnp.tanh, *[DATA[0]] * 5), "mask must be boolean"),
        ],
    ),
    "ChannelsInfo": Case(lambda: lambda x: js.fit.ChannelsInfo(*8 * [x], None), (DATA,), returns=js.fit.ChannelsInfo),
}  # fmt: skip
REGISTRY |= NETWORKS | EFFECTS | BILEVEL | CHANNELS


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)


def test_slots_of_a_small_network_are_its_nodes():
    found = jax.eval_shape(lambda links: js.fit.communities(KEY, links).x, RING)
    assert found.merges.shape == (11, 2)
