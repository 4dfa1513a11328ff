"""Train steering through the whole model, beyond what a closed-form fit can learn. Needs Torch.

network     the steering as Torch parameters
data        pairs as examples: what the student reads, what it must predict, where it is steered
divergence  the KL divergence from the prompted model, row by row
trainer     the loop: AdamW, linear decay, held-out replies, checkpoints
api         pairs in, fits out, for `edgesteer learn`
"""

from edgesteer_converters.torch_model import TorchModel  # first, because it raises MissingExtra without Torch
from edgesteer_converters.train.api import checkpoints, trainer

__all__ = ["TorchModel", "checkpoints", "trainer"]
