"""Samplers: fold a denoiser over a grid of noise levels, or solve by diffrax."""

from score_sde import schedules as schedules
from score_sde.samplers import grids as grids
from score_sde.samplers.continuous import Solution as Solution
from score_sde.samplers.continuous import solve_ode as solve_ode
from score_sde.samplers.continuous import solve_sde as solve_sde
from score_sde.samplers.loop import SAMPLERS as SAMPLERS
from score_sde.samplers.loop import sample as sample
from score_sde.samplers.noise import BrownianPath as BrownianPath
from score_sde.samplers.progress import progress_bar as progress_bar
from score_sde.samplers.steps import Sampler as Sampler
from score_sde.samplers.steps import SampleResult as SampleResult
