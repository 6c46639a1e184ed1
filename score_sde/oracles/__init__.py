"""Distributions whose denoiser, score, log-density and flow are known exactly."""

from score_sde.oracles.gaussian import Gaussian as Gaussian
from score_sde.oracles.mixtures import GaussianMixture as GaussianMixture
from score_sde.oracles.mixtures import LabelledMixture as LabelledMixture
from score_sde.oracles.point_masses import PointMasses as PointMasses
