"""Each steered block alone, at equal norms: which blocks are worth steering.

found       what was measured, and which blocks gain the trait
cells       a bundle's blocks as lanes of one pass
scanning    the door
"""

from edgesteer.evaluate.scan.found import Scan, Useful
from edgesteer.evaluate.scan.scanning import SHARES, scan

__all__ = ["SHARES", "Scan", "Useful", "scan"]
