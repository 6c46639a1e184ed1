"""The anatomy of a diffusion model in one dimension, computed exactly.

Each function returns the arrays of one picture that explains diffusion: the pictures of
chapter 18 of Prince 2023, *Understanding Deep Learning*, and those of the probability
flow. The data are a mixture of Gaussians (`oracles.GaussianMixture` with one
dimension), so that marginals, posteriors, the best reverse chain and the flow have
closed forms or one-dimensional integrals.

A chain is given by its betas, [T], and noises x step by step,

    z_t = sqrt(1 - beta_t) z_(t-1) + sqrt(beta_t) eps_t          z_0 = x

whose scale is alpha_t = sqrt(abar_t), with abar_t the product of 1 - beta up to t.
Rows of results are the times t = 0 ... T. A grid is a rising row of points of the real
line; integrals over it are by the trapezoid rule.
"""

from score_sde.anatomy.chain import Kernel as Kernel
from score_sde.anatomy.chain import Marginals as Marginals
from score_sde.anatomy.chain import Paths as Paths
from score_sde.anatomy.chain import forward_paths as forward_paths
from score_sde.anatomy.chain import kernel as kernel
from score_sde.anatomy.chain import marginals as marginals
from score_sde.anatomy.fitted import ConsistencyTable as ConsistencyTable
from score_sde.anatomy.fitted import Pushed as Pushed
from score_sde.anatomy.fitted import Table as Table
from score_sde.anatomy.fitted import fit_consistency as fit_consistency
from score_sde.anatomy.fitted import fit_table as fit_table
from score_sde.anatomy.fitted import push_back as push_back
from score_sde.anatomy.flow import FlowLikelihood as FlowLikelihood
from score_sde.anatomy.flow import flow_likelihood as flow_likelihood
from score_sde.anatomy.flow import quantile_map as quantile_map
from score_sde.anatomy.guided import GuidedLaw as GuidedLaw
from score_sde.anatomy.guided import guided_law as guided_law
from score_sde.anatomy.lines import total_variation as total_variation
from score_sde.anatomy.posteriors import ConditionalPosterior as ConditionalPosterior
from score_sde.anatomy.posteriors import Family as Family
from score_sde.anatomy.posteriors import ReversePosterior as ReversePosterior
from score_sde.anatomy.posteriors import conditional_posterior as conditional_posterior
from score_sde.anatomy.posteriors import family as family
from score_sde.anatomy.posteriors import reverse_posterior as reverse_posterior
from score_sde.anatomy.two_stages import Cascade as Cascade
from score_sde.anatomy.two_stages import cascade as cascade
from score_sde.anatomy.two_stages import given_average as given_average
from score_sde.anatomy.unet import UNetTable as UNetTable
from score_sde.anatomy.unet import unet_table as unet_table
