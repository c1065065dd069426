"""One case for every public object of `jsamp.solve`: how it is built and called, and what it refuses."""

import inspect
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import Case, wrong
from laws import denoiser
from solver_cases import MODELS, SCHEDULES, START, VP, grid_of

import jsamp as js

S = js.solve
MODEL = MODELS[0]
GRID = grid_of(VP, 6)
DDIM, PLMS = S.ddim(VP, GRID), S.plms(VP, GRID)
HEUN, UNIPC = S.heun(VP, GRID), S.unipc(VP, GRID)
SHORT = S.dpmpp(VP, grid_of(VP, 5))


def drawn(plan, key, x):
    """A sample of the stand-in network by a plan."""
    return js.sample(key, MODEL, x, plan).x


# ---------------------------------------------------------------- builders of plans


def builder(name, **options):
    """A solver, whose plan runs as any other does; each refuses wrong grids, schedules and options by its name."""
    make = getattr(S, name)
    return Case(lambda: make(VP, GRID), (START,), drawn, mechanism="run", refusals=builder_refusals(make), **options)


BAD_OPTIONS = {
    "order": 0, "variant": "best", "variable": "x", "tableau": "5rk", "packing": "tight", "spacing": "odd",
    "predicts": "y", "eta": -1.0, "tau": -1.0, "beta": 0.0, "churn": -1.0, "corrector": 1,
    "lower_order_final": "yes", "gamma": np.nan, "variance": 2.0,
}  # fmt: skip


def builder_refusals(make):
    name, taken = make.__name__, inspect.signature(make).parameters
    schedule = SCHEDULES["VE"] if name == "edm" else VP
    given = [{"schedule": schedule, "grid": GRID, option: bad} for option, bad in BAD_OPTIONS.items()]
    return wrong(
        make,
        ((VP, [1.0, 0.5, 0.5, 0.1]), ValueError, f"{name}.*decrease"),
        ((VP, GRID[::-1]), ValueError, f"{name}.*decrease"),
        ((VP, [1.0, np.nan, 0.1]), ValueError, f"{name}.*decrease"),
        ((VP, GRID[:1]), ValueError, f"{name}.*n \\+ 1"),
        ((VP, GRID[None]), ValueError, f"{name}.*vector"),
        ((SCHEDULES["Cosine"], [1.2, 0.9, 0.7, 0.5, 0.3]), ValueError, f"{name}.*outside the schedule"),
        (("vp", GRID), TypeError, name),
        *((call, ValueError, list(call)[2]) for call in given if set(call) <= set(taken)),
    )


def plan_of(build, *rows, call=drawn, **options):
    """A plan made of plans."""
    return Case(build, (START,), call, mechanism="run", refusals=rows, **options)


def momentum(name):
    make = getattr(S, name)
    plans = (HEUN, UNIPC, S.ghvb(VP, GRID))
    return plan_of(
        lambda: make(PLMS, 0.8),
        *wrong(make, *(((PLMS, beta), ValueError, "beta") for beta in (0.0, 1.5, np.nan))),
        *wrong(make, *(((plan, 0.8), ValueError, "one row per step") for plan in plans), ((3, 0.8), TypeError, "Plan")),
    )


DDPM = S.ddpm(VP, GRID)
CORRECTED = S.predictor_corrector(DDPM, snr=0.2)
CHURNED = S.edm(SCHEDULES["VE"], grid_of(SCHEDULES["VE"], 6), churn=2.0)
LANGEVIN = plan_of(
    lambda: S.predictor_corrector(DDPM, snr=0.2, steps=2),
    *wrong(
        S.predictor_corrector,
        *(({"plan": DDPM, "snr": bad}, ValueError, "snr") for bad in (0.0, np.nan)),
        ({"plan": DDPM, "steps": 0}, ValueError, "steps must be >= 1"),
        ((HEUN,), ValueError, "one row per step; this one has .*stages"),
        ((S.ghvb(VP, GRID),), ValueError, "one row per step; this one has .*momentum"),
        ((CHURNED,), ValueError, "one row per step; this one has .*stages"),
        ((CORRECTED,), ValueError, "one row per step; this one has .*Langevin rows"),
        ((3,), TypeError, "Plan"),
    ),
    stochastic=True,
)
RESTART = plan_of(
    lambda: S.restart(DDIM, S.ddim(VP, GRID[2:5]), repeats=3),
    *wrong(
        S.restart,
        ({"plan": DDIM, "inner": S.ddim(VP, GRID[2:5]), "repeats": 0}, ValueError, "repeats"),
        ((DDIM, S.ddim(VP, GRID[2:5] * 1.01)), ValueError, "lands"),
        ((S.ddim(VP, grid_of(VP, 8, "zero")), S.ddim(VP, grid_of(VP, 8, "zero")[5:])), ValueError, "noise|rows to go"),
    ),
    stochastic=True,
)


