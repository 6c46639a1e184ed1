"""Losses, one value per example: of denoisers, and of models of few steps."""

from score_sde.losses import consistency as consistency
from score_sde.losses import flow_maps as flow_maps
from score_sde.losses import jump_divergences as jump_divergences
from score_sde.losses import pairs as pairs
from score_sde.losses import trigflow as trigflow
from score_sde.losses.consistency import consistency_loss as consistency_loss
from score_sde.losses.denoising import classification_loss as classification_loss
from score_sde.losses.denoising import denoising_loss as denoising_loss
from score_sde.losses.distances import DISTANCES as DISTANCES
from score_sde.losses.score_matching import exact_score_matching as exact_score_matching
from score_sde.losses.score_matching import (
    sliced_score_matching as sliced_score_matching,
)
from score_sde.losses.weights import WEIGHTS as WEIGHTS
from score_sde.losses.weights import Weight as Weight
from score_sde.losses.weights import edm as edm
from score_sde.losses.weights import is_bound as is_bound
from score_sde.losses.weights import likelihood as likelihood
from score_sde.losses.weights import min_snr as min_snr
from score_sde.losses.weights import noise as noise
from score_sde.losses.weights import sigma_squared as sigma_squared
from score_sde.losses.weights import sigmoid as sigmoid
from score_sde.losses.weights import soft_min_snr as soft_min_snr
from score_sde.losses.weights import truncated_snr as truncated_snr
from score_sde.losses.weights import uniform as uniform
from score_sde.losses.weights import weighs_bound as weighs_bound
