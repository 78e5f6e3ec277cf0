"""A process that checks graphs. Requests are JSON lines on standard input, with two lines on standard output for each:
``drawn``, as ONNX Runtime may die while it draws graphs, and a list of outcomes as JSON."""

from __future__ import annotations

import json
import os
import sys
import warnings


def main() -> None:
    """Serve until standard input ends."""
    # TVM and LLVM write to standard output; only outcomes may reach the pipe
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    import tvm  # noqa: F401  (once, before the first graph's time is taken)

    from tests.random_graphs.case import draw
    from tests.random_graphs.check import WAYS

    answers.write("ready\n")
    for line in sys.stdin:
        request = json.loads(line)
        cases = [draw(seed) for seed in request["seeds"]]
        answers.write("drawn\n")
        outcomes = WAYS[request["way"]](cases, request["level"])
        answers.write(json.dumps([outcome.to_dict() for outcome in outcomes]) + "\n")


if __name__ == "__main__":
    main()