# ---------------------------------------------------------------- tables by hand


WHOLE = {k: v for k, v in vars(S.plms(VP, grid_of(VP, 4), order=2)).items() if v is not None}


def changed(*rows):
    """Refusals of a table with some columns changed: the runner would misread it."""
    return wrong(S.Plan, *(({**WHOLE, **change}, error, match) for change, error, match in rows))


PLAN = plan_of(
    lambda: S.Plan(**WHOLE),
    *changed(
        ({"weights": WHOLE["weights"][:, :2], "slot": np.zeros(4, int)}, ValueError, r"weights\[1, 1\] reads slot 0"),
        ({"weights": WHOLE["weights"][:3]}, ValueError, r"weights must have shape \(4, 3\)"),
        ({"slot": np.array([0, 1, 2, 0])}, ValueError, r"slot must lie in 0\.\.1"),
        ({"slot": None}, ValueError, "slot .* must say where each row writes"),
        ({"weights": WHOLE["weights"][:, :1]}, ValueError, "slot must be None where weights .* have no history slots"),
        ({"kind": "noise"}, ValueError, "kind must be one of"),
        ({"kind": "mixed"}, ValueError, "needs the column mix"),
        ({"noise_std": 1.0}, ValueError, r"noise_std must have shape \(4,\)"),
        ({"state_coef": np.array([1.0, np.nan, 1.0, 1.0])}, ValueError, "state_coef must be finite"),
        ({"take": np.array([1, 3, 1, 1])}, ValueError, "take must hold"),
        ({"alpha": np.array(["a"] * 4)}, TypeError, "alpha must"),
    ),
    (lambda: DDIM.astype(int), TypeError, "floating point"),
    (lambda: DDIM[2], TypeError, "slice of step 1"),
    (lambda: DDIM[0:4:2], TypeError, "slice of step 1"),
    (lambda: DDIM[3:3], ValueError, "empty"),
    (lambda: S.stack([DDIM, DDIM])[1:], TypeError, "stack"),
    (lambda: HEUN[1:], ValueError, "stages of one step"),
)

AT, TO = (1.0, 0.5, 0.5), (0.5, 0.7, 0.3)
ROW = S.Row(AT, TO, 1.0, {0: 0.1})
ASSEMBLE = Case(
    lambda: S.assemble,
    (np.float32(0.1),),
    lambda make, key, weight: make([ROW._replace(weights={0: weight})], kind="x0").weights,
    dtypes=None,
    mechanism="assemble",
    refusals=wrong(
        S.assemble,
        *(({"rows": rows, "kind": kind}, error, match) for rows, kind, error, match in [
            ([ROW], "noise", ValueError, "kind must be one of"),
            ([], "x0", ValueError, "at least one row"),
            ([ROW, 3], "x0", TypeError, r"js\.solve\.Row, got int at row 1"),
            ([ROW._replace(weights={1: 0.2})], "x0", ValueError, "weights of row 0 use the prediction of row 1"),
            ([ROW, ROW._replace(corrector_weights={-1: 1.0})], "x0", ValueError, "corrector_weights of row 1"),
            ([ROW._replace(take=0)], "x0", ValueError, "row 0 must start from x"),
            ([ROW._replace(take=7)], "x0", ValueError, "take of row 0"),
            ([ROW._replace(at=(1.0, 0.5))], "x0", ValueError, r"at of row 0 must be \(t, alpha, sigma\)"),
            ([ROW._replace(state_coef=np.nan)], "x0", ValueError, "state_coef must be finite"),
        ]),
    ),
)  # fmt: skip


# ---------------------------------------------------------------- what joins, keeps and prints plans


def kept_in_a_file(plan, key):
    with tempfile.TemporaryDirectory() as folder:
        S.save(pathlib.Path(folder) / "plan", plan)
        return S.load(pathlib.Path(folder) / "plan")


def on_the_host(call, *rows):
    """What takes no tracer: it repeats itself, and refuses."""
    return Case(lambda: UNIPC, call=call, host=True, refusals=rows, dtypes=None)


