"""A process that checks cases: requests ``file<TAB>form`` on standard input, outcomes as JSON lines on standard output."""

from __future__ import annotations

import json
import os
import pickle
import sys
import warnings
from pathlib import Path


def main() -> None:
    """Serve until standard input ends."""
    # TVM and LLVM write to standard output; only outcomes may reach the pipe
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    import tvm  # noqa: F401  (once, before the first case's time is taken)

    from tests.conformance.check import check

    answers.write("ready\n")
    for line in sys.stdin:
        path, form = line.rstrip("\n").split("\t")
        case = pickle.loads(Path(path).read_bytes())
        answers.write(json.dumps(check(case, form).to_dict()) + "\n")


if __name__ == "__main__":
    main()
