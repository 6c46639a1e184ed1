"""Distributions of the noise level sigma in training, each with its density."""

from collections.abc import Callable

from score_sde.noise_levels.levels import Ladder as Ladder
from score_sde.noise_levels.levels import Learned as Learned
from score_sde.noise_levels.levels import LikelihoodImportance as LikelihoodImportance
from score_sde.noise_levels.levels import LogNormal as LogNormal
from score_sde.noise_levels.levels import LogUniform as LogUniform
from score_sde.noise_levels.levels import NoiseLevels as NoiseLevels
from score_sde.noise_levels.levels import UniformTime as UniformTime
from score_sde.noise_levels.shapes import CosineInterpolated as CosineInterpolated
from score_sde.noise_levels.shapes import LogLogistic as LogLogistic
from score_sde.noise_levels.shapes import SplitLogNormal as SplitLogNormal

NOISE_LEVELS: dict[str, Callable[..., NoiseLevels]] = {
    "uniform_time": UniformTime,
    "log_normal": LogNormal,
    "log_uniform": LogUniform,
    "ladder": Ladder,
    "likelihood_importance": LikelihoodImportance,
    "learned": Learned,
    "log_logistic": LogLogistic,
    "split_log_normal": SplitLogNormal,
    "cosine_interpolated": CosineInterpolated,
}
"""Name -> class; a user's own are added."""
