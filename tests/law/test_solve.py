"""Laws of every public object of `jsamp.solve`, one line each."""

import inspect
import typing

import pytest
from plan_laws import (
    law_builder,
    law_describe,
    law_files,
    law_langevin,
    law_momentum,
    law_plan,
    law_record,
    law_restart,
    law_slices,
    law_stack,
)
from run_laws import (
    law_bits,
    law_configuration,
    law_continuous,
    law_ddgan,
    law_interpolant,
    law_inversion,
    law_kernel,
    law_rows,
    law_sample,
    law_steps,
)
from solver_cases import SOLVERS
from start_laws import law_jumps, law_start, law_start_records

import jsamp as js

S = js.solve


LAWS = {
    "continuous": law_continuous, "inversion": law_inversion, "bits": law_bits, "ddgan": law_ddgan, "interpolant": law_interpolant,
    "records": law_record, "plan": law_plan, "slices": law_slices, "stack": law_stack, "momentum": law_momentum,
    "restart": law_restart, "langevin": law_langevin, "files": law_files, "describe": law_describe, "steps": law_steps, "kernel": law_kernel,
    "sample": law_sample, "rows": law_rows, "builder": law_builder, "start": law_start, "jumps": law_jumps,
    "start_records": law_start_records, "configuration": law_configuration,
}  # fmt: skip


# One line for every public object of the room.
REGISTRY = {
    "AdaptiveInfo": "records",
    "KernelInfo": "records",
    "KernelState": "records",
    "OptimisedStart": "start_records",
    "Plan": "plan",
    "PlanKernel": "kernel",
    "Pretrained": "configuration",
    "Row": "rows",
    "from_diffusers": "configuration",
    "SampleInfo": "records",
    "SolveState": "records",
    "StartSearch": "start_records",
    "StepInfo": "records",
    "adaptive": "continuous",
    "assemble": "rows",
    "bits_per_dimension": "bits",
    "concat": "slices",
    "consistency": "builder",
    "gradient_estimation": "builder",
    "tcd": "builder",
    "ddim": "builder",
    "ddpm": "builder",
    "ddgan": "ddgan",
    "deis": "builder",
    "dpm2_ancestral": "builder",
    "dpmpp_2s_ancestral": "builder",
    "dpmpp_sde": "builder",
    "res_multistep": "builder",
    "seeds": "builder",
    "velocity_multistep": "builder",
    "describe": "describe",
    "dpm2": "builder",
    "dpm_single": "builder",
    "dpm_solver": "builder",
    "dpmpp": "builder",
    "dpmpp_single": "builder",
    "edm": "builder",
    "er_sde": "builder",
    "ghvb": "builder",
    "heavy_ball": "momentum",
    "heun": "builder",
    "init": "steps",
    "ipndm": "builder",
    "jumps": "jumps",
    "interpolant_ode": "interpolant",
    "interpolant_sde": "interpolant",
    "invert": "inversion",
    "kernel": "kernel",
    "likelihood": "continuous",
    "lms": "builder",
    "load": "files",
    "nesterov": "momentum",
    "optimal_start": "start",
    "optimise_start": "start",
    "output": "steps",
    "plms": "builder",
    "pndm": "builder",
    "regenerate": "start",
    "predictor_corrector": "langevin",
    "restart": "restart",
    "rho_rk": "builder",
    "sa_solver": "builder",
    "sample": "sample",
    "save": "files",
    "sdedit": "start",
    "stack": "stack",
    "step": "steps",
    "unipc": "builder",
}


@pytest.mark.parametrize(("name", "law"), REGISTRY.items(), ids=REGISTRY)
def test_law_of(name, law, tmp_path):
    function = LAWS[law]
    function(name, tmp_path) if "tmp_path" in inspect.signature(function).parameters else function(name)


def test_records_are_named_tuples():
    for name, kind in REGISTRY.items():
        if kind == "records":
            assert typing.get_type_hints(getattr(S, name))


def test_the_table_names_every_solver():
    builders = {
        name for name in S.__all__ if inspect.isfunction(getattr(S, name))
        if {"schedule", "grid"} <= set(inspect.signature(getattr(S, name)).parameters)
    }  # fmt: skip
    assert builders <= {name.split("(")[0] for name in SOLVERS}
    assert builders <= set(REGISTRY)
