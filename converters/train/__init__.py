"""Train PSR networks through the whole model, beyond what the closed-form fit can learn. Needs Torch.

network     the steering as Torch parameters, with the documented names
data        pairs as examples: what the student reads, what it must predict, where it is steered
objectives  MSE, LL and KL, row by row
trainer     the loop: AdamW, linear decay, checkpoints
refine      closed-form fits in, trained ones out, for `edgesteer learn --refine`
"""

from edgesteer_converters.torch_model import TorchModel  # first, because it raises MissingExtra without Torch
from edgesteer_converters.train.refine import RefineReport, checkpoints, refine, trainer

__all__ = ["RefineReport", "TorchModel", "checkpoints", "refine", "trainer"]
