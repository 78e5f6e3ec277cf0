"""benchmarks/arm_*.py: what a program runs is counted exactly, its loops are found, and cycles are those of the core's manual."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
ROUNDS, ROWS = 7, 1000

needs_llvm = pytest.mark.skipif(shutil.which("llvm-mca-19") is None, reason="llvm-19 is not installed")
needs_emulation = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("qemu-aarch64", "aarch64-linux-gnu-gcc", "cc", "llvm-mc-19")),
    reason="qemu-user, gcc-aarch64-linux-gnu and llvm-19 are not installed",
)

PROGRAM = """
#include <pthread.h>
#include <unistd.h>

static void work(long rounds) {
  __asm__ volatile(
      "0: mov x1, %[rows]\\n"
      "1: fmla v0.4s, v1.4s, v2.4s\\n"
      "   fmla v3.4s, v1.4s, v2.4s\\n"
      "   cbz x1, 2f\\n" /* never taken: two blocks make the loop */
      "   subs x1, x1, #1\\n"
      "   b.ne 1b\\n"
      "2: subs %[n], %[n], #1\\n"
      "   b.ne 0b\\n"
      : [n] "+r"(rounds) : [rows] "r"(ROWS_L) : "x1", "v0", "v3", "cc");
}

static void *other(void *rounds) {
  work((long)rounds);
  return 0;
}

int main(int argc, char **argv) {
  pthread_t thread;
  work(100);
  close(1000001);
  if (argc > 1) pthread_create(&thread, 0, other, (void *)1000);
  work(ROUNDS_N);
  if (argc > 1) pthread_join(thread, 0);
  close(1000002);
  work(100);
  return 0;
}
"""


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def _counted(parts: Any, folder: Path, *arguments: str) -> str:
    source, program = folder / "program.c", folder / "program"
    source.write_text(PROGRAM.replace("ROWS_L", f"{ROWS}L").replace("ROUNDS_N", str(ROUNDS)))
    command = ["aarch64-linux-gnu-gcc", "-O1", "-pthread", "-o", str(program), str(source)]
    subprocess.run(command, check=True, capture_output=True)

    def run(plugin: str) -> None:
        emulated = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-plugin", plugin, str(program), *arguments]
        subprocess.run(emulated, check=True, timeout=60)

    text: str = parts("arm_emulation").counted(run)
    return text


@pytest.mark.qemu
@needs_emulation
def test_what_lies_between_the_marks_is_counted(parts: Any, tmp_path: Path) -> None:
    counts = parts("arm_emulation").read_counts(_counted(parts, tmp_path))
    code = parts("arm_code")
    found = code.traces(counts, code.Disassembler())
    loop = max(found, key=lambda trace: trace.executed)
    # The first pass of each round is part of the block that begins at "0:".
    assert loop.count == ROUNDS * (ROWS - 1)
    assert loop.texts[:3] == ("fmla v0.4s, v1.4s, v2.4s", "fmla v3.4s, v1.4s, v2.4s", "cbz x1, #12")
    assert len(loop.texts) == 5
    assert loop.is_loop
    assert Path(loop.path).name == "program"
    kinds = sum(trace.kinds()["multiply-add"] * trace.count for trace in found)
    assert kinds == 2 * ROUNDS * ROWS
    executed = sum(trace.executed for trace in found)
    assert executed == parts("arm_emulation").instructions(counts)
    assert 0 < executed - ROUNDS * (5 * ROWS + 3) < 200  # the calls around it
    assert code.Symbols.of(tmp_path / "program").name(loop.offset) == "work"


@needs_llvm
def test_a_loop_in_two_pages_is_one_loop(parts: Any) -> None:
    """Its second page is jumped to from elsewhere, too; what falls into it takes its instructions along, each run counted once."""
    code, block = parts("arm_code"), parts("arm_emulation").Block
    add, back = bytes.fromhex("0004009100040091"), bytes.fromhex("a0ffff54")  # add, add; b.eq #-12
    counts = Counter({block("lib", 0, add): 90, block("lib", 8, add[:4] + back): 100, block("lib", 400, add): 7})
    found = {(trace.offset, len(trace.texts)): trace for trace in code.traces(counts, code.Disassembler())}
    assert {place: trace.count for place, trace in found.items()} == {(0, 4): 90, (8, 2): 10, (400, 2): 7}
    assert found[0, 4].is_loop
    assert sum(trace.executed for trace in found.values()) == parts("arm_emulation").instructions(counts)


@pytest.mark.qemu
@needs_emulation
def test_work_of_other_threads_is_refused(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="other threads ran"):
        parts("arm_emulation").read_counts(_counted(parts, tmp_path, "with another thread"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("fmla v0.4s, v1.4s, v2.s[1]", "multiply-add"),
        ("fmla v0.8h, v1.8h, v2.8h", "multiply-add"),
        ("sdot v0.4s, v1.16b, v2.4b[0]", "multiply-add"),
        ("smlal2 v0.4s, v1.8h, v2.8h", "multiply-add"),
        ("fmadd s0, s1, s2, s3", "other vector"),
        ("fmul v0.4s, v1.4s, v2.4s", "other vector"),
        ("mov v3.16b, v4.16b", "copy"),
        ("mov v3.s[1], v4.s[0]", "other vector"),
        ("mov x3, x4", "scalar"),
        ("str q4, [sp, #16]", "spill"),
        ("ldp q4, q5, [sp]", "spill"),
        ("str x4, [sp, #16]", "store"),
        ("ldr q4, [x1, #16]", "load"),
        ("ld1r { v0.4s }, [x1]", "load"),
        ("st1 { v0.4s }, [x1], #16", "store"),
        ("prfm pldl1keep, [x1]", "prefetch"),
        ("b.ne #-20", "branch"),
        ("bl #400", "branch"),
        ("bic v0.16b, v1.16b, v2.16b", "other vector"),
        ("ret", "branch"),
    ],
)
def test_kinds(parts: Any, text: str, kind: str) -> None:
    assert parts("arm_code").kind(text) == kind


@needs_llvm
def test_cycles_are_those_of_the_cores(parts: Any) -> None:
    """ARM's optimisation guides: two pipes for vectors on N1 and one for 128 bits on A55, 4 cycles for a sum."""
    cycles = parts("arm_cycles")
    independent = tuple(f"fmla v{i}.4s, v30.4s, v31.4s" for i in range(16))
    scalars = tuple(f"mov x{i}, x28" for i in range(12))
    for core, times in ((cycles.NEOVERSE_N1, (8.0, 4.0)), (cycles.CORTEX_A55, (16.0, 6.0))):
        found = cycles.steady_cycles([independent, scalars], core)
        assert (found[independent][0], found[scalars][0]) == pytest.approx(times, rel=0.02)
    chain = ("fmla v0.4s, v30.4s, v31.4s",)
    assert cycles.steady_cycles([chain], cycles.NEOVERSE_N1)[chain][0] == pytest.approx(4.0, rel=0.02)


