"""What tests of learning on random models share."""

from __future__ import annotations

from edgesteer.learn import Limits

# A random model babbles: keep every reply.
LENIENT = Limits(min_tokens=1, min_distinct2=0.0, max_nll=1e9, min_trait=-1e9)