CONCAT = Case(
    lambda: (DDIM[:3], UNIPC[3:]),
    (START,),
    lambda plans, key, x: drawn(S.concat(*plans), key, x),
    mechanism="concat",
    refusals=wrong(
        S.concat,
        ((DDIM[:3], DDIM[4:]), ValueError, "lands at"),
        ((DDIM, 3), TypeError, "concat: plan must be a Plan"),
        ((), ValueError, "at least one plan"),
    ),
)
STACK = Case(
    lambda: (DDIM, PLMS),
    (START,),
    lambda plans, key, x: jax.vmap(drawn, (0, None, None))(S.stack(plans), key, x),
    mechanism="stack",
    refusals=wrong(
        S.stack,
        (([DDIM, SHORT],), ValueError, "same number of rows"),
        (([],), ValueError, "at least one plan"),
    ),
)
DESCRIBE = on_the_host(
    lambda plan, key: np.frombuffer(S.describe(plan).encode(), np.uint8),
    *wrong(S.describe, ((S.stack([DDIM] * 2),), ValueError, "stack"), (("ddim",), TypeError, "Plan")),
)


# ---------------------------------------------------------------- runs


def run(call, *rows, **options):
    """A run by a plan that is made outside of it."""
    return Case(lambda: DDIM, (START,), call, mechanism="run", refusals=rows, **options)


def one_step(plan, key, x):
    """Init, the first step and output, by hand."""
    return S.output(S.step(key, MODEL, S.init(plan, x), jax.tree.map(lambda column: column[0], plan)))


RUN = run(
    drawn,
    *wrong(
        js.sample,
        ((None, MODEL, START, "ddim"), TypeError, "Plan"),
        ((None, "net", START, DDIM), TypeError, "callable"),
        ((None, MODEL, np.arange(3), DDIM), TypeError, "floating"),
        ((None, MODEL, {}, DDIM), ValueError, "empty"),
        ((None, MODEL, START, S.stack([DDIM] * 2)), ValueError, "stack of plans"),
        ((None, MODEL, START, S.ddpm(VP, GRID)), ValueError, r"key is None.*jax\.random\.key"),
    ),
    smooth=True,
)
KERNEL = Case(
    lambda: S.kernel(MODEL, DDIM),
    (START,),
    lambda kernel, key, x: kernel.step(key, kernel.init(x))[0].position,
    mechanism="kernel",
    dtypes="raised",
    refusals=wrong(
        S.kernel,
        ((3, DDIM), TypeError, "callable"),
        ((MODEL, 3), TypeError, "kernel: plan must be a Plan"),
    ),
)


def configured(*rows):
    """A plan and a denoiser, as a configuration has them."""
    found = S.from_diffusers({"_class_name": "DPMSolverMultistepScheduler"}, 4)
    return Case(
        lambda: (found.denoiser(zeros), found.plan),
        (START,),
        lambda pair, key, x: js.sample(key, pair[0], x, pair[1]).x,
        mechanism="configuration",
        refusals=rows,
    )


def zeros(x, t):
    """A network."""
    return jnp.zeros_like(x)


PATH = js.noise.Interpolant("linear")
LAW = js.denoise.GaussianMixture(VP, weights=[1.0], means=[[0.3, 0.2, 0.1]], stds=[0.7])
BRIDGE = js.denoise.BridgeMixture(PATH, LAW, LAW)


def along(name, **options):
    """A plan along an interpolant."""
    make = getattr(S, name)
    return plan_of(
        lambda: make(PATH, np.linspace(0.1, 1, 5)),
        *wrong(make, ((VP, np.linspace(0, 1, 3)), TypeError, "interpolant must have")),
        call=lambda plan, key, x: js.sample(key, BRIDGE, x, plan).x,
        **options,
    )


# ---------------------------------------------------------------- runs that bring their own start or end


OUVE = js.noise.OUVE()
BACK = S.dpmpp(OUVE, js.noise.time_grid(OUVE, 5))


def of_model(call, schedule=VP, **options):
    """A run whose numbers are those of its network."""
    return Case(lambda: denoiser(schedule, "x0"), (START,), call, **options)


def squares(x0):
    """A loss of samples."""
    return jnp.sum((x0 - 0.5) ** 2)


def shifted(model, reference, x, t):
    """A network that knows a reference."""
    return model(x - reference, t) + reference


def searched(model, key, x):
    """The best of four starts, for two references."""
    condition = lambda r: js.Denoiser(jax.tree_util.Partial(shifted, model.model, r), VP, predicts="x0")
    pair = jnp.stack([x, -x])
    return S.optimal_start(key, condition, pair, pair, SHORT, num=4).x


