"""Langevin and MCMC kernels as trees, and the drivers that run them.

A kernel has `init(x, key=None) -> state` and `step(key, state) -> (state, info)`; its numbers and the data inside its
log-density are leaves, so tuning, annealing, tempering and composing never recompile. `chain` scans one, `stream` runs
one from the host in chunks, `tune` adapts one, and the combinators make kernels of kernels.
"""

from jsamp.mcmc._annealed import Corrector, NoisedScore, annealed
from jsamp.mcmc._combine import (
    Compose,
    Ensemble,
    Repeat,
    Select,
    compose,
    cycle,
    ensemble,
    mixture,
    repeat,
)
from jsamp.mcmc._denoising import DenoisingLangevinGibbs, Noised, picked
from jsamp.mcmc._drive import ChainInfo, ChainState, chain
from jsamp.mcmc._gibbs import Conditional, Gibbs, On, on
from jsamp.mcmc._hamiltonian import HMC, HMCInfo
from jsamp.mcmc._interop import NumpyroModel, from_numpyro, to_arviz
from jsamp.mcmc._kernel import Info, Kernel, State, refresh
from jsamp.mcmc._langevin import MALA, ULA, Barker
from jsamp.mcmc._metric import DenseMetric
from jsamp.mcmc._metropolize import AutoencoderMH, Metropolized, ReconstructionScore, metropolize
from jsamp.mcmc._microcanonical import MCLMC
from jsamp.mcmc._minibatch import SGHMC, SGLD, MinibatchScore, pSGLD
from jsamp.mcmc._nuts import NUTS
from jsamp.mcmc._population import EvidenceInfo, ais, smc
from jsamp.mcmc._reduce import Moments, MomentsValue, OnlineRhat
from jsamp.mcmc._repellent import (
    HistoryDrivenWalk,
    SelfRepellentWalk,
    Token,
    TokenSGD,
    WalkGraph,
    walk_graph,
    walk_variance,
)
from jsamp.mcmc._stream import load, save, stream
from jsamp.mcmc._temper import ParallelTempering, SwapInfo, Tempered, tempered
from jsamp.mcmc._tune import tune
from jsamp.mcmc._underdamped import BAOAB, GHMC, OBABO
from jsamp.mcmc._walk import EllipticalSlice, IndependentMH, RandomWalk, Slice, SliceInfo

__all__ = [
    "BAOAB",
    "GHMC",
    "HMC",
    "MALA",
    "MCLMC",
    "NUTS",
    "OBABO",
    "SGHMC",
    "SGLD",
    "ULA",
    "AutoencoderMH",
    "Barker",
    "ChainInfo",
    "ChainState",
    "Compose",
    "Conditional",
    "Corrector",
    "DenoisingLangevinGibbs",
    "DenseMetric",
    "EllipticalSlice",
    "Ensemble",
    "EvidenceInfo",
    "Gibbs",
    "HMCInfo",
    "HistoryDrivenWalk",
    "IndependentMH",
    "Info",
    "Kernel",
    "Metropolized",
    "MinibatchScore",
    "Moments",
    "MomentsValue",
    "Noised",
    "NoisedScore",
    "NumpyroModel",
    "On",
    "OnlineRhat",
    "ParallelTempering",
    "RandomWalk",
    "ReconstructionScore",
    "Repeat",
    "Select",
    "SelfRepellentWalk",
    "Slice",
    "SliceInfo",
    "State",
    "SwapInfo",
    "Tempered",
    "Token",
    "TokenSGD",
    "WalkGraph",
    "ais",
    "annealed",
    "chain",
    "compose",
    "cycle",
    "ensemble",
    "from_numpyro",
    "load",
    "metropolize",
    "mixture",
    "on",
    "pSGLD",
    "picked",
    "refresh",
    "repeat",
    "save",
    "smc",
    "stream",
    "tempered",
    "to_arviz",
    "tune",
    "walk_graph",
    "walk_variance",
]
