"""Weight files of other programs, read as data, and the parameters that they hold."""

from score_sde.weights.files import read as read
from score_sde.weights.fit import fit as fit
from score_sde.weights.fit import parameters_of_files as parameters_of_files
from score_sde.weights.fit import published_arrays as published_arrays
from score_sde.weights.state_dict import StateDict as StateDict
from score_sde.weights.state_dict import state_dict as state_dict
