"""The laws of the house for jsamp.fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import Case, pairs

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
    refusal("data is empty", data={}),
    refusal("one leading axis", data=(DATA, DATA[:3])),
    refusal("Convert lists", data=[1.0, 2.0]),
    refusal("NaN", data=DATA.at[3, 0].set(jnp.nan)),
    refusal("bytes of images", data=jnp.zeros((12, 2), jnp.uint8)),
    refusal("batch must be None", data=iter([DATA])),
    refusal("batch 1 of data is", data=iter([DATA, DATA[:, :1]]), batch=None),
    refusal("batch 1 of data is", data=iter([DATA, DATA.astype(jnp.bfloat16)]), batch=None),
    refusal("must hold arrays", data=lambda step: [1.0], batch=None),
    refusal("ema must be a number in", ema=1.0),
    refusal("ema must be a number in", ema="yes"),
    refusal("follow needs a tuple", follow=0.9),
    refusal("structure of the first", follow=0.9, model=(MODEL, {"w": jnp.ones(2)}), loss=lambda k, m, b: (0.0, None)),
    refusal("keep must be callable", keep=3),
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


def record(kind, *values):
    return Case(lambda: lambda x: kind(x, *values), (DATA,), returns=kind)


REGISTRY = {
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
        refusals=[(lambda: js.fit.trajectory_score(GAUSSIAN, DATA, DATA[:3]), "trajectory_score: reference must have")],
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


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)
