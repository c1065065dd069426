"""The shipped character models: what their card says, on the text that every Python carries."""

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsamp as js

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def net():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("text_net")
    sys.path.remove(str(EXAMPLES))


def test_weights_are_small():
    for kind in ("masked", "recurrent"):
        file = EXAMPLES / "models" / f"text_{kind}.npz"
        assert file.stat().st_size <= 1_000_000
        assert all(array.dtype == np.float16 for array in np.load(file).values())


def rows_of(net, count):
    """Windows of the test part, which no model was trained on."""
    _, test = net.split(net.corpus())
    return jnp.asarray(np.lib.stride_tricks.sliding_window_view(test, net.LENGTH)[:: len(test) // count][:count])


def test_the_recurrent_model_predicts_text(net):
    """Bits per character on the test part: 1.63 in the card, 6.57 for a model that knows nothing."""
    model = net.load("recurrent")

    def one(row):
        logits = jax.lax.scan(model, net.empty_carry(), row[:-1])[1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), row[1:, None], 1)[16:]) / np.log(2)

    values = np.asarray(jax.jit(jax.vmap(one))(rows_of(net, 150)))
    assert abs(values.mean() - 1.63) < 0.4


def test_the_masked_model_predicts_text(net):
    """The NELBO of the test part in bits per character: 2.63 in the card."""
    model, process = net.load("masked"), js.tokens.Masked(net.MASK)
    bound = jax.vmap(lambda key, x: js.tokens.nelbo(key, model, x, process, num=8, block=8).value)
    rows = rows_of(net, 40)
    values = np.asarray(jax.jit(bound)(jax.random.split(jax.random.key(0), 40), rows)) / net.LENGTH / np.log(2)
    assert abs(values.mean() - 2.63) < 0.4


def test_a_mark_is_found_in_real_text(net):
    """100 characters of 1.6 bits: found when 20 % are replaced, and no other key fits."""
    model = net.load("recurrent")
    mark = js.tokens.Exponential(jax.random.key(4), 128, net.VOCABULARY)
    text = js.tokens.generate(
        jax.random.key(5), model, net.empty_carry(), 100, prompt=jnp.asarray(net.encode("The ")), mark=mark
    ).x
    text = text.at[::5].set(net.encode("e")[0])
    assert float(js.tokens.detect(jax.random.key(6), text, mark).p_value) <= 0.02
    other = mark.fresh(jax.random.key(7))
    assert float(js.tokens.detect(jax.random.key(6), text, other).p_value) > 0.02


def test_infilling_keeps_what_stands(net):
    """A hole of ten characters: ten calls, the rest as it was, and no mask left."""
    model, process = net.load("masked"), js.tokens.Masked(net.MASK)
    x = jnp.asarray(net.encode("The value of the __________ is returned."))
    hole = x == net.encode("_")[0]
    x = jnp.where(hole, net.MASK, x)
    result = js.tokens.decode(jax.random.key(0), model, x, js.tokens.first_hitting(jax.random.key(1), process, x))
    assert int(result.info.calls) == 10
    assert bool(result.info.ok)
    assert bool(jnp.all((result.x == x) | hole))
