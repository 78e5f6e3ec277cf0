"""``python -m tests.fuzz --files 20000 --values 2000 --manifests 2000``: many cases, in processes that may die.

Prints how often each outcome came, and every finding once: an exception that is no GraphOptError, outputs that differ, a signal,
a case of more than ``--timeout`` seconds, more than ``--memory`` bytes. ``--folder`` keeps the smallest case of each with its
traceback. Seconds are those that the processor spent: a machine may be busy with other things; six times as many pass at most.
Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.worker import KINDS

BATCH = 250
POLL_S = 0.2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N", help=f"how many {kind} to try")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; the others follow")
    parser.add_argument("--timeout", type=float, default=10, help="seconds a case may take")
    parser.add_argument("--memory", type=int, default=4 << 30, help="bytes a process may have resident")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-findings"), help="where findings are kept")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        wanted, seed, total = getattr(options, kind), options.seed, collections.Counter[str]()
        while sum(total.values()) < wanted:
            before = sum(total.values())
            total += batch(kind, seed, min(BATCH, wanted - before), options)
            seed += 1
            print(f"{kind}: {sum(total.values())} of {wanted}: {dict(total.most_common())}", flush=True)
    findings = sorted((options.folder / "findings").glob("*.txt"))
    for path in findings:
        print(f"\n{path.with_suffix('')}: {path.read_text().splitlines()[0]}")
    print(f"\n{len(findings)} findings" + (f" in {options.folder}" if findings else ""))
    return 1 if findings else 0


def batch(kind: str, seed: int, count: int, options: argparse.Namespace) -> collections.Counter[str]:
    """Outcomes of one process; its death or silence is one too."""
    command = [sys.executable, "-m", "tests.fuzz.worker", kind, str(seed), str(count), str(options.folder)]
    current = options.folder / f"current-{kind}-{seed}"
    current.unlink(missing_ok=True)
    with (options.folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        cases, last, problem = 0, b"", None
        while process.poll() is None and problem is None:
            time.sleep(POLL_S)
            state = current.read_bytes() if current.exists() else b""
            if state.partition(b"\n")[2] != last:
                cases, last = cases + 1, state.partition(b"\n")[2]
            problem = _problem(process.pid, state, options)
        if problem is not None:
            process.kill()
        out = process.communicate()[0].decode(errors="replace")
    if problem is None and process.returncode == 0:
        return collections.Counter(json.loads(out.splitlines()[-1]))
    if problem is None:
        problem = (
            f"died of signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        )
    return collections.Counter({_keep(kind, problem, current, options.folder): max(cases, 1)})


def _problem(pid: int, state: bytes, options: argparse.Namespace) -> str | None:
    """What is wrong with a process that runs."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        began = json.loads(state.partition(b"\n")[0]) if state else None
        ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]))
    except (OSError, ValueError, IndexError):
        return None
    if pages * os.sysconf("SC_PAGE_SIZE") > options.memory:
        return "too much memory"
    if began is None:
        return None
    spent = ticks / os.sysconf("SC_CLK_TCK") - began["cpu"]
    return "hangs" if spent > options.timeout or time.time() - began["at"] > 6 * options.timeout else None


def _keep(kind: str, problem: str, current: Path, folder: Path) -> str:
    """Keep the case that a process died of; those of ONNX Runtime's own code are its matter."""
    state = current.read_bytes() if current.exists() else b""
    head, _, blob = state.partition(b"\n")
    phase = json.loads(head)["phase"] if head else "start"
    current.unlink(missing_ok=True)
    what = f"{problem} in {phase}"
    if phase == "onnxruntime":
        return what
    name = f"{kind}-{problem.replace(' ', '-')}-{int(time.time())}"
    (folder / "findings").mkdir(parents=True, exist_ok=True)
    (folder / "findings" / name).write_bytes(blob)
    (folder / "findings" / f"{name}.txt").write_text(what + "\n")
    return what


if __name__ == "__main__":
    sys.exit(main())
