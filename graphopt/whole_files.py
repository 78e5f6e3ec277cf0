"""Files that appear complete or not at all, whoever reads their names meanwhile and however writing ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A new folder to write files of these names into; they take their places in ``folder`` when the block ends well.

    Each replaces what has its name there in one step, in the order of ``names``. When the block raises, nothing is replaced.

    Raises:
        OSError: the folder can't be written.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        yield Path(part)
        for name in names:
            os.replace(Path(part) / name, folder / name)
