"""The variational bound on the negative log-likelihood, term by term, in nats.

A chain of Gaussians, from the prior at sigma_T down to the data, has the bound

    L_T + sum of L_(t-1) + L_0                     (Ho et al. 2020, eq. 5)

of the prior, the steps and the decoder: `chain_bound`. In the limit of many steps their
sum is the integral of |x0 - D|^2 / sigma^2 over log sigma: `continuous_bound`.
"""

from score_sde.elbo.chain import VARIANCES as VARIANCES
from score_sde.elbo.chain import Reverse as Reverse
from score_sde.elbo.chain import Variance as Variance
from score_sde.elbo.chain import chain_bound as chain_bound
from score_sde.elbo.chain import chain_term as chain_term
from score_sde.elbo.chain import fixed_large as fixed_large
from score_sde.elbo.chain import fixed_small as fixed_small
from score_sde.elbo.chain import hybrid_loss as hybrid_loss
from score_sde.elbo.chain import hybrid_terms as hybrid_terms
from score_sde.elbo.chain import with_fixed_variance as with_fixed_variance
from score_sde.elbo.chain import with_learned_variance as with_learned_variance
from score_sde.elbo.continuous import continuous_bound as continuous_bound
from score_sde.elbo.terms import Bound as Bound
from score_sde.elbo.terms import Decoder as Decoder
from score_sde.elbo.terms import bin_log_prob as bin_log_prob
from score_sde.elbo.terms import discretised_decoder as discretised_decoder
from score_sde.elbo.terms import gaussian_decoder as gaussian_decoder
from score_sde.elbo.terms import level_log_prob as level_log_prob
from score_sde.elbo.terms import no_decoder as no_decoder
from score_sde.elbo.terms import prior_term as prior_term
