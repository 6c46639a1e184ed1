"""Evaluation of a model's samples: metrics with intervals, reports and pictures."""

from score_sde.evaluation.calibration import PosteriorRanks as PosteriorRanks
from score_sde.evaluation.calibration import calibration_error as calibration_error
from score_sde.evaluation.calibration import posterior_ranks as posterior_ranks
from score_sde.evaluation.estimate import Estimate as Estimate
from score_sde.evaluation.estimate import estimates_of as estimates_of
from score_sde.evaluation.extractor import Extractor as Extractor
from score_sde.evaluation.fd_infinity import fd_infinity as fd_infinity
from score_sde.evaluation.fd_infinity import frechet_by_number as frechet_by_number
from score_sde.evaluation.features import FEATURES as FEATURES
from score_sde.evaluation.frechet import frechet_distance as frechet_distance
from score_sde.evaluation.frechet import (
    frechet_distance_of_moments as frechet_distance_of_moments,
)
from score_sde.evaluation.inception_score import class_statistics as class_statistics
from score_sde.evaluation.inception_score import inception_score as inception_score
from score_sde.evaluation.kernel import cmmd as cmmd
from score_sde.evaluation.kernel import kernel_distance as kernel_distance
from score_sde.evaluation.kernel import (
    kernel_distance_of_subsets as kernel_distance_of_subsets,
)
from score_sde.evaluation.manifold import density_coverage as density_coverage
from score_sde.evaluation.manifold import expected_coverage as expected_coverage
from score_sde.evaluation.manifold import precision_recall as precision_recall
from score_sde.evaluation.memorisation import authenticity as authenticity
from score_sde.evaluation.memorisation import memorisation as memorisation
from score_sde.evaluation.memorisation import nearest_neighbours as nearest_neighbours
from score_sde.evaluation.metrics import METRICS as METRICS
from score_sde.evaluation.metrics import PAIR_METRICS as PAIR_METRICS
from score_sde.evaluation.metrics import SAMPLE_METRICS as SAMPLE_METRICS
from score_sde.evaluation.metrics import split_half_floor as split_half_floor
from score_sde.evaluation.moments import Moments as Moments
from score_sde.evaluation.moments import merge_moments as merge_moments
from score_sde.evaluation.moments import moments_of as moments_of
from score_sde.evaluation.pairs import psnr as psnr
from score_sde.evaluation.pairs import ssim as ssim
from score_sde.evaluation.perceptual import lpips as lpips
from score_sde.evaluation.reading import reads as reads
from score_sde.evaluation.statistics import Statistics as Statistics
from score_sde.evaluation.statistics import read_statistics as read_statistics
from score_sde.evaluation.statistics import write_statistics as write_statistics
from score_sde.evaluation.vendi import vendi_score as vendi_score
