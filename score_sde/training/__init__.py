"""From a loss to trained parameters: the step, its state, checkpoints, the loop.

For a loop of one's own: `make_train_step(whole_batch_gradient(loss), optimizer, ...)`
gives a pure step with randomness by example, a moving average, and a guard against
updates that are not finite; `init_state` its first state.
"""

from score_sde.training.optimizer import Optimizer as Optimizer
from score_sde.training.optimizer import make_optimizer as make_optimizer
from score_sde.training.step import StepContext as StepContext
from score_sde.training.step import TrainState as TrainState
from score_sde.training.step import accumulated_gradient as accumulated_gradient
from score_sde.training.step import init_state as init_state
from score_sde.training.step import make_train_step as make_train_step
from score_sde.training.step import whole_batch_gradient as whole_batch_gradient
