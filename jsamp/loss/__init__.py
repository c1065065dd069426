"""Losses: trees that draw their random numbers, then give a scalar that a network is trained on."""

from jsamp.loss._adversarial import AdversarialDensity as AdversarialDensity
from jsamp.loss._adversarial import AdversarialDrawn as AdversarialDrawn
from jsamp.loss._adversarial import AdversarialSampling as AdversarialSampling
from jsamp.loss._ambient import Ambient as Ambient
from jsamp.loss._ambient import AmbientDrawn as AmbientDrawn
from jsamp.loss._ambient import AmbientMask as AmbientMask
from jsamp.loss._ambient import AmbientMaskDrawn as AmbientMaskDrawn
from jsamp.loss._autoencode import Contractive as Contractive
from jsamp.loss._autoencode import InstanceNoise as InstanceNoise
from jsamp.loss._autoencode import Noised as Noised
from jsamp.loss._autoencode import Reconstruction as Reconstruction
from jsamp.loss._autoencode import latent_loglik as latent_loglik
from jsamp.loss._box import BoxFlow as BoxFlow
from jsamp.loss._box import BoxGrid as BoxGrid
from jsamp.loss._box import box_flow as box_flow
from jsamp.loss._box import spectral_density as spectral_density
from jsamp.loss._consistency import Consistency as Consistency
from jsamp.loss._consistency import ConsistencyCritic as ConsistencyCritic
from jsamp.loss._consistency import ConsistencyDrawn as ConsistencyDrawn
from jsamp.loss._curriculum import consistency_levels as consistency_levels
from jsamp.loss._curriculum import level_probabilities as level_probabilities
from jsamp.loss._distil import particle_step as particle_step
from jsamp.loss._distil import sds as sds
from jsamp.loss._distil import vsd as vsd
from jsamp.loss._energy import MECO as MECO
from jsamp.loss._energy import NCE as NCE
from jsamp.loss._energy import EnergyDrawn as EnergyDrawn
from jsamp.loss._energy import MECOInfo as MECOInfo
from jsamp.loss._gan import GANCritic as GANCritic
from jsamp.loss._gan import GANDrawn as GANDrawn
from jsamp.loss._gan import GANGenerator as GANGenerator
from jsamp.loss._hypotheses import DBAT as DBAT
from jsamp.loss._hypotheses import DivDis as DivDis
from jsamp.loss._hypotheses import LabelledDrawn as LabelledDrawn
from jsamp.loss._hypotheses import MultiSample as MultiSample
from jsamp.loss._hypotheses import SamplesDrawn as SamplesDrawn
from jsamp.loss._hypotheses import dropout as dropout
from jsamp.loss._interpolate import Interpolate as Interpolate
from jsamp.loss._interpolate import InterpolateDrawn as InterpolateDrawn
from jsamp.loss._jump import TrajectoryConsistency as TrajectoryConsistency
from jsamp.loss._jump import TrajectoryDrawn as TrajectoryDrawn
from jsamp.loss._jump import jump as jump
from jsamp.loss._match import EDMWeight as EDMWeight
from jsamp.loss._match import Match as Match
from jsamp.loss._match import MatchDrawn as MatchDrawn
from jsamp.loss._population import MMDFinetune as MMDFinetune
from jsamp.loss._population import PopulationDrawn as PopulationDrawn
from jsamp.loss._protocol import Loss as Loss
from jsamp.loss._protocol import LossInfo as LossInfo
from jsamp.loss._signal import ForwardModelMatch as ForwardModelMatch
from jsamp.loss._signal import Regeneration as Regeneration
from jsamp.loss._signal import RegenerationDrawn as RegenerationDrawn
from jsamp.loss._signal import Views as Views
from jsamp.loss._signal import ViewsDrawn as ViewsDrawn
from jsamp.loss._teacher import Teacher as Teacher
from jsamp.loss._times import LogNormalTimes as LogNormalTimes
from jsamp.loss._times import UniformTimes as UniformTimes

__all__ = [
    "DBAT", "MECO", "NCE", "AdversarialDensity", "AdversarialDrawn", "AdversarialSampling", "Ambient",
    "AmbientDrawn", "AmbientMask", "AmbientMaskDrawn", "BoxFlow", "BoxGrid", "Consistency", "ConsistencyCritic",
    "ConsistencyDrawn", "Contractive", "DivDis", "EDMWeight", "EnergyDrawn", "ForwardModelMatch", "GANCritic",
    "GANDrawn", "GANGenerator", "InstanceNoise", "Interpolate", "InterpolateDrawn", "LabelledDrawn",
    "LogNormalTimes", "Loss", "LossInfo", "MECOInfo", "MMDFinetune", "Match", "MatchDrawn", "MultiSample", "Noised",
    "PopulationDrawn", "Reconstruction", "Regeneration", "RegenerationDrawn", "SamplesDrawn", "Teacher",
    "TrajectoryConsistency", "TrajectoryDrawn", "UniformTimes", "Views", "ViewsDrawn", "box_flow",
    "consistency_levels", "dropout", "jump", "latent_loglik", "level_probabilities", "particle_step", "sds",
    "spectral_density", "vsd",
]  # fmt: skip
