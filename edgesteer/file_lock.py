"""Lock an open file for this process. However the process ends, the system unlocks it."""

import sys
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt

    def lock(file: BinaryIO) -> None:
        """Raises BlockingIOError if another process has locked it, OSError if it cannot be locked."""
        file.seek(1 << 30)  # behind whatever the file holds, which may still be read and written
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            raise BlockingIOError from None

else:
    import fcntl

    def lock(file: BinaryIO) -> None:
        """Raises BlockingIOError if another process has locked it, OSError if it cannot be locked."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
