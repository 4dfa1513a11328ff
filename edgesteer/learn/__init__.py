"""Learning on the quantized model itself, through llama.cpp: from one sentence to a steering bundle.

The package can be called like its function `learn`, because `from edgesteer import learn` may give the
package instead of the function, depending on what was imported before.
"""

import sys
from types import ModuleType
from typing import Any

from edgesteer.generate.questions import Question, read_questions
from edgesteer.learn.api import learn
from edgesteer.learn.forecast import Forecast
from edgesteer.learn.pairs import Limits, write_replies
from edgesteer.learn.pipeline import Comparison
from edgesteer.learn.recipe import EFFORTS, METHODS, Effort, Recipe
from edgesteer.learn.summary import LearnSummary
from edgesteer.learn.training import Trainer

__all__ = [
    "EFFORTS",
    "METHODS",
    "Comparison",
    "Effort",
    "Forecast",
    "LearnSummary",
    "Limits",
    "Question",
    "Recipe",
    "Trainer",
    "learn",
    "read_questions",
    "write_replies",
]


class _CallablePackage(ModuleType):
    __doc__ = learn.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return learn(*args, **kwargs)


# Python offers no other way to call a module.
sys.modules[__name__].__class__ = _CallablePackage
