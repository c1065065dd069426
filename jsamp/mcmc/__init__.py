"""Langevin and MCMC kernels as trees, and the drivers that run them.

A kernel has `init(x, key=None) -> state` and `step(key, state) -> (state, info)`; its numbers and the data inside its
log-density are leaves, so tuning, annealing, tempering and composing never recompile. `chain` scans one, `chains` runs
several, `stream` runs one from the host in chunks, `tune` adapts one, and the combinators make kernels of kernels.
"""

from jsamp.mcmc._annealed import Corrector as Corrector
from jsamp.mcmc._annealed import NoisedScore as NoisedScore
from jsamp.mcmc._annealed import annealed as annealed
from jsamp.mcmc._chains import ChainsInfo as ChainsInfo
from jsamp.mcmc._chains import chains as chains
from jsamp.mcmc._combine import compose as compose
from jsamp.mcmc._combine import cycle as cycle
from jsamp.mcmc._combine import ensemble as ensemble
from jsamp.mcmc._combine import mixture as mixture
from jsamp.mcmc._combine import repeat as repeat
from jsamp.mcmc._denoising import DenoisingLangevinGibbs as DenoisingLangevinGibbs
from jsamp.mcmc._denoising import Noised as Noised
from jsamp.mcmc._denoising import picked as picked
from jsamp.mcmc._discrete import DiscreteLangevin as DiscreteLangevin
from jsamp.mcmc._drive import ChainInfo as ChainInfo
from jsamp.mcmc._drive import ChainState as ChainState
from jsamp.mcmc._drive import chain as chain
from jsamp.mcmc._gibbs import Gibbs as Gibbs
from jsamp.mcmc._gibbs import on as on
from jsamp.mcmc._graph import WalkGraph as WalkGraph
from jsamp.mcmc._graph import walk_graph as walk_graph
from jsamp.mcmc._graph import walk_variance as walk_variance
from jsamp.mcmc._hamiltonian import HMC as HMC
from jsamp.mcmc._hamiltonian import HMCInfo as HMCInfo
from jsamp.mcmc._interop import NumpyroModel as NumpyroModel
from jsamp.mcmc._interop import from_numpyro as from_numpyro
from jsamp.mcmc._interop import to_arviz as to_arviz
from jsamp.mcmc._langevin import MALA as MALA
from jsamp.mcmc._langevin import ULA as ULA
from jsamp.mcmc._langevin import Barker as Barker
from jsamp.mcmc._mams import MAMS as MAMS
from jsamp.mcmc._metric import DenseMetric as DenseMetric
from jsamp.mcmc._metropolize import AutoencoderMH as AutoencoderMH
from jsamp.mcmc._metropolize import ReconstructionScore as ReconstructionScore
from jsamp.mcmc._metropolize import metropolize as metropolize
from jsamp.mcmc._microcanonical import MCLMC as MCLMC
from jsamp.mcmc._minibatch import SGHMC as SGHMC
from jsamp.mcmc._minibatch import SGLD as SGLD
from jsamp.mcmc._minibatch import SGNHT as SGNHT
from jsamp.mcmc._minibatch import MinibatchScore as MinibatchScore
from jsamp.mcmc._minibatch import pSGLD as pSGLD
from jsamp.mcmc._nested import NestedInfo as NestedInfo
from jsamp.mcmc._nested import NestedState as NestedState
from jsamp.mcmc._nested import nested as nested
from jsamp.mcmc._nuts import NUTS as NUTS
from jsamp.mcmc._pathfinder import PathfinderInfo as PathfinderInfo
from jsamp.mcmc._pathfinder import pathfinder as pathfinder
from jsamp.mcmc._population import EvidenceInfo as EvidenceInfo
from jsamp.mcmc._population import ais as ais
from jsamp.mcmc._population import smc as smc
from jsamp.mcmc._protocol import Info as Info
from jsamp.mcmc._protocol import Kernel as Kernel
from jsamp.mcmc._protocol import State as State
from jsamp.mcmc._protocol import refresh as refresh
from jsamp.mcmc._reduce import Moments as Moments
from jsamp.mcmc._reduce import MomentsValue as MomentsValue
from jsamp.mcmc._reduce import OnlineRhat as OnlineRhat
from jsamp.mcmc._repellent import HistoryDrivenWalk as HistoryDrivenWalk
from jsamp.mcmc._repellent import SelfRepellentWalk as SelfRepellentWalk
from jsamp.mcmc._repellent import Token as Token
from jsamp.mcmc._repellent import TokenSGD as TokenSGD
from jsamp.mcmc._stream import load as load
from jsamp.mcmc._stream import save as save
from jsamp.mcmc._stream import stream as stream
from jsamp.mcmc._stretch import Stretch as Stretch
from jsamp.mcmc._svgd import SVGD as SVGD
from jsamp.mcmc._temper import ParallelTempering as ParallelTempering
from jsamp.mcmc._temper import SwapInfo as SwapInfo
from jsamp.mcmc._temper import tempered as tempered
from jsamp.mcmc._tune import tune as tune
from jsamp.mcmc._underdamped import BAOAB as BAOAB
from jsamp.mcmc._underdamped import GHMC as GHMC
from jsamp.mcmc._underdamped import OBABO as OBABO
from jsamp.mcmc._walk import EllipticalSlice as EllipticalSlice
from jsamp.mcmc._walk import IndependentMH as IndependentMH
from jsamp.mcmc._walk import RandomWalk as RandomWalk
from jsamp.mcmc._walk import Slice as Slice
from jsamp.mcmc._walk import SliceInfo as SliceInfo

__all__ = [
    "BAOAB", "GHMC", "HMC", "MALA", "MAMS", "MCLMC", "NUTS", "OBABO", "SGHMC", "SGLD", "SGNHT", "SVGD", "ULA",
    "AutoencoderMH", "Barker", "ChainInfo", "ChainState", "ChainsInfo", "Corrector", "DenoisingLangevinGibbs",
    "DenseMetric", "DiscreteLangevin", "EllipticalSlice", "EvidenceInfo", "Gibbs", "HMCInfo", "HistoryDrivenWalk",
    "IndependentMH", "Info", "Kernel", "MinibatchScore", "Moments", "MomentsValue", "NestedInfo", "NestedState",
    "Noised", "NoisedScore", "NumpyroModel", "OnlineRhat", "ParallelTempering", "PathfinderInfo", "RandomWalk",
    "ReconstructionScore", "SelfRepellentWalk", "Slice", "SliceInfo", "State", "Stretch", "SwapInfo", "Token",
    "TokenSGD", "WalkGraph", "ais", "annealed", "chain", "chains", "compose", "cycle", "ensemble", "from_numpyro",
    "load", "metropolize", "mixture", "nested", "on", "pSGLD", "pathfinder", "picked", "refresh", "repeat", "save",
    "smc", "stream", "tempered", "to_arviz", "tune", "walk_graph", "walk_variance",
]  # fmt: skip
