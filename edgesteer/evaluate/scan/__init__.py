"""The steerability scan: steer each block alone, at equal norms, to see which are worth steering."""

from edgesteer.evaluate.scan.measure import SHARES, scan
from edgesteer.evaluate.scan.result import Scan, Useful

__all__ = ["SHARES", "Scan", "Useful", "scan"]
