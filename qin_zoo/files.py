"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qin_zoo.errors import QinZooError, first_line


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write to the path it yields; on success that file takes the place of ``path``, otherwise nothing changes.

    Raises:
        QinZooError: the folder cannot be written or the disk is full; what stood at ``path`` still stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save turns a failed write into a RuntimeError of its own
        failed = error if isinstance(error, OSError) else error.__context__
        cause = failed.strerror if isinstance(failed, OSError) else first_line(error)
        raise QinZooError(
            f"Could not write {path}: {cause}. What was there before is unchanged; free space or choose a "
            "folder you may write to (model_root)."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
