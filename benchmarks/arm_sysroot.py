"""An aarch64 Python 3.11 with the peers' wheels, in a folder that qemu-aarch64 takes for the root of the file system.

Python and what it needs come from Debian 12, by apt with lists of its own: the system's are left as they are. ONNX Runtime
looks at ``/proc/cpuinfo`` and ``/sys`` for the core and its caches, of which qemu shows the machine's own, so that the folder
holds those of the core that is emulated.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from arm_emulation import cache_folder

_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SOURCES = f"deb [signed-by={_KEYS}] http://deb.debian.org/debian bookworm main\n"
_DEBIAN = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libgcc-s1", "libstdc++6", "zlib1g",
    "libexpat1", "libffi8", "libbz2-1.0", "liblzma5",
)  # fmt: skip
_TAGS = ("manylinux2014", *(f"manylinux_2_{n}" for n in (17, 24, 26, 27, 28, 31, 34)))
WHEELS = {"onnxruntime": "onnxruntime", "mnn": "MNN"}
"""Packages of the peers, at the versions that are installed here."""


@dataclass(frozen=True)
class GuestCpu:
    """What Linux tells of a processor.

    Attributes:
        name: of the core.
        emulated: as what qemu 7.2 runs it: one with the same instructions.
        part: ARM's number of the core.
        l1_kb: of each first cache.
        l2_kb: of the second.
        features: instruction sets.
    """

    name: str
    emulated: str
    part: int
    l1_kb: int
    l2_kb: int
    features: str


_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
_V82 = f"{_V8} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
CPUS = {
    cpu.name: cpu
    for cpu in (
        GuestCpu("neoverse-n1", "neoverse-n1", 0xD0C, 64, 1024, f"{_V82} ssbs"),
        GuestCpu("cortex-a55", "neoverse-n1", 0xD05, 32, 256, _V82),
        GuestCpu("cortex-a72", "cortex-a72", 0xD08, 32, 1024, f"{_V8} cpuid"),
    )
}


@dataclass(frozen=True)
class Guest:
    """The folder, made.

    Attributes:
        root: of its file system.
        packages: where wheels are unpacked.
    """

    root: Path
    packages: Path

    def command(self, cpu: str, script: Path, *arguments: str, plugin: str) -> list[str]:
        """qemu's, to run a script with a plugin that counts."""
        variables = {
            "PYTHONHOME": self.root / "usr", "PYTHONPATH": self.packages, "PYTHONHASHSEED": 0, "PYTHONDONTWRITEBYTECODE": 1,
            "OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1,
        }  # fmt: skip
        given = [part for name, value in variables.items() for part in ("-E", f"{name}={value}")]
        python = str(self.root / "usr" / "bin" / "python3.11")
        return [
            "qemu-aarch64",
            "-L",
            str(self.root),
            "-cpu",
            cpu,
            *given,
            "-plugin",
            plugin,
            python,
            str(script),
            *arguments,
        ]


def versions() -> dict[str, str]:
    """Of the wheels: those installed here, so that the same peers are measured on x86 and on ARM."""
    return {package: metadata.version(package) for package in ("numpy", *WHEELS.values())}


def guest(cpu: str) -> Guest:
    """The environment for an emulated processor, made when it is first asked for.

    Raises:
        KeyError: nothing is known of that processor.
        RuntimeError: a download failed.
    """
    known = CPUS[cpu]
    key = hashlib.sha256(repr((versions(), known, Path(__file__).read_bytes())).encode()).hexdigest()[:16]
    folder = cache_folder() / f"guest-{cpu}-{key}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
            made = Path(name) / "guest"
            _debian(made / "root", Path(name))
            _wheels(made / "packages", Path(name))
            _describe(made / "root", known)
            made.rename(folder)
    return Guest(folder / "root", folder / "packages")


def _run(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} fails: {done.stderr.strip()[-1000:]}")


def _debian(root: Path, scratch: Path) -> None:
    apt = scratch / "apt"
    for part in ("lists/partial", "cache/archives/partial", "packages", "parts"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(_SOURCES)
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "root",
        "Dir::State::lists": apt / "lists", "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": apt / "parts",
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    _run(["apt-get", "-qq", *options, "update"])
    _run(["apt-get", "-qq", *options, "download", *_DEBIAN], cwd=apt / "packages")
    root.mkdir(parents=True)
    for package in sorted((apt / "packages").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)])


def _wheels(packages: Path, scratch: Path) -> None:
    downloads = scratch / "wheels"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.11",
    ]
    for tag in _TAGS:
        pip += ["--platform", f"{tag}_aarch64"]
    _run([*pip, "--dest", str(downloads), *(f"{name}=={version}" for name, version in versions().items())])
    for wheel in downloads.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)


def _describe(root: Path, cpu: GuestCpu) -> None:
    """Files in which Linux describes a machine of one core."""
    lines = {
        "processor": "0", "BogoMIPS": "50.00", "Features": cpu.features, "CPU implementer": "0x41", "CPU architecture": "8",
        "CPU variant": "0x3", "CPU part": hex(cpu.part), "CPU revision": "1",
    }  # fmt: skip
    files = {"proc/cpuinfo": "".join(f"{name}\t: {value}\n" for name, value in lines.items()) + "\n"}
    system = "sys/devices/system/cpu"
    files |= {f"{system}/{name}": "0\n" for name in ("possible", "present", "online")}
    core = {
        "core_id": "0", "physical_package_id": "0", "cluster_id": "0", "core_siblings": "1", "core_siblings_list": "0",
        "thread_siblings": "1", "thread_siblings_list": "0",
    }  # fmt: skip
    files |= {f"{system}/cpu0/topology/{name}": f"{value}\n" for name, value in core.items()}
    line, ways = 64, 4
    for index, (level, sort, kb) in enumerate(
        ((1, "Data", cpu.l1_kb), (1, "Instruction", cpu.l1_kb), (2, "Unified", cpu.l2_kb))
    ):
        cache = {
            "level": level, "type": sort, "size": f"{kb}K", "coherency_line_size": line, "ways_of_associativity": ways,
            "number_of_sets": kb * 1024 // line // ways, "shared_cpu_list": 0, "shared_cpu_map": 1,
        }  # fmt: skip
        files |= {f"{system}/cpu0/cache/index{index}/{name}": f"{value}\n" for name, value in cache.items()}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
