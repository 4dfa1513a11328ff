"""What steering costs on this machine, as ratios to the unsteered model in the same run.

timing          fair clocks: ways that take turns in one context
drawn           random bundles
costs           the table: token, prefill, dial, load
memory          the peak of a process that does nothing else
scaling         the same ratios over blocks, bundles, batch, ubatch and width
beside_prompt   what the trait's system prompt costs
"""

from edgesteer.evaluate.bench.beside_prompt import beside_prompt
from edgesteer.evaluate.bench.costs import bench
from edgesteer.evaluate.bench.drawn import random_bundles
from edgesteer.evaluate.bench.memory import resident
from edgesteer.evaluate.bench.scaling import STUDIES, Asked, scale

__all__ = ["STUDIES", "Asked", "bench", "beside_prompt", "random_bundles", "resident", "scale"]
