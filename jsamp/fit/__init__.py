"""Fits: (key, data, ...) -> Result(what was fitted, info); and the one optimisation loop."""

from jsamp.fit._acquire import ei as ei
from jsamp.fit._acquire import log_ei as log_ei
from jsamp.fit._acquire import maximise_acquisition as maximise_acquisition
from jsamp.fit._acquire import qei as qei
from jsamp.fit._bilevel import Bilevel as Bilevel
from jsamp.fit._bilevel import BilevelInfo as BilevelInfo
from jsamp.fit._bilevel import BilevelState as BilevelState
from jsamp.fit._channels import ChannelsInfo as ChannelsInfo
from jsamp.fit._channels import choose_channels as choose_channels
from jsamp.fit._communities import Communities as Communities
from jsamp.fit._communities import CommunitiesInfo as CommunitiesInfo
from jsamp.fit._communities import communities as communities
from jsamp.fit._covariance import Matern as Matern
from jsamp.fit._covariance import NNGPKernel as NNGPKernel
from jsamp.fit._deep_kernel import DeepKernel as DeepKernel
from jsamp.fit._draws import Ensemble as Ensemble
from jsamp.fit._draws import HMCNetwork as HMCNetwork
from jsamp.fit._draws import NetworkPosterior as NetworkPosterior
from jsamp.fit._draws import SGHMCNetwork as SGHMCNetwork
from jsamp.fit._effects import EffectInfo as EffectInfo
from jsamp.fit._effects import EffectMixture as EffectMixture
from jsamp.fit._effects import effect_mixture as effect_mixture
from jsamp.fit._evolve import Search as Search
from jsamp.fit._features import RandomFeatures as RandomFeatures
from jsamp.fit._features import bandlimit_multiplier as bandlimit_multiplier
from jsamp.fit._features import random_features as random_features
from jsamp.fit._features import readout as readout
from jsamp.fit._features import ridgelet as ridgelet
from jsamp.fit._gates import Channels as Channels
from jsamp.fit._gates import ChannelSchedule as ChannelSchedule
from jsamp.fit._gp import GP as GP
from jsamp.fit._gp import GPPosterior as GPPosterior
from jsamp.fit._gp import nngp as nngp
from jsamp.fit._kmeans import KMeansInfo as KMeansInfo
from jsamp.fit._kmeans import kmeans as kmeans
from jsamp.fit._laplace import LaplaceNetwork as LaplaceNetwork
from jsamp.fit._learn import LearnInfo as LearnInfo
from jsamp.fit._learn import learn_plan as learn_plan
from jsamp.fit._likelihood import SurrogateInfo as SurrogateInfo
from jsamp.fit._likelihood import likelihood_surrogate as likelihood_surrogate
from jsamp.fit._minimise import MinimiseInfo as MinimiseInfo
from jsamp.fit._minimise import minimise as minimise
from jsamp.fit._mixture import Mixture as Mixture
from jsamp.fit._mixture import MixtureInfo as MixtureInfo
from jsamp.fit._mixture import mixture as mixture
from jsamp.fit._optimise import OptimiseInfo as OptimiseInfo
from jsamp.fit._optimise import OptimiseState as OptimiseState
from jsamp.fit._optimise import optimise as optimise
from jsamp.fit._ppp import Partition as Partition
from jsamp.fit._ppp import PPPInfo as PPPInfo
from jsamp.fit._ppp import ppp as ppp
from jsamp.fit._protocol import Surrogate as Surrogate
from jsamp.fit._resume import MinimiseState as MinimiseState
from jsamp.fit._scores import PlanScore as PlanScore
from jsamp.fit._scores import sample_score as sample_score
from jsamp.fit._scores import trajectory_score as trajectory_score
from jsamp.fit._search import SearchInfo as SearchInfo
from jsamp.fit._search import search_grid as search_grid
from jsamp.fit._search import search_plan as search_plan
from jsamp.fit._space import Genome as Genome
from jsamp.fit._space import Space as Space
from jsamp.fit._weights_prior import Network as Network

__all__ = [
    "GP", "Bilevel", "BilevelInfo", "BilevelState", "ChannelSchedule", "Channels", "ChannelsInfo", "Communities",
    "CommunitiesInfo", "DeepKernel", "EffectInfo", "EffectMixture", "Ensemble", "GPPosterior", "Genome", "HMCNetwork",
    "KMeansInfo", "LaplaceNetwork", "LearnInfo", "Matern", "MinimiseInfo", "MinimiseState", "Mixture", "MixtureInfo",
    "NNGPKernel", "Network", "NetworkPosterior", "OptimiseInfo", "OptimiseState", "PPPInfo", "Partition", "PlanScore",
    "RandomFeatures", "SGHMCNetwork", "Search", "SearchInfo", "Space", "Surrogate", "SurrogateInfo",
    "bandlimit_multiplier", "choose_channels", "communities", "effect_mixture", "ei", "kmeans", "learn_plan",
    "likelihood_surrogate", "log_ei", "maximise_acquisition", "minimise", "mixture", "nngp", "optimise", "ppp", "qei",
    "random_features", "readout", "ridgelet", "sample_score", "search_grid", "search_plan", "trajectory_score",
]  # fmt: skip
