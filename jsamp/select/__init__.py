"""Data to scores, scores to subsets: one audited way to draw, and what to draw by."""

from jsamp.select._allocate import allocate as allocate
from jsamp.select._allocate import allocate_greedy as allocate_greedy
from jsamp.select._allocate import next_group as next_group
from jsamp.select._augment import cutmix_half as cutmix_half
from jsamp.select._augment import loss_history as loss_history
from jsamp.select._augment import naive_samples as naive_samples
from jsamp.select._augment import otsu as otsu
from jsamp.select._bias import draw_bias as draw_bias
from jsamp.select._classes import oversample as oversample
from jsamp.select._classes import undersample as undersample
from jsamp.select._cluster import kmeans_scores as kmeans_scores
from jsamp.select._cluster import kmeans_seeds as kmeans_seeds
from jsamp.select._cluster import lightweight as lightweight
from jsamp.select._compress import compress as compress
from jsamp.select._cover import k_center as k_center
from jsamp.select._curve import Curve as Curve
from jsamp.select._curve import fit_curve as fit_curve
from jsamp.select._distortion import distortion as distortion
from jsamp.select._distortion import sample_size as sample_size
from jsamp.select._draw import draw as draw
from jsamp.select._draw import draw_categorical as draw_categorical
from jsamp.select._draw import inclusion_probs as inclusion_probs
from jsamp.select._influence import influence as influence
from jsamp.select._kernel import GaussianKernel as GaussianKernel
from jsamp.select._kernel import herding as herding
from jsamp.select._kernel import kernel_error as kernel_error
from jsamp.select._kernel import thinning as thinning
from jsamp.select._leverage import leverage as leverage
from jsamp.select._leverage import root_leverage as root_leverage
from jsamp.select._lewis import Lewis as Lewis
from jsamp.select._lewis import lewis as lewis
from jsamp.select._neighbors import Nearest as Nearest
from jsamp.select._neighbors import nearest as nearest
from jsamp.select._neighbors import pack_bits as pack_bits
from jsamp.select._repeat import repeated_subsets as repeated_subsets
from jsamp.select._replay import Replay as Replay
from jsamp.select._replay import ReplayState as ReplayState
from jsamp.select._replay import interpolate_latents as interpolate_latents
from jsamp.select._reservoir import Reservoir as Reservoir
from jsamp.select._reservoir import ReservoirState as ReservoirState
from jsamp.select._retrieve import retrieve as retrieve
from jsamp.select._rp_cholesky import PartialCholesky as PartialCholesky
from jsamp.select._rp_cholesky import rp_cholesky as rp_cholesky
from jsamp.select._sensitivity import Bounds as Bounds
from jsamp.select._sensitivity import sensitivity as sensitivity
from jsamp.select._sensitivity import sensitivity_bounds as sensitivity_bounds
from jsamp.select._smote import Synthetic as Synthetic
from jsamp.select._smote import smote as smote
from jsamp.select._stein import stein_error as stein_error
from jsamp.select._stein import stein_thinning as stein_thinning
from jsamp.select._strata import balance as balance
from jsamp.select._strata import stratified as stratified
from jsamp.select._strata import stratified_masks as stratified_masks
from jsamp.select._strata import stratum_counts as stratum_counts
from jsamp.select._stream import Coreset as Coreset
from jsamp.select._stream import RowBlocks as RowBlocks
from jsamp.select._stream import leverage_stream as leverage_stream
from jsamp.select._stream import merge as merge
from jsamp.select._stream import reduce_stream as reduce_stream
from jsamp.select._subset import Subset as Subset

__all__ = [
    "Bounds", "Coreset", "Curve", "GaussianKernel", "Lewis", "Nearest", "PartialCholesky", "Replay", "ReplayState",
    "Reservoir", "ReservoirState", "RowBlocks", "Subset", "Synthetic", "allocate", "allocate_greedy", "balance",
    "compress", "cutmix_half", "distortion", "draw", "draw_bias", "draw_categorical", "fit_curve", "herding",
    "inclusion_probs", "influence", "interpolate_latents", "k_center", "kernel_error", "kmeans_scores",
    "kmeans_seeds", "leverage", "leverage_stream", "lewis", "lightweight", "loss_history", "merge", "naive_samples",
    "nearest", "next_group", "otsu", "oversample", "pack_bits", "reduce_stream", "repeated_subsets", "retrieve",
    "root_leverage", "rp_cholesky", "sample_size", "sensitivity", "sensitivity_bounds", "smote", "stein_error",
    "stein_thinning", "stratified", "stratified_masks", "stratum_counts", "thinning", "undersample",
]  # fmt: skip
