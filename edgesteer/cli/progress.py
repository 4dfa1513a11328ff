"""The progress bar of the long commands, on stderr."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar() -> Iterator[Callable[[str, float], None]]:
    """Yields progress(stage, fraction done of the whole), which shows a bar if stderr is a terminal."""
    from tqdm import tqdm

    shape = "{desc:<10} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
    columns = shutil.get_terminal_size().columns  # never 0, unlike what some pseudo-terminals report
    with tqdm(total=1.0, bar_format=shape, disable=None, leave=False, ncols=columns) as shown:

        def progress(stage: str, fraction: float) -> None:
            shown.set_description_str(stage, refresh=False)
            shown.update(max(0.0, fraction - shown.n))

        yield progress
