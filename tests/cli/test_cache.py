"""``graphopt cache`` and the options that concern it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))


def test_a_second_compilation_takes_kernels_from_the_cache(cli: Cli, model: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{i}.gopt" for i in range(3))
    assert cli("compile", model, "-o", first, "--json").json["cached"] == 0
    found = cli("compile", model, "-o", second, "--json").json
    assert found["cached"] > 0
    assert found["notes"] == []
    assert cli("compile", model, "-o", third, "--json", "--no-cache").json["cached"] == 0
    assert "kernels cached)" in cli("compile", model, "-o", second, "-j", "1").out
    assert second.read_bytes() == first.read_bytes() == third.read_bytes()


def test_show_and_clear(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert cli("cache", "--json").json["entries"] == 0
    cli("compile", model, "-o", tmp_path / "m.gopt")
    facts = cli("cache", "--json").json
    assert facts["folder"] == str(tmp_path / "cache" / "kernels")
    assert facts["entries"] > 0
    assert 0 < facts["bytes"] < facts["limit"]
    assert f"{facts['entries']} kernels" in cli("cache").out
    assert cli("cache", "--clear", "--json").json["removed"] == facts["entries"]
    assert cli("cache", "--json").json["entries"] == 0
    assert "removed 0 kernels" in cli("cache", "--clear").out


def test_no_cache_writes_nothing(cli: Cli, model: Path, tmp_path: Path) -> None:
    cli("compile", model, "-o", tmp_path / "m.gopt", "--no-cache")
    assert not (tmp_path / "cache").exists()


def test_off(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", "off")
    assert cli("compile", model, "-o", tmp_path / "m.gopt", "--json").json["cached"] == 0
    assert cli("cache").out.startswith("off")
    assert cli("cache", "--json").json["folder"] is None
    assert cli("cache", "--clear").code == 2


def test_a_cache_that_can_not_be_written_is_a_note(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "file"))
    done = cli("compile", model, "-o", tmp_path / "m.gopt")
    assert done.code == 0
    assert "note: no cache at" in done.err
