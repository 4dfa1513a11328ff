"""One reply of a chat, read from llama_cpp's stream as it comes, to its end or to Ctrl-C.

In:  a stream of parts, the flag that Ctrl-C sets. Out: pieces on the screen, and why the reply ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from edgesteer.cli.chat_input import Stop
from edgesteer.cli.chat_screen import Screen


class Reply:
    """Reads one stream of llama_cpp's to its end or to Ctrl-C."""

    def __init__(self, screen: Screen, stop: Stop) -> None:
        self._screen, self._stop = screen, stop
        self.pieces: list[str] = []
        self.finish_reason = ""

    def read(self, start: Callable[[], Any]) -> None:
        try:
            self._stop.urgent = True
            if not self._stop.asked:
                with contextlib.closing(start()) as parts:
                    self._read(parts)
            self._stop.urgent = False
        except KeyboardInterrupt:
            pass
        finally:
            self._stop.urgent = False
            if self.pieces or self.finish_reason:
                self._screen.end()
        self.finish_reason = self.finish_reason or "stopped"

    def _read(self, parts: Iterable[Any]) -> None:
        for part in parts:
            self._stop.flowing = True
            self._take(part["choices"][0])
            if self._stop.asked and not self.finish_reason:
                return

    def _take(self, choice: dict[str, Any]) -> None:
        piece = choice["delta"].get("content") or ""
        self.finish_reason = choice["finish_reason"] or self.finish_reason
        if not self.pieces and (piece or self.finish_reason):
            self._screen.begin()
        if piece:
            self.pieces.append(piece)
            self._screen.piece(piece)
