"""jsamp: have a denoiser, a log-density, a dataset or a token model, and need samples.

Pure functions that draw them, for JAX. Rooms: `noise` (schedules, grids), `denoise` (predictions, guidance), `solve`
(diffusion solvers as tables), `steer` (acting on a running trajectory).
"""

from jsamp import denoise as denoise
from jsamp import noise as noise
from jsamp import solve as solve
from jsamp import steer as steer
from jsamp._core._types import Result as Result
from jsamp.denoise import Denoiser as Denoiser
from jsamp.denoise import Prediction as Prediction
from jsamp.solve import Plan as Plan
from jsamp.solve import sample as sample

__version__ = "0.1.0"
__all__ = ["Denoiser", "Plan", "Prediction", "Result", "denoise", "noise", "sample", "solve", "steer"]