def optimised(model, key, x):
    """A start, improved four times."""
    return S.optimise_start(model, x, SHORT, squares, optax.adam(0.05), steps=4).x


def record(name):
    """A record, built by its fields, keeps its type."""
    make = getattr(S, name)
    return Case(lambda: make, len(make._fields) * (START,), returns=make, mechanism="record")


BUILDERS = [
    "ddim", "deis", "dpm2", "dpm_single", "dpm_solver", "dpmpp", "dpmpp_single", "edm", "ghvb", "gradient_estimation",
    "heun", "ipndm", "lms", "plms", "pndm", "res_multistep", "rho_rk", "unipc", "velocity_multistep",
]  # fmt: skip
STOCHASTIC = [
    "consistency", "ddpm", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "er_sde", "sa_solver", "seeds", "tcd",
]  # fmt: skip

# One line for every public object of the room.
REGISTRY = {
    "sample": RUN,
    **{name: builder(name) for name in BUILDERS},
    **{name: builder(name, stochastic=True) for name in STOCHASTIC},
    "AdaptiveInfo": record("AdaptiveInfo"),
    "KernelInfo": record("KernelInfo"),
    "KernelState": record("KernelState"),
    "OptimisedStart": record("OptimisedStart"),
    "Plan": PLAN,
    "PlanKernel": KERNEL,
    "Pretrained": configured(),
    "Row": record("Row"),
    "SampleInfo": record("SampleInfo"),
    "SolveState": record("SolveState"),
    "StartSearch": record("StartSearch"),
    "StepInfo": record("StepInfo"),
    "adaptive": of_model(lambda model, key, x: S.adaptive(key, model, x, VP, rtol=0.05).x),
    "assemble": ASSEMBLE,
    "bits_per_dimension": Case(
        lambda: S.bits_per_dimension,
        (np.float32(-2.0),),
        lambda bits, key, value: bits(value, 4, bin_width=0.5),
        refusals=wrong(S.bits_per_dimension, (("no", 4), TypeError, "a log-density or an Estimate, must be a number")),
    ),
    "concat": CONCAT,
    "ddgan": plan_of(
        lambda: S.ddgan(VP, 4),
        *wrong(
            S.ddgan,
            ((VP, 0), ValueError, "num must be >= 1"),
            ({"schedule": VP, "num": 2, "t_min": 2.0}, ValueError, "t_min is 2, outside the schedule"),
        ),
        stochastic=True,
    ),
    "describe": DESCRIBE,
    "from_diffusers": configured(*wrong(S.from_diffusers, (({}, 4), ValueError, "unknown _class_name"))),
    "heavy_ball": momentum("heavy_ball"),
    "init": run(lambda plan, key, x: S.init(plan, x).x, dtypes="raised"),
    "interpolant_ode": along("interpolant_ode"),
    "interpolant_sde": along("interpolant_sde", stochastic=True),
    "invert": on_the_host(
        lambda plan, key: S.invert(plan),
        *wrong(S.invert, (("ddim",), TypeError, "Plan"), ((S.ddpm(VP, GRID),), ValueError, "noise")),
    ),
    "jumps": plan_of(
        lambda: S.jumps(PLMS, length=2, repeats=3),
        *wrong(
            S.jumps,
            ((HEUN,), ValueError, "one row per step"),
            ({"plan": PLMS, "length": 0}, ValueError, "length"),
            ({"plan": PLMS, "repeats": 0}, ValueError, "repeats"),
        ),
        stochastic=True,
    ),
    "kernel": KERNEL,
    "likelihood": of_model(lambda model, key, x: S.likelihood(key, model, x, SHORT, probes=3).value, dtypes="raised"),
    "load": on_the_host(kept_in_a_file, (lambda: S.load(__file__), ValueError, "does not hold a plan")),
    "nesterov": momentum("nesterov"),
    "optimal_start": of_model(searched, stochastic=True),
    "optimise_start": of_model(optimised),
    "output": run(one_step, dtypes="raised"),
    "predictor_corrector": LANGEVIN,
    "regenerate": of_model(
        lambda model, key, x: S.regenerate(key, model, x, BACK).x, schedule=OUVE, stochastic=True, smooth=True
    ),
    "restart": RESTART,
    "save": on_the_host(kept_in_a_file, *wrong(S.save, (("x.npz", {"a": 1}), TypeError, "Plan"))),
    "sdedit": of_model(
        lambda model, key, x: S.sdedit(key, model, x, SHORT, strength=0.6).x, stochastic=True, smooth=True
    ),
    "stack": STACK,
    "step": run(one_step, dtypes="raised"),
}
