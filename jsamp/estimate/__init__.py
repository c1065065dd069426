"""Samples to estimates: values with standard errors, and the diagnostics that say whether to trust them."""

from jsamp.estimate._adaptive import AdaptiveImportance as AdaptiveImportance
from jsamp.estimate._adaptive import AdaptiveInfo as AdaptiveInfo
from jsamp.estimate._adaptive import AdaptiveState as AdaptiveState
from jsamp.estimate._adaptive import multiple_importance as multiple_importance
from jsamp.estimate._adaptive_run import adaptive_importance as adaptive_importance
from jsamp.estimate._adaptive_run import sobol_importance as sobol_importance
from jsamp.estimate._bootstrap import Bootstrapped as Bootstrapped
from jsamp.estimate._bootstrap import bootstrap as bootstrap
from jsamp.estimate._bootstrap import bootstrap_weights as bootstrap_weights
from jsamp.estimate._designs import halton as halton
from jsamp.estimate._designs import latin_hypercube as latin_hypercube
from jsamp.estimate._designs import sobol_points as sobol_points
from jsamp.estimate._diagnostics import ebfmi as ebfmi
from jsamp.estimate._diagnostics import ess as ess
from jsamp.estimate._diagnostics import mcse as mcse
from jsamp.estimate._diagnostics import mean as mean
from jsamp.estimate._diagnostics import rhat as rhat
from jsamp.estimate._discrepancy import energy as energy
from jsamp.estimate._discrepancy import kid as kid
from jsamp.estimate._discrepancy import mmd as mmd
from jsamp.estimate._folds import CrossValidated as CrossValidated
from jsamp.estimate._folds import cross_validate as cross_validate
from jsamp.estimate._folds import kfold_masks as kfold_masks
from jsamp.estimate._folds import leave_one_out as leave_one_out
from jsamp.estimate._folds import nested as nested
from jsamp.estimate._geometry import asymmetry as asymmetry
from jsamp.estimate._geometry import flipd as flipd
from jsamp.estimate._geometry import flow_singular_values as flow_singular_values
from jsamp.estimate._geometry import gauge_residual as gauge_residual
from jsamp.estimate._geometry import normal_dimension as normal_dimension
from jsamp.estimate._importance import Smoothed as Smoothed
from jsamp.estimate._importance import bridge as bridge
from jsamp.estimate._importance import psis as psis
from jsamp.estimate._importance import snis as snis
from jsamp.estimate._minority import QuantileLabels as QuantileLabels
from jsamp.estimate._minority import minority_score as minority_score
from jsamp.estimate._minority import quantile_labels as quantile_labels
from jsamp.estimate._on_host import from_sklearn as from_sklearn
from jsamp.estimate._permutation import bonferroni as bonferroni
from jsamp.estimate._permutation import holm as holm
from jsamp.estimate._permutation import permutation_test as permutation_test
from jsamp.estimate._persistence import Excursions as Excursions
from jsamp.estimate._persistence import excursions as excursions
from jsamp.estimate._persistence import gaussian_process as gaussian_process
from jsamp.estimate._persistence import slepian_exponent as slepian_exponent
from jsamp.estimate._persistence import slepian_sample as slepian_sample
from jsamp.estimate._persistence import slepian_survival as slepian_survival
from jsamp.estimate._prediction_error import PredictionError as PredictionError
from jsamp.estimate._prediction_error import err632 as err632
from jsamp.estimate._prediction_error import err632plus as err632plus
from jsamp.estimate._privacy import Counts as Counts
from jsamp.estimate._privacy import dp_epsilon as dp_epsilon
from jsamp.estimate._privacy import dp_epsilon_draws as dp_epsilon_draws
from jsamp.estimate._reuse import SQ as SQ
from jsamp.estimate._reuse import Answer as Answer
from jsamp.estimate._reuse import PrivateMultiplicativeWeights as PrivateMultiplicativeWeights
from jsamp.estimate._reuse import SQState as SQState
from jsamp.estimate._reuse import Thresholdout as Thresholdout
from jsamp.estimate._reuse import ThresholdoutState as ThresholdoutState
from jsamp.estimate._reuse import WeightsState as WeightsState
from jsamp.estimate._significance import cochran_q as cochran_q
from jsamp.estimate._significance import f_5x2cv as f_5x2cv
from jsamp.estimate._significance import f_test as f_test
from jsamp.estimate._significance import mcnemar as mcnemar
from jsamp.estimate._significance import paired_t as paired_t
from jsamp.estimate._significance import t_5x2cv as t_5x2cv
from jsamp.estimate._sobol import Design as Design
from jsamp.estimate._sobol import Sobol as Sobol
from jsamp.estimate._sobol import saltelli as saltelli
from jsamp.estimate._sobol import sobol as sobol
from jsamp.estimate._sobol import sobol_rank as sobol_rank
from jsamp.estimate._support import DensityCoverage as DensityCoverage
from jsamp.estimate._support import PrecisionRecall as PrecisionRecall
from jsamp.estimate._support import density_coverage as density_coverage
from jsamp.estimate._support import nearest_ratio as nearest_ratio
from jsamp.estimate._support import precision_recall as precision_recall
from jsamp.estimate._transport import frechet as frechet
from jsamp.estimate._transport import sliced_wasserstein as sliced_wasserstein
from jsamp.estimate._types import Estimate as Estimate
from jsamp.estimate._types import Interval as Interval
from jsamp.estimate._types import Significance as Significance
from jsamp.estimate._variance import Controlled as Controlled
from jsamp.estimate._variance import antithetic as antithetic
from jsamp.estimate._variance import control_variate as control_variate
from jsamp.estimate._variance import paired as paired
from jsamp.estimate._variance import stratified_pairs as stratified_pairs

__all__ = [
    "SQ", "AdaptiveImportance", "AdaptiveInfo", "AdaptiveState", "Answer", "Bootstrapped", "Controlled", "Counts",
    "CrossValidated", "DensityCoverage", "Design", "Estimate", "Excursions", "Interval", "PrecisionRecall",
    "PredictionError", "PrivateMultiplicativeWeights", "QuantileLabels", "SQState", "Significance", "Smoothed",
    "Sobol", "Thresholdout", "ThresholdoutState", "WeightsState", "adaptive_importance", "antithetic", "asymmetry",
    "bonferroni", "bootstrap", "bootstrap_weights", "bridge", "cochran_q", "control_variate", "cross_validate",
    "density_coverage", "dp_epsilon", "dp_epsilon_draws", "ebfmi", "energy", "err632", "err632plus", "ess",
    "excursions", "f_5x2cv", "f_test", "flipd", "flow_singular_values", "frechet", "from_sklearn", "gauge_residual",
    "gaussian_process", "halton", "holm", "kfold_masks", "kid", "latin_hypercube", "leave_one_out", "mcnemar", "mcse",
    "mean", "minority_score", "mmd", "multiple_importance", "nearest_ratio", "nested", "normal_dimension", "paired",
    "paired_t", "permutation_test", "precision_recall", "psis", "quantile_labels", "rhat", "saltelli",
    "slepian_exponent", "slepian_sample", "slepian_survival", "sliced_wasserstein", "snis", "sobol",
    "sobol_importance", "sobol_points", "sobol_rank", "stratified_pairs", "t_5x2cv",
]  # fmt: skip
