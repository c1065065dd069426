"""jsamp: have a denoiser, a log-density, a dataset or a token model, and need samples.

Pure functions that draw them, for JAX. Rooms: `noise` (schedules, grids), `denoise` (predictions, guidance), `solve`
(diffusion solvers as tables), `steer` (acting on a running trajectory), `mcmc` (kernels as trees), `select` (scores and
draws), `tokens` (masked diffusion, autoregression, watermarks), `estimate` (diagnostics), `loss` (training objectives),
`fit` (fitting them), `plot` (pictures, with matplotlib).
"""

from jsamp import denoise as denoise
from jsamp import estimate as estimate
from jsamp import fit as fit
from jsamp import loss as loss
from jsamp import mcmc as mcmc
from jsamp import noise as noise
from jsamp import plot as plot
from jsamp import select as select
from jsamp import solve as solve
from jsamp import steer as steer
from jsamp import tokens as tokens
from jsamp._core._pytree import field as field
from jsamp._core._pytree import pytree as pytree
from jsamp._core._pytree import static as static
from jsamp._core._types import Result as Result
from jsamp._many import many as many
from jsamp.denoise import Denoiser as Denoiser
from jsamp.denoise import Prediction as Prediction
from jsamp.estimate import Estimate as Estimate
from jsamp.mcmc import chain as chain
from jsamp.mcmc import chains as chains
from jsamp.mcmc import stream as stream
from jsamp.select import Subset as Subset
from jsamp.solve import Plan as Plan
from jsamp.solve import sample as sample

__version__ = "0.1.0"
__all__ = [
    "Denoiser", "Estimate", "Plan", "Prediction", "Result", "Subset", "chain", "chains", "denoise", "estimate", "field",
    "fit", "loss", "many", "mcmc", "noise", "plot", "pytree", "sample", "select", "solve", "static", "steer", "stream",
    "tokens",
]  # fmt: skip
