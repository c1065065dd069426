"""Token models to texts: exact decoding of masked diffusion, autoregression, watermarks."""

from jsamp.tokens._ancestral import Cap as Cap
from jsamp.tokens._ancestral import Confident as Confident
from jsamp.tokens._ancestral import Loop as Loop
from jsamp.tokens._ancestral import Rescale as Rescale
from jsamp.tokens._ancestral import ancestral as ancestral
from jsamp.tokens._ancestral import confidence as confidence
from jsamp.tokens._ancestral import tau_leap as tau_leap
from jsamp.tokens._decode import DecodeInfo as DecodeInfo
from jsamp.tokens._decode import DecodeStep as DecodeStep
from jsamp.tokens._decode import TokenPrediction as TokenPrediction
from jsamp.tokens._decode import decode as decode
from jsamp.tokens._decoding import Decoding as Decoding
from jsamp.tokens._decoding import first_hitting as first_hitting
from jsamp.tokens._detect import Detection as Detection
from jsamp.tokens._detect import detect as detect
from jsamp.tokens._generate import GenerateInfo as GenerateInfo
from jsamp.tokens._generate import SpeculativeInfo as SpeculativeInfo
from jsamp.tokens._generate import generate as generate
from jsamp.tokens._generate import speculative as speculative
from jsamp.tokens._guidance import ClassifierFree as ClassifierFree
from jsamp.tokens._guidance import Exclude as Exclude
from jsamp.tokens._guidance import Reward as Reward
from jsamp.tokens._guidance import exclude as exclude
from jsamp.tokens._nelbo import nelbo as nelbo
from jsamp.tokens._process import Masked as Masked
from jsamp.tokens._protocol import Model as Model
from jsamp.tokens._transforms import Transform as Transform
from jsamp.tokens._transforms import min_p as min_p
from jsamp.tokens._transforms import repetition as repetition
from jsamp.tokens._transforms import temperature as temperature
from jsamp.tokens._transforms import top_k as top_k
from jsamp.tokens._transforms import top_p as top_p
from jsamp.tokens._transforms import typical as typical
from jsamp.tokens._watermark import Exponential as Exponential
from jsamp.tokens._watermark import InverseTransform as InverseTransform

__all__ = [
    "Cap", "ClassifierFree", "Confident", "DecodeInfo", "DecodeStep", "Decoding", "Detection", "Exclude",
    "Exponential", "GenerateInfo", "InverseTransform", "Loop", "Masked", "Model", "Rescale", "Reward",
    "SpeculativeInfo", "TokenPrediction", "Transform", "ancestral", "confidence", "decode", "detect", "exclude",
    "first_hitting", "generate", "min_p", "nelbo", "repetition", "speculative", "tau_leap", "temperature", "top_k",
    "top_p", "typical",
]  # fmt: skip
