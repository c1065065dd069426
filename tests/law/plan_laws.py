"""Laws of what makes, cuts, joins and keeps plans."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_same_bits
from solver_cases import MODELS, SCHEDULES, START, VP, columns, grid_of, plans

import jsamp as js

S = js.solve


def law_builder(name):
    """A builder refuses what is wrong at the door, whatever its options."""
    make = getattr(S, name)
    grid = grid_of(VP, 6)
    plan = make(VP, grid)
    assert isinstance(plan, S.Plan)
    bad = {
        "repeat": (np.array([1.0, 0.5, 0.5, 0.1]), ValueError, "decrease"),
        "rising": (grid[::-1], ValueError, "decrease"),
        "nan": (np.array([1.0, np.nan, 0.1]), ValueError, "decrease"),
        "short": (grid[:1], ValueError, "n \\+ 1"),
        "matrix": (grid[None], ValueError, "vector"),
    }
    for case, (wrong, error, match) in bad.items():
        with pytest.raises(error, match=match) as caught:
            make(VP, wrong)
        assert name in str(caught.value), (name, case, str(caught.value))
    with pytest.raises(ValueError, match=f"{name}.*outside the schedule"):
        make(SCHEDULES["Cosine"], np.array([1.2, 0.9, 0.7, 0.5, 0.3]))
    with pytest.raises(TypeError, match=name):
        make("vp", grid)
    for option, value in BAD_OPTIONS.items():
        if option in inspect.signature(make).parameters:
            with pytest.raises(ValueError, match=option):
                make(VP if name != "edm" else SCHEDULES["VE"], grid, **{option: value})


BAD_OPTIONS = {
    "order": 0, "variant": "best", "variable": "x", "tableau": "5rk", "packing": "tight", "spacing": "odd",
    "predicts": "y", "eta": -1.0, "tau": -1.0, "beta": 0.0, "churn": -1.0, "corrector": 1,
    "lower_order_final": "yes", "gamma": np.nan, "variance": 2.0,
}  # fmt: skip


def law_record(name):
    thing = getattr(S, name)
    assert issubclass(thing, tuple)
    assert thing._fields
    leaf = thing(*range(len(thing._fields)))
    assert jax.tree.unflatten(jax.tree.structure(leaf), jax.tree.leaves(leaf)) == leaf


def law_plan(name):
    plan = plans()["unipc(3)"]
    assert (plan.nfe, plan.slots, plan.stochastic) == (5, 3, False)
    assert S.Plan.__doc__ is not None
    with pytest.raises(TypeError, match="floating point"):
        plan.astype(int)
    _hand_made_plans_are_refused()
    low = plan.astype(jnp.float32)
    assert low.weights.dtype == np.float32
    assert low.slot.dtype == np.int32
    for wrong in (2, slice(0, 4, 2)):
        with pytest.raises(TypeError, match=r"slice of step 1"):
            plan[wrong]
    with pytest.raises(ValueError, match="empty"):
        plan[3:3]
    with pytest.raises(TypeError, match="stack"):
        S.stack([plan, plan])[1:]
    with pytest.raises(ValueError, match="stages of one step"):
        plans()["heun"][1:]


def _hand_made_plans_are_refused():
    """A table that the runner would misread: one slot for a two-step method, too narrow, out of range, unknown kind."""
    grid = grid_of(VP, 4)
    whole = {k: v for k, v in vars(S.plms(VP, grid, order=2)).items() if v is not None}
    assert S.Plan(**whole).slots == 2
    nan = np.array([1.0, np.nan, 1.0, 1.0])
    for change, error, match in [
        ({"weights": whole["weights"][:, :2], "slot": np.zeros(4, int)}, ValueError, r"weights\[1, 1\] reads slot 0"),
        ({"weights": whole["weights"][:3]}, ValueError, r"weights must have shape \(4, 3\)"),
        ({"slot": np.array([0, 1, 2, 0])}, ValueError, r"slot must lie in 0\.\.1"),
        ({"slot": None}, ValueError, "slot .* must say where each row writes"),
        ({"kind": "noise"}, ValueError, "kind must be one of"),
        ({"kind": "mixed"}, ValueError, "needs the column mix"),
        ({"noise_std": 1.0}, ValueError, r"noise_std must have shape \(4,\)"),
        ({"state_coef": nan}, ValueError, "state_coef must be finite"),
        ({"take": np.array([1, 3, 1, 1])}, ValueError, "take must hold"),
        ({"alpha": np.array(["a"] * 4)}, TypeError, "alpha must"),
    ]:
        with pytest.raises(error, match=match):
            S.Plan(**{**whole, **change})


def law_slices(name):
    """plan[:j] is the start of the plan, and two halves without history make the whole."""
    plan = plans(8)["deis(4)"]
    assert_same_bits(plan[:5], jax.tree.map(lambda a: a[:5], plan))
    single = plans(8)["ddim"]
    both = S.concat(single[:3], single[3:])
    assert_same_bits(both, single)
    stages = plans(8)["heun"]
    assert_same_bits(S.concat(stages[:4], stages[4:]), stages)
    with pytest.raises(ValueError, match="lands at"):
        S.concat(single[:3], single[4:])
    with pytest.raises(TypeError, match="concat: plan must be a Plan"):
        S.concat(single, 3)
    with pytest.raises(ValueError, match="at least one plan"):
        S.concat()
    mixed = S.concat(plans(8)["unipc(3)"][:4], plans(8)["deis(4)"][4:])
    assert mixed.kind == "mixed"
    state = S.init(mixed, START)
    halves = js.sample(
        None, MODELS[0], js.sample(None, MODELS[0], START, plans(8)["unipc(3)"][:4]).x, plans(8)["deis(4)"][4:]
    ).x
    np.testing.assert_allclose(js.sample(None, MODELS[0], START, mixed).x, halves, rtol=2e-5, atol=1e-6)
    assert state.x.shape == START.shape


def law_stack(name):
    with pytest.raises(ValueError, match="same number of rows"):
        S.stack([plans(5)["ddim"], plans(6)["ddim"]])
    with pytest.raises(ValueError, match="at least one plan"):
        S.stack([])
    with pytest.raises(ValueError, match="stack of plans"):
        js.sample(None, MODELS[0], START, S.stack([plans()["ddim"]] * 2))
    one = S.stack([plans()["lms(4)"]])
    assert_same_bits(jax.tree.map(lambda a: a[0], one), plans()["lms(4)"])


def law_momentum(name):
    combine = getattr(S, name)
    base = plans()["plms"]
    # beta = 1 is the plan itself.
    same = js.sample(None, MODELS[0], START, combine(base, 1.0)).x
    np.testing.assert_allclose(same, js.sample(None, MODELS[0], START, base).x, rtol=1e-5, atol=1e-6)
    for wrong in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match="beta"):
            combine(base, wrong)
    for stages in ("heun", "unipc(3)", "ghvb"):
        with pytest.raises(ValueError, match="one row per step"):
            combine(plans()[stages], 0.8)
    with pytest.raises(TypeError, match="Plan"):
        combine(3, 0.8)


def law_restart(name):
    grid = grid_of(VP, 8)
    main, inner = S.ddim(VP, grid), S.ddim(VP, grid[2:5])
    plan = S.restart(main, inner, repeats=3)
    assert plan.nfe == 8 + 3 * 2
    assert plan.stochastic
    with pytest.raises(ValueError, match="repeats"):
        S.restart(main, inner, repeats=0)
    with pytest.raises(ValueError, match="lands"):
        S.restart(main, S.ddim(VP, grid[2:5] * 1.01))
    with pytest.raises(ValueError, match=r"zero noise|rows to go"):
        S.restart(S.ddim(VP, grid_of(VP, 8, "zero")), S.ddim(VP, grid_of(VP, 8, "zero")[5:]))


def law_langevin(name):
    """Three rows a step: two that stay where they are, then the step of the plan; nothing in it needs a host."""
    base = plans()["ddpm"]
    plan = S.predictor_corrector(base, snr=0.2, steps=2)
    assert plan.nfe == 3 * base.nfe
    assert_same_bits(plan.noise_std[2::3], base.noise_std)
    assert plan.relative.tolist() == plan.nfe // 3 * [True, True, False]
    np.testing.assert_allclose(plan.noise_std[::3], 0.4 * base.sigma)
    traced = jax.jit(lambda snr: S.predictor_corrector(base, snr=snr, steps=2))(0.2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), traced, plan)
    for wrong, match in ((0.0, "snr"), (np.nan, "snr")):
        with pytest.raises(ValueError, match=match):
            S.predictor_corrector(base, snr=wrong)
    with pytest.raises(ValueError, match="steps must be >= 1"):
        S.predictor_corrector(base, steps=0)
    for stages, match in (("heun", "stages"), ("ghvb", "momentum"), ("edm(churn)", "stages"), (None, "Langevin rows")):
        with pytest.raises(ValueError, match=f"one row per step; this one has .*{match}"):
            S.predictor_corrector(plan if stages is None else plans()[stages])
    with pytest.raises(TypeError, match="Plan"):
        S.predictor_corrector(3)


def _full_disk(file, **arrays):
    file.write(b"half")
    raise OSError("no space left on device")


def law_files(name, tmp_path):
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
    with pytest.raises(TypeError, match="Plan"):
        S.save(tmp_path / "x.npz", {"a": 1})
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


def law_describe(name):
    for label, plan in plans().items():
        text = S.describe(plan)
        lines = text.splitlines()
        explained = [line.split(":")[0] for line in lines[plan.nfe + 2 :]]
        assert explained[:2] == ["state_coef", "weights"], label
        assert set(explained) <= set(columns(plan)), label
        assert all(len(line.split(": ")[1]) > 20 for line in lines[plan.nfe + 2 :])
        assert f"{plan.nfe} rows" in lines[0]
        assert ("stochastic" in lines[0]) == plan.stochastic
    with pytest.raises(ValueError, match="stack"):
        S.describe(S.stack([plans()["ddim"]] * 2))
    with pytest.raises(TypeError, match="Plan"):
        S.describe("ddim")
