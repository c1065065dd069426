"""Laws of every public object of `jsamp.solve`."""

import inspect
import typing

import pytest
from cases import pairs
from solve_cases import REGISTRY
from solver_cases import SOLVERS

import jsamp as js

S = js.solve


@pytest.mark.parametrize(("law", "case"), pairs(REGISTRY))
def test_laws(law, case):
    law(case)


def test_the_table_names_every_solver():
    builders = {
        name
        for name in S.__all__
        if inspect.isfunction(getattr(S, name))
        if {"schedule", "grid"} <= set(inspect.signature(getattr(S, name)).parameters)
    }
    assert builders <= {name.split("(")[0] for name in SOLVERS}


def test_records_have_typed_fields():
    records = [case.returns for case in REGISTRY.values() if case.mechanism == "record"]
    assert len(records) >= 8
    assert all(set(typing.get_type_hints(record)) == set(record._fields) for record in records)
