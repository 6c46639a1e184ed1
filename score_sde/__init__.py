"""score_sde: continuous-time score models in JAX.

One idea carries the library: a trained model is a denoiser D(x, sigma), and every other
object either makes one or uses one. `types` says what the words mean.

Names are imported when they are first used, so that a program can answer before JAX is
there.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from score_sde import anatomy as anatomy
    from score_sde import arrays as arrays
    from score_sde import conditions as conditions
    from score_sde import data as data
    from score_sde import dequantisation as dequantisation
    from score_sde import editing as editing
    from score_sde import elbo as elbo
    from score_sde import evaluation as evaluation
    from score_sde import flow_map as flow_map
    from score_sde import guidance as guidance
    from score_sde import likelihood as likelihood
    from score_sde import losses as losses
    from score_sde import measurements as measurements
    from score_sde import networks as networks
    from score_sde import noise_levels as noise_levels
    from score_sde import oracles as oracles
    from score_sde import precondition as precondition
    from score_sde import predictions as predictions
    from score_sde import samplers as samplers
    from score_sde import schedules as schedules
    from score_sde import sde as sde
    from score_sde import steering as steering
    from score_sde import training as training
    from score_sde import types as types
    from score_sde import wavelets as wavelets
    from score_sde import weights as weights
    from score_sde.few_step_likelihood import few_step_log_prob as few_step_log_prob
    from score_sde.fields import pytree as pytree
    from score_sde.flow_map import make_jump as make_jump
    from score_sde.likelihood import LogProb as LogProb
    from score_sde.likelihood import bits_per_dim as bits_per_dim
    from score_sde.likelihood import log_prob as log_prob
    from score_sde.likelihood import mean_and_error as mean_and_error
    from score_sde.losses import denoising_loss as denoising_loss
    from score_sde.precondition import make_denoiser as make_denoiser
    from score_sde.precondition import make_score as make_score
    from score_sde.run.open import Run as Run
    from score_sde.run.open import open_run as open_run
    from score_sde.samplers import grids as grids
    from score_sde.samplers import sample as sample
    from score_sde.samplers import solve_ode as solve_ode
    from score_sde.samplers import solve_sde as solve_sde
    from score_sde.sde import EDM as EDM
    from score_sde.sde import SDE as SDE
    from score_sde.sde import VE as VE
    from score_sde.sde import VP as VP
    from score_sde.sde import CosineVP as CosineVP
    from score_sde.sde import StraightLine as StraightLine
    from score_sde.sde import SubVP as SubVP
    from score_sde.sde import perturb as perturb
    from score_sde.sde import prior_log_prob as prior_log_prob
    from score_sde.sde import prior_sample as prior_sample
    from score_sde.sde import probability_flow as probability_flow
    from score_sde.sde import reverse_drift as reverse_drift

__version__ = "0.1.0"

_MODULES = (
    "anatomy arrays conditions data dequantisation editing elbo evaluation flow_map "
    "guidance likelihood losses measurements networks noise_levels oracles "
    "precondition predictions samplers schedules sde steering training types wavelets "
    "weights"
)
_NAMES = {
    "few_step_likelihood": "few_step_log_prob",
    "fields": "pytree",
    "flow_map": "make_jump",
    "likelihood": "LogProb bits_per_dim log_prob mean_and_error",
    "losses": "denoising_loss",
    "precondition": "make_denoiser make_score",
    "run.open": "Run open_run",
    "samplers": "grids sample solve_ode solve_sde",
    "sde": "EDM SDE VE VP CosineVP StraightLine SubVP perturb prior_log_prob "
    "prior_sample probability_flow reverse_drift",
}
_HOMES = {module: f"{module}:" for module in _MODULES.split()}
for _module, _names in _NAMES.items():
    _HOMES |= {name: f"{_module}:{name}" for name in _names.split()}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pkgutil import resolve_name

        value = resolve_name(f"{__name__}.{_HOMES[name]}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
