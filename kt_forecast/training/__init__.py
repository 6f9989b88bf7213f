"""One loop that trains every torch model, alone or under torchrun.

Validation chooses the epoch; there is no argument through which test data could come. The loop
waits for the device once every ``check_updates`` updates, not at each, and a run that was killed
goes on from its checkpoint with the bits it would have had. Batches may be parts of histories whose
state the loop carries from update to update, without gradients.
"""

from kt_forecast.training.counting import flops_of
from kt_forecast.training.files import read_model, read_tensors, write_tensors
from kt_forecast.training.loop import fit, parameter_groups
from kt_forecast.training.settings import Batches, Checkpoint, Epoch, Fitted, TrainingConfig
from kt_forecast.training.workers import Workers, device_named, workers

__all__ = [
    "Batches",
    "Checkpoint",
    "Epoch",
    "Fitted",
    "TrainingConfig",
    "Workers",
    "device_named",
    "fit",
    "flops_of",
    "parameter_groups",
    "read_model",
    "read_tensors",
    "workers",
    "write_tensors",
]
