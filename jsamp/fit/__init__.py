"""Fits: (key, data, ...) -> Result(what was fitted, info); and the one optimisation loop."""

from jsamp.fit._communities import Communities as Communities
from jsamp.fit._communities import CommunitiesInfo as CommunitiesInfo
from jsamp.fit._communities import communities as communities
from jsamp.fit._effects import EffectInfo as EffectInfo
from jsamp.fit._effects import EffectMixture as EffectMixture
from jsamp.fit._effects import effect_mixture as effect_mixture
from jsamp.fit._evolve import Search as Search
from jsamp.fit._kmeans import KMeansInfo as KMeansInfo
from jsamp.fit._kmeans import kmeans as kmeans
from jsamp.fit._learn import LearnInfo as LearnInfo
from jsamp.fit._learn import learn_plan as learn_plan
from jsamp.fit._likelihood import SurrogateInfo as SurrogateInfo
from jsamp.fit._likelihood import likelihood_surrogate as likelihood_surrogate
from jsamp.fit._minimise import MinimiseInfo as MinimiseInfo
from jsamp.fit._minimise import MinimiseState as MinimiseState
from jsamp.fit._minimise import minimise as minimise
from jsamp.fit._mixture import Mixture as Mixture
from jsamp.fit._mixture import MixtureInfo as MixtureInfo
from jsamp.fit._mixture import mixture as mixture
from jsamp.fit._ppp import Partition as Partition
from jsamp.fit._ppp import PPPInfo as PPPInfo
from jsamp.fit._ppp import ppp as ppp
from jsamp.fit._scores import PlanScore as PlanScore
from jsamp.fit._scores import sample_score as sample_score
from jsamp.fit._scores import trajectory_score as trajectory_score
from jsamp.fit._search import SearchInfo as SearchInfo
from jsamp.fit._search import search_grid as search_grid
from jsamp.fit._search import search_plan as search_plan
from jsamp.fit._space import Genome as Genome
from jsamp.fit._space import Space as Space

__all__ = [
    "Communities", "CommunitiesInfo", "EffectInfo", "EffectMixture", "Genome", "KMeansInfo", "LearnInfo",
    "MinimiseInfo", "MinimiseState", "Mixture", "MixtureInfo", "PPPInfo", "Partition", "PlanScore", "Search",
    "SearchInfo", "Space", "SurrogateInfo", "communities", "effect_mixture", "kmeans", "learn_plan",
    "likelihood_surrogate", "minimise", "mixture", "ppp", "sample_score", "search_grid", "search_plan",
    "trajectory_score",
]  # fmt: skip