@needs_llvm
def test_instructions_that_a_core_lacks_are_told(parts: Any) -> None:
    cycles = parts("arm_cycles")
    body = ("fmla v0.4s, v30.4s, v31.4s", "smmla v1.4s, v2.16b, v3.16b", ".inst 0x00000000")
    assert cycles.steady_cycles([body], cycles.NEOVERSE_N1)[body][1] == 2


ASSEMBLY = """
\t.globl\tkernel
kernel:                                 // @kernel
\tmov\tx8, xzr
.LBB0_1:                                // =>This Loop Header: Depth=1
\tmov\tx9, xzr
.LBB0_2:                                //   Parent Loop BB0_1 Depth=1
\tfmla\tv0.4s, v1.4s, v2.s[0]
\tcbz\tx9, .LBB0_4
\tfmla\tv3.4s, v1.4s, v2.s[1]
\tadd\tx9, x9, #1
\tb.ne\t.LBB0_2
.LBB0_4:
\tadd\tx8, x8, #1
\tb.ne\t.LBB0_1
\tret
"""


@needs_llvm
def test_innermost_loops(parts: Any, tmp_path: Path) -> None:
    """The same ones are found in text and in a library made of it."""
    loops = parts("arm_loops")
    texts = ("fmla v0.4s, v1.4s, v2.s[0]", "fmla v3.4s, v1.4s, v2.s[1]", "add x9, x9, #1")
    (loop,) = loops.loops_of_assembly(ASSEMBLY)
    assert (loop.function, loop.texts[0], *loop.texts[2:4]) == ("kernel", *texts)
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no aarch64-linux-gnu-gcc")
    source, library = tmp_path / "kernel.s", tmp_path / "kernel.so"
    source.write_text(ASSEMBLY)
    command = ["aarch64-linux-gnu-gcc", "-shared", "-nostdlib", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (loop,) = loops.loops_of_library(library)
    assert (loop.function, loop.texts[0], *loop.texts[2:4]) == ("kernel", *texts)
    assert loop.texts[1::3] == ("cbz x9, #16", "b.ne #-16")
