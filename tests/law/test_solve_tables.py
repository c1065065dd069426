"""Values of what cuts, joins, bends, keeps and prints plans."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_same_bits
from solver_cases import KEY, MODELS, START, VP, columns, grid_of, plans

import jsamp as js

S = js.solve


def test_a_plan_says_its_size():
    plan = plans()["unipc(3)"]
    assert (plan.nfe, plan.slots, plan.stochastic) == (5, 3, False)
    low = plan.astype(jnp.float32)
    assert low.weights.dtype == np.float32
    assert low.slot.dtype == np.int32


def test_slices_and_joins():
    """plan[:j] is the start of the plan, and two halves without history make the whole."""
    plan = plans(8)["deis(4)"]
    assert_same_bits(plan[:5], jax.tree.map(lambda a: a[:5], plan))
    single = plans(8)["ddim"]
    both = S.concat(single[:3], single[3:])
    assert_same_bits(both, single)
    stages = plans(8)["heun"]
    assert_same_bits(S.concat(stages[:4], stages[4:]), stages)
    mixed = S.concat(plans(8)["unipc(3)"][:4], plans(8)["deis(4)"][4:])
    assert mixed.kind == "mixed"
    state = S.init(mixed, START)
    halves = js.sample(
        None, MODELS[0], js.sample(None, MODELS[0], START, plans(8)["unipc(3)"][:4]).x, plans(8)["deis(4)"][4:]
    ).x
    np.testing.assert_allclose(js.sample(None, MODELS[0], START, mixed).x, halves, rtol=2e-5, atol=1e-6)
    assert state.x.shape == START.shape


def test_a_stack_of_one_holds_the_plan():
    one = S.stack([plans()["lms(4)"]])
    assert_same_bits(jax.tree.map(lambda a: a[0], one), plans()["lms(4)"])


@pytest.mark.parametrize("name", ["heavy_ball", "nesterov"])
def test_momentum_of_full_rate_is_the_plan_itself(name):
    base = plans()["plms"]
    same = js.sample(None, MODELS[0], START, getattr(S, name)(base, 1.0)).x
    np.testing.assert_allclose(same, js.sample(None, MODELS[0], START, base).x, rtol=1e-5, atol=1e-6)


def test_a_restart_repeats_its_inner_plan():
    grid = grid_of(VP, 8)
    plan = S.restart(S.ddim(VP, grid), S.ddim(VP, grid[2:5]), repeats=3)
    assert plan.nfe == 8 + 3 * 2
    assert plan.stochastic


def test_langevin_rows():
    """Three rows a step: two that stay where they are, then the step of the plan; nothing in it needs a host."""
    base = plans()["ddpm"]
    plan = S.predictor_corrector(base, snr=0.2, steps=2)
    assert plan.nfe == 3 * base.nfe
    assert_same_bits(plan.noise_std[2::3], base.noise_std)
    assert plan.relative.tolist() == plan.nfe // 3 * [True, True, False]
    np.testing.assert_allclose(plan.noise_std[::3], 0.4 * base.sigma)
    traced = jax.jit(lambda snr: S.predictor_corrector(base, snr=snr, steps=2))(0.2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), traced, plan)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "deis", "dpmpp"])
def test_any_plan_of_one_row_for_each_step_jumps(name):
    """With jumps it runs, keeps its columns and can be stacked and described."""
    plan = S.jumps(getattr(S, name)(VP, grid_of(VP, 7)), length=2, repeats=3)
    assert plan.nfe == 7 + 2 * 2 * len(range(0, 7 - 2, 2))
    assert plan.stochastic
    assert js.sample(KEY, MODELS[0], START, plan).info.ok
    assert S.stack([plan, plan]).state_coef.shape == (2, plan.nfe)
    assert S.describe(plan).count("stochastic") == 1


def _full_disk(file, **arrays):
    file.write(b"half")
    raise OSError("no space left on device")


def test_files(tmp_path):
    for number, (label, plan) in enumerate(plans().items()):
        S.save(tmp_path / f"{number}.npz", plan)
        again = S.load(tmp_path / f"{number}.npz")
        assert again.kind == plan.kind, label
        assert_same_bits(again, plan)
    S.save(tmp_path / "bare", plans()["ddim"])
    assert_same_bits(S.load(tmp_path / "bare"), plans()["ddim"])
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="does not hold a plan"):
        S.load(tmp_path / "other.npz")
    whole = (tmp_path / "bare").read_bytes()
    # The archive says that its parts are deflated, and no deflated block begins like this.
    packed = re.sub(rb"(PK\x01\x02.{6})\0\0", lambda found: found[1] + b"\x08\0", whole, flags=re.DOTALL)
    packed = packed.replace(b"\x93NUMPY", b"\x97NUMPY")
    for number, content in enumerate((b"", whole[: len(whole) // 2], b"no archive at all", packed)):
        (tmp_path / f"damaged{number}").write_bytes(content)
        with pytest.raises(ValueError, match="does not hold a plan"):
            S.load(tmp_path / f"damaged{number}")
    with pytest.raises(FileNotFoundError):
        S.load(tmp_path / "absent")
    S.save(tmp_path / "a.b", plans()["heun"])
    assert_same_bits(S.load(tmp_path / "a.b"), plans()["heun"])
    # A write that fails leaves the earlier file whole, and no part behind.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "savez", _full_disk)
        with pytest.raises(OSError, match="no space"):
            S.save(tmp_path / "a.b", plans()["ddim"])
    assert_same_bits(S.load(tmp_path / "a.b"), plans()["heun"])
    assert not list(tmp_path.glob(".a.b*"))


def test_a_description_explains_every_column():
    for label, plan in plans().items():
        text = S.describe(plan)
        lines = text.splitlines()
        explained = [line.split(":")[0] for line in lines[plan.nfe + 2 :]]
        assert explained[:2] == ["state_coef", "weights"], label
        assert set(explained) <= set(columns(plan)), label
        assert all(len(line.split(": ")[1]) > 20 for line in lines[plan.nfe + 2 :])
        assert f"{plan.nfe} rows" in lines[0]
        assert ("stochastic" in lines[0]) == plan.stochastic
