"""The laws of the house for every public name of jsamp.tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, pairs
from token_models import markov, random_network

import jsamp as js

T = js.tokens
KEY = jax.random.key(3)
MASK = 5
PROCESS = T.Masked(MASK)
X = jnp.array([MASK, 2, MASK, MASK, 0, MASK], jnp.int32)
CROWD = jnp.tile(X, (4, 1))
TEXT = jnp.array([1, 2, 4, 0, 0, 3], jnp.int32)
GRID = np.linspace(1, 0, 7)
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=9), jnp.float32)
STEP, _ = markov()
LARGE, _ = markov(seed=5)
NETWORK = random_network()
NAN = jnp.full(9, jnp.nan)


def decoder(table, x=X, network=NETWORK, **options):
    """A case that decodes x by a table, with a network whose weights are leaves."""
    refusals = options.pop("refusals", ())
    return Case(
        lambda: (network, table), (x,), lambda thing, key, x: T.decode(key, thing[0], x, thing[1], **options),
        stochastic=True, dtypes=None, returns=js.Result, mechanism=options.pop("mechanism", ""), refusals=refusals,
    )  # fmt: skip


def table(build, *refusals):
    """A case that makes a table and looks at its columns."""
    columns = lambda made: jax.tree.map(jnp.asarray, made)
    return Case(
        lambda: columns(build()), (), lambda thing, key: thing, mechanism="table", dtypes=None, refusals=refusals
    )


def transform(build, *refusals):
    """A case of a transform of logits; every one keeps float64 and raises half precision."""
    return Case(
        build, (LOGITS,), lambda thing, key, logits: jax.nn.softmax(thing(logits)), smooth=True, dtypes="raised",
        refusals=refusals,
    )  # fmt: skip


def marked(mark, *refusals):
    """A case of a watermark: it chooses, and tells costs."""
    call = lambda thing, key, logits: (
        thing.costs(jnp.arange(9)),
        thing.fresh(key).choose(3, logits),
        thing.fresh(key).costs(jnp.arange(9)),
    )
    return Case(lambda: mark, (LOGITS,), call, dtypes=None, stochastic=True, refusals=refusals)


class Remask:
    """Remasks with a given probability, whether legal or not."""

    def __init__(self, sigma):
        self.sigma = np.asarray(sigma)

    def schedule(self, process, grid):
        hidden = process.mask_prob(grid)
        return hidden, self.sigma if self.sigma.ndim else np.full(len(grid) - 1, self.sigma), grid


class Block:
    """Counts its tokens, and reads several in one call; a plain object, of which `block` is asked."""

    def __init__(self, step, stacked, vocabulary=5):
        self.step, self.stacked, self.vocabulary = step, stacked, vocabulary

    def __call__(self, carry, token):
        return carry + 1, self.step((), token)[1]

    def block(self, carry, tokens):
        count = carry + 1 + jnp.arange(len(tokens)) if self.stacked else carry
        return count, jnp.zeros((len(tokens), self.vocabulary))


def refuse(call, match):
    return call, match


def decode_refused(match, *, model=NETWORK, x=X, decoding=None, key=KEY, **options):
    decoding = T.ancestral(PROCESS, GRID) if decoding is None else decoding
    return lambda: T.decode(key, model, x, decoding, **options), match


def generate_refused(match, *, step=STEP, carry=(), num=4, **options):
    return lambda: T.generate(KEY, step, carry, num, **options), match


def detect_refused(match, *, tokens=TEXT, **options):
    return lambda: T.detect(KEY, tokens, options.pop("mark", EXPONENTIAL), **options), match


def first(key, x, **options):
    return T.first_hitting(key, PROCESS, x, **options)


OLD_KEY = jax.random.PRNGKey(8)  # a plain array, which laws can compare
EXPONENTIAL = T.Exponential(OLD_KEY, 16, 9)
INVERSE = T.InverseTransform(OLD_KEY, 16, 9)
DECODE_REFUSALS = [
    decode_refused("mask id 5 is one of the model's 6 tokens", model=lambda x, t: jnp.zeros((x.shape[0], 6))),
    decode_refused("floating logits, got int32", model=lambda x, t: jnp.zeros((x.shape[0], 5), int)),
    decode_refused(r"must return logits \[6, V\], got \(5,\)", model=lambda x, t: jnp.zeros(5)),
    decode_refused("must be callable", model=3),
    decode_refused("signed integer token ids, got float32", x=X * 1.0),
    decode_refused("signed integer token ids, got uint8", x=X.astype(jnp.uint8)),
    decode_refused(
        "x is int8, which cannot hold the id 299",
        x=(X % 5).astype(jnp.int8),
        model=lambda x, t: jnp.zeros((6, 300)),
        decoding=T.tau_leap(lambda x, t, logits: jnp.exp(logits), GRID),
    ),
    decode_refused(r"must be \[L\] or \[P, L\]", x=jnp.zeros((1, 2, 3), int)),
    decode_refused(
        r"rates must return \[L, V\] like the logits, \(6, 5\); got \(6, 3\)",
        x=X % 5,
        decoding=T.tau_leap(lambda x, t, logits: jnp.ones((6, 3)), GRID),
    ),
    decode_refused("holds the id 9", x=X.at[1].set(9)),
    decode_refused("holds the id -1", x=X.at[1].set(-1)),
    decode_refused("must be an array of token ids", x="text"),
    decode_refused("is empty", x=jnp.zeros(0, int)),
    decode_refused("decoding must be a Decoding", decoding=GRID),
    decode_refused("names site 5, x has 4 sites", x=X[:4], decoding=first(KEY, X)),
    decode_refused("is of 4 texts", decoding=first(KEY, CROWD)),
    decode_refused("key must be a JAX key", key=3),
    decode_refused("lacks the hooks", steer=3),
    decode_refused("decode: keep must return an array or a tree of arrays, got 'text'", keep=lambda x: "text"),
    decode_refused("must be callable", transform="top_k"),
    decode_refused(r"transform must return logits \[5\], got \(10,\)", transform=lambda v: jnp.concatenate([v, v])),
    decode_refused("transform must return floating logits, got int32", transform=lambda v: v.astype(int)),
]

REGISTRY = {
    "Cap": table(
        lambda: T.ancestral(PROCESS, GRID, remask=T.Cap(0.1)),
        refuse(lambda: T.Cap(1.5), "Cap: eta must be"), refuse(lambda: T.Cap("much"), "Cap: eta must be"),
        refuse(lambda: T.Cap(np.array([0.1, 0.2])), "Cap: eta must be one number"),
    ),
    "ClassifierFree": Case(
        lambda: T.ClassifierFree(NETWORK, random_network(seed=4), 2.0), (X,), lambda thing, key, x: thing(x, 0.5),
        smooth=True, dtypes=None,
        refusals=[
            refuse(lambda: T.ClassifierFree(3, NETWORK), "ClassifierFree: cond must be callable"),
            refuse(lambda: T.ClassifierFree(NETWORK, NETWORK, jnp.nan), "ClassifierFree: scale must be finite"),
            refuse(
                lambda: T.ClassifierFree(NETWORK, lambda x, t: jnp.zeros((6, 1)))(X, 0.5),
                r"both models must have the same tokens, got \(6, 5\) and \(6, 1\)",
            ),
        ],
    ),
    "Confident": decoder(T.ancestral(PROCESS, GRID, remask=T.Confident())),
    "DecodeInfo": decoder(T.ancestral(PROCESS, GRID), mechanism="ancestral"),
    "DecodeStep": decoder(T.ancestral(PROCESS, GRID), steer=js.steer.Hooks(), mechanism="steered"),
    "Decoding": table(
        lambda: T.ancestral(PROCESS, GRID)[1:3],
        refuse(lambda: T.ancestral(PROCESS, GRID)[3:3], "is empty"),
        refuse(lambda: T.ancestral(PROCESS, GRID)[2], "cut by a slice"),
    ),
    "Detection": Case(lambda: INVERSE, (TEXT,), lambda mark, key, x: T.detect(key, x, mark, edit=0.4, runs=3),
                      stochastic=False, dtypes=None, returns=T.Detection),
    "Exclude": Case(
        lambda: T.exclude(random_network(6), 5, 2), (X,), dtypes=None, mechanism="exclude",
        call=lambda thing, key, x: jax.nn.softmax(thing(x, 0.5)),
        refusals=[
            refuse(lambda: T.exclude(lambda x, t: jnp.zeros((6, 3), int), 2)(X, 0.5), "floating logits, got int32"),
        ],
    ),
    "Exponential": marked(
        EXPONENTIAL,
        refuse(lambda: T.Exponential(3, 16, 9), "Exponential: key must be a JAX key"),
        refuse(lambda: T.Exponential(KEY, 0, 9), "Exponential: length must be >= 1"),
        refuse(lambda: EXPONENTIAL.choose(0, LOGITS[:4]), r"logits must be \[9\]"),
        refuse(lambda: EXPONENTIAL.choose(0, jnp.arange(9)), "must be floating point"),
        refuse(lambda: EXPONENTIAL.choose(0, NAN), "not NaN"),
    ),
    "GenerateInfo": Case(lambda: STEP, (TEXT,), lambda step, key, x: T.generate(key, step, (), 4, prompt=x, stop=2),
                         stochastic=True, dtypes=None),
    "InverseTransform": marked(
        INVERSE,
        refuse(lambda: T.InverseTransform(KEY, 16, 2.0), "InverseTransform: vocabulary must be a Python int"),
        refuse(lambda: INVERSE.choose(0, LOGITS[:4]), r"logits must be \[9\]"),
    ),
    "Loop": table(
        lambda: T.ancestral(PROCESS, GRID, remask=T.Loop()),
        refuse(lambda: T.Loop(eta=0.2), "Loop: eta must be at most"),
        refuse(lambda: T.Loop(on=0.1, off=0.3), "wanted 1 > on > off > 0"),
    ),
    "Masked": Case(
        lambda: T.Masked(MASK, "cosine"), (TEXT,), lambda thing, key, x: thing.corrupt(key, x, 0.5), stochastic=True,
        dtypes=None,
        refusals=[
            refuse(lambda: T.Masked(-1), "Masked: mask must be >= 0"),
            refuse(lambda: T.Masked(2.0), "Masked: mask must be a Python int"),
            refuse(lambda: T.Masked(5, "quadratic"), "Masked: alpha must be one of"),
            refuse(lambda: T.Masked(5, lambda t: t), "Masked: alpha must fall"),
            refuse(lambda: T.Masked(5, lambda t: 0.5 - 0.5 * t), "Masked: alpha must be 1 at t = 0"),
            refuse(lambda: T.Masked(5, lambda t: 0.5), "Masked: alpha must act on every time"),
            refuse(lambda: PROCESS.corrupt(KEY, TEXT, 1.5), "corrupt: t must be"),
            refuse(lambda: PROCESS.corrupt(KEY, TEXT * 1.0, 0.5), "integer token ids"),
            refuse(lambda: T.Masked(300).corrupt(KEY, TEXT.astype(jnp.int8), 0.5), "cannot hold the id 300"),
            refuse(lambda: PROCESS.corrupt(KEY, TEXT[:1], jnp.ones(3)), r"broadcast against x \(1,\), got shape \(3,\)"),
        ],
    ),
    "Model": decoder(first(KEY, X), mechanism="first_hitting"),
    "Rescale": table(
        lambda: T.ancestral(PROCESS, GRID, remask=T.Rescale(0.3)), refuse(lambda: T.Rescale(-0.1), "Rescale: eta must"),
    ),
    "Reward": Case(
        lambda: T.Reward(NETWORK, jax.tree_util.Partial(lambda w, soft: jnp.sum(w * soft**2), 0.3), 2.0), (X,),
        lambda thing, key, x: thing(x, 0.5), smooth=True, dtypes=None,
        refusals=[
            refuse(lambda: T.Reward(NETWORK, 3), "Reward: reward must be callable"),
            refuse(lambda: T.Reward(NETWORK, lambda soft: soft[:, 1])(X, 0.5), r"one floating number, got float32\[6\]"),
        ],
    ),
    "SpeculativeInfo": Case(
        lambda: (STEP, LARGE), (TEXT,), stochastic=True, dtypes=None,
        call=lambda steps, key, x: T.speculative(key, *steps, ((), ()), 7, ahead=3, prompt=x),
    ),
    "TokenPrediction": decoder(
        T.ancestral(PROCESS, GRID), CROWD,
        steer=js.steer.SoftValue(lambda x, p, info: jnp.sum(p.x0 == 1, 1) * 1.0, lambda x: jnp.sum(x == 1, 1) * 1.0),
    ),
    "Transform": transform(
        lambda: T.temperature(0.7),
        refuse(lambda: T.temperature(0.7)(jnp.arange(3)), "must be floating point"),
        refuse(lambda: T.temperature(0.7)(jnp.float32(3)), "got a scalar"),
        refuse(lambda: T.temperature(0.7)(NAN), "logits must be < inf, not NaN"),
        refuse(lambda: T.temperature(0.7)(jnp.full(3, -jnp.inf)), "not all -inf"),
        refuse(lambda: T.repetition(2.0)(LOGITS), "reads the tokens so far"),
    ),
    "ancestral": decoder(
        T.ancestral(PROCESS, GRID, remask=T.Cap(0.2)), transform=(T.top_k(3), T.temperature(0.8)), keep=lambda x: x,
        refusals=[
            refuse(lambda: T.ancestral(5, GRID), "process must be a js.tokens.Masked"),
            refuse(lambda: T.ancestral(PROCESS, 64), r"np.linspace\(1, 0, n \+ 1\)"),
            refuse(lambda: T.ancestral(PROCESS, GRID[::-1]), "must decrease"),
            refuse(lambda: T.ancestral(PROCESS, 2 * GRID), "in \\[0, 1\\]"),
            refuse(lambda: T.ancestral(PROCESS, [1.0]), "at least two times"),
            refuse(lambda: T.ancestral(PROCESS, GRID, remask=0.1), "remask must be Cap"),
            refuse(lambda: T.ancestral(PROCESS, GRID, remask=Remask(0.9)), r"in step 3 must be in .* 0.6667\], got 0.9"),
            refuse(lambda: T.ancestral(PROCESS, GRID, remask=Remask([0.1])), r"one probability per step \(6,\)"),
            refuse(lambda: T.ancestral(PROCESS, GRID * jnp.nan), "must be finite"),
        ],
    ),
    "confidence": decoder(
        T.confidence(PROCESS, 3, temperature=1.0),
        refusals=[
            refuse(lambda: T.confidence(PROCESS, 0, temperature=1.0), "steps must be >= 1"),
            refuse(lambda: T.confidence(PROCESS, 3, temperature=-1.0), "temperature must be"),
            refuse(lambda: T.confidence(PROCESS, 3, temperature=np.ones(2)), "temperature must be one number"),
        ],
    ),
    "decode": [
        decoder(first(KEY, CROWD), CROWD, mechanism="population"),
        decoder(T.ancestral(PROCESS, GRID), transform=T.repetition(1.3), refusals=DECODE_REFUSALS),
    ],
    "detect": Case(
        lambda: EXPONENTIAL, (TEXT,), lambda mark, key, x: T.detect(key, x, mark, block=4, runs=5), dtypes=None,
        refusals=[
            detect_refused("fewer than a block of 7", block=7),
            detect_refused("longer than the key of 16 rows", tokens=jnp.zeros(20, int)),
            detect_refused("edit must be finite and in", edit=-0.1),
            detect_refused("edit must be a number", edit="yes"),
            detect_refused("runs must be >= 1", runs=0),
            detect_refused("ids in 0..8", tokens=TEXT + 8),
            detect_refused("integer token ids", tokens=TEXT * 1.0),
            detect_refused("mark must be", mark=KEY),
        ],
    ),
    "exclude": decoder(
        T.ancestral(PROCESS, GRID), network=T.exclude(random_network(6), 5),
        refusals=[
            refuse(lambda: T.exclude(NETWORK), "no ids given"),
            refuse(lambda: T.exclude(NETWORK, -1), "id must be >= 0"),
            refuse(lambda: T.exclude(NETWORK, 9)(X, 0.5), "has no token 9"),
        ],
    ),
    "first_hitting": [
        Case(
            lambda: T.Masked(MASK, "cosine"), (X,), lambda thing, key, x: T.first_hitting(key, thing, x),
            stochastic=True, dtypes=None,
            refusals=[
                refuse(lambda: first(KEY, X, groups=(1, 2)), "add up to 4 .masked sites. or 6 .sites., got 3"),
                refuse(lambda: first(KEY, X, groups=4), "groups must be the sizes"),
                refuse(lambda: first(KEY, X, groups=(0, 4)), "positive integers"),
                refuse(lambda: first(KEY, X, groups=(2.0, 2.0)), "positive integers"),
                refuse(lambda: first(KEY, X, order=3), "order must be one of 1, 2"),
                refuse(lambda: first(KEY, X, start=0.0), "start must be"),
                refuse(lambda: first(KEY, X, start=np.full(6, 0.5)), "start must be one number"),
                refuse(lambda: T.first_hitting(KEY, T.Masked(300), X.astype(jnp.int8)), "cannot hold the id 300"),
                refuse(lambda: T.first_hitting(KEY, MASK, X), "process must be a js.tokens.Masked"),
                refuse(lambda: T.first_hitting(X, PROCESS, X), "key must be a JAX key"),
            ],
        ),
        decoder(first(KEY, X, groups=(1, 3), order=2)),
    ],
    "generate": [
        Case(
            lambda: (STEP, T.Exponential(OLD_KEY, 16, 5)), (TEXT,), stochastic=True, dtypes=None,
            call=lambda thing, key, x: T.generate(key, thing[0], (), 5, prompt=x, mark=thing[1]),
        ),
        Case(
            lambda: STEP, (TEXT,), lambda step, key, x: T.generate(key, step, (), 5, transform=T.repetition(1.5)),
            stochastic=True, dtypes=None,
            refusals=[
                generate_refused("num must be >= 1", num=0),
                generate_refused("must return .carry, logits.", step=lambda c, x: c),
                generate_refused("carry of the shapes", step=lambda c, x: (jnp.ones(2), LOGITS), carry=jnp.zeros(3)),
                generate_refused("floating logits, got int32", step=lambda c, x: (c, jnp.zeros(3, int))),
                generate_refused("the mark is for 9 tokens, the model has 5", mark=EXPONENTIAL),
                generate_refused("mark must be", mark=3),
                generate_refused("mark must be", mark=np.zeros(3)),
                generate_refused("prompt must be an array of token ids", prompt=2**31),
                generate_refused("stop must be in 0..4", stop=5),
                generate_refused("prompt must be an array of token ids", prompt="hello"),
                generate_refused("prompt must be an array of token ids", prompt=[[1], [1, 2]]),
                generate_refused("prompt is int8, which cannot hold the id 299", prompt=np.int8(1),
                                 step=lambda c, x: (c, jnp.zeros(300))),
                generate_refused("prompt must be signed integer", prompt=0.5),
                generate_refused("prompt holds the id -1", prompt=-1),
                generate_refused("prompt is empty", prompt=jnp.zeros(0, int)),
            ],
        ),
    ],
    "min_p": transform(lambda: T.min_p(0.2), refuse(lambda: T.min_p(0.0), "min_p: p must be")),
    "nelbo": Case(
        lambda: NETWORK, (TEXT,), lambda model, key, x: T.nelbo(key, model, x, PROCESS, num=8, block=4),
        stochastic=True, dtypes=None, returns=js.Estimate,
        refusals=[
            refuse(lambda: T.nelbo(KEY, NETWORK, X, PROCESS), "without masks"),
            refuse(lambda: T.nelbo(KEY, NETWORK, TEXT, PROCESS, spread="even"), "spread must be one of"),
            refuse(lambda: T.nelbo(KEY, NETWORK, TEXT, PROCESS, num=7, spread="antithetic"), "num must be even"),
            refuse(lambda: T.nelbo(KEY, NETWORK, TEXT, PROCESS, num=1), "num must be >= 2"),
            refuse(lambda: T.nelbo(KEY, NETWORK, CROWD, PROCESS), r"x must be \[L\]"),
            refuse(lambda: T.nelbo(KEY, NETWORK, TEXT, T.Masked(2)), "mask id 2 is one of"),
            refuse(lambda: T.nelbo(KEY, NETWORK, TEXT.astype(jnp.int8), T.Masked(300)), "cannot hold the id 300"),
        ],
    ),
    "repetition": Case(
        lambda: T.repetition(1.5), (LOGITS, TEXT), lambda thing, key, logits, x: thing(logits, x), smooth=True,
        dtypes="raised",
        refusals=[
            refuse(lambda: T.repetition(0.0), "penalty must be"),
            refuse(lambda: T.repetition(2.0)(LOGITS, TEXT * 1.0), "signed integer token ids"),
            refuse(lambda: T.repetition(2.0)(jnp.ones((2, 3)), TEXT), r"takes logits \[V\], got shape \(2, 3\)"),
        ],
    ),
    "speculative": Case(
        lambda: (STEP, LARGE), (TEXT,), stochastic=True, dtypes=None, mechanism="speculative",
        call=lambda steps, key, x: T.speculative(key, *steps, ((), ()), 7, transform=T.top_p(0.9)),
        refusals=[
            refuse(lambda: T.speculative(KEY, STEP, STEP, (), 5), "carry must be .the draft's, the target's."),
            refuse(lambda: T.speculative(KEY, STEP, STEP, ((), ()), 5, ahead=0), "ahead must be >= 1"),
            refuse(
                lambda: T.speculative(KEY, lambda c, x: (c, LOGITS), STEP, ((), ()), 5),
                "the draft has 9 tokens, the target 5",
            ),
            refuse(lambda: T.speculative(KEY, STEP, Block(STEP, False), ((), 0), 5), "stacked after each token"),
            refuse(lambda: T.speculative(KEY, STEP, Block(STEP, True, 4), ((), 0), 5), r"must return logits \[5, 5\]"),
        ],
    ),
    "tau_leap": decoder(
        T.tau_leap(jax.tree_util.Partial(lambda w, x, t, logits: w * jax.nn.softmax(logits), jnp.float32(2.0)), GRID),
        TEXT % 5,
        refusals=[refuse(lambda: T.tau_leap(3, GRID), "rates must be callable")],
    ),
    "temperature": transform(
        lambda: T.temperature(0.5),
        refuse(lambda: T.temperature(-1.0), "temperature must be"),
        refuse(lambda: T.temperature(jnp.ones(3)), "temperature must be one number"),
    ),
    "top_k": transform(
        lambda: T.top_k(3), refuse(lambda: T.top_k(0), "k must be >= 1"), refuse(lambda: T.top_k(2.5), "Python int"),
    ),
    "top_p": transform(
        lambda: T.top_p(0.5), refuse(lambda: T.top_p(1.5), "top_p: p must be"),
        refuse(lambda: T.top_p(0.0), "top_p: p must be"),
    ),
    "typical": transform(lambda: T.typical(0.5), refuse(lambda: T.typical(2.0), "typical: p must be")),
}  # fmt: skip


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)
