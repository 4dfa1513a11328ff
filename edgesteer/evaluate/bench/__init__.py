"""What steering costs on this machine, as ratios to the unsteered model in the same run."""

from edgesteer.evaluate.bench.costs import against_prompt, bench
from edgesteer.evaluate.bench.memory import resident
from edgesteer.evaluate.bench.random_model import random_bundles
from edgesteer.evaluate.bench.scaling import STUDIES, Settings, scale

__all__ = ["STUDIES", "Settings", "against_prompt", "bench", "random_bundles", "resident", "scale"]
