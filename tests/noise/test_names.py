"""Names of other packages: the refusal tells a call, and the call runs."""

import numpy as np
import pytest

import jsamp as js
from jsamp.noise._names import CALLS as GRIDS
from jsamp.solve._names import CALLS as SOLVERS

PLACES = {
    f"{room}.{name}": call for room, calls in (("solve", SOLVERS), ("noise", GRIDS)) for name, call in calls.items()
}


@pytest.mark.parametrize("place", PLACES)
def test_a_foreign_name_tells_its_call(place):
    room, name = place.split(".")
    with pytest.raises(AttributeError, match="it is js") as refused:
        getattr(getattr(js, room), name)
    assert f"js.{PLACES[place]} here" in str(refused.value)
    if name == "dpm_adaptive":
        return
    schedule, steps = js.noise.VE(0.002, 700.0) if name == "ays_svd" else js.noise.Discrete.scaled_linear(1000), 6
    made = eval(
        f"js.{PLACES[place]}",
        {"js": js, "schedule": schedule, "steps": steps, "grid": js.noise.karras_grid(schedule, steps)},
    )
    assert made.nfe >= steps if room == "solve" else np.all(np.diff(made) < 0)


def test_other_names_are_refused_as_ever():
    assert not hasattr(js.solve, "nothing") and not hasattr(js.noise, "nothing")
    with pytest.raises(AttributeError, match=r"module 'jsamp.solve' has no attribute 'nothing'$"):
        js.solve.nothing  # noqa: B018
