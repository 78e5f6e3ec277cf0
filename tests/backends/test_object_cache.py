"""The cache of compiled kernels: what goes in comes out whole, or not at all, and nothing it meets stops a compilation."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphopt.backends.build import private_folder
from graphopt.backends.build.object_cache import CacheUsage, ObjectCache, _File, default_cache
from graphopt.models.cache import atomic_file, cache_dir

KEY, OTHER = "ab" + "0" * 62, "cd" + "1" * 62


def entry_of(cache: ObjectCache) -> Path:
    (entry,) = cache.folder.glob("*/*.gobj")
    return entry


def path_of(cache: ObjectCache, key: str) -> Path:
    return cache.folder / key[:2] / f"{key[2:]}.gobj"


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "a" / "b")
    assert cache.get(KEY) is None
    cache.put(KEY, b"code")
    assert ObjectCache(tmp_path / "a" / "b").get(KEY) == b"code"
    assert cache.get(OTHER) is None
    assert cache.notes == []
    assert cache.usage() == CacheUsage(1, entry_of(cache).stat().st_size)


def test_only_its_owner_may_enter(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "c")
    cache.put(KEY, b"code")
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert entry_of(cache).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_write_to_is_not_used(tmp_path: Path, mode: int) -> None:
    ObjectCache(tmp_path / "c").put(KEY, b"code")
    (tmp_path / "c").chmod(mode)
    cache = ObjectCache(tmp_path / "c")
    assert cache.get(KEY) is None
    cache.put(OTHER, b"code")
    assert len(list(cache.folder.glob("*/*.gobj"))) == 1
    assert len(cache.notes) == 1
    assert "chmod 700" in cache.notes[0]


def test_trust_is_checked_at_every_access(tmp_path: Path) -> None:
    """Whoever may write to the folder above can put another in its place while a compilation goes on."""
    cache = ObjectCache(tmp_path / "c")
    cache.put(KEY, b"code")
    assert cache.get(KEY) == b"code"
    (tmp_path / "c").rename(tmp_path / "away")
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o777)
    (tmp_path / "away" / KEY[:2]).rename(tmp_path / "c" / KEY[:2])
    assert cache.get(KEY) is None
    cache.put(OTHER, b"code")
    assert not path_of(cache, OTHER).exists()
    assert cache.clear() == CacheUsage(0, 0)


@pytest.mark.parametrize("part", [".", KEY[:2]])
def test_symbolic_links_are_not_followed(tmp_path: Path, part: str) -> None:
    cache = ObjectCache(tmp_path / "c")
    cache.put(KEY, b"code")
    folder = cache.folder / part
    folder.rename(tmp_path / "away")
    folder.symlink_to(tmp_path / "away")
    assert cache.get(KEY) is None
    assert "symbolic link" in cache.notes[0]


@pytest.mark.parametrize("kind", ["writable", "link", "pipe", "another owner"])
def test_an_entry_that_others_could_have_written_is_not_used(tmp_path: Path, kind: str) -> None:
    cache = ObjectCache(tmp_path)
    cache.put(KEY, b"code")
    entry = entry_of(cache)
    if kind == "writable":
        entry.chmod(0o622)
    elif kind == "another owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(entry, 12345, -1)
    else:
        entry.rename(tmp_path / "away")
        if kind == "link":
            entry.symlink_to(tmp_path / "away")
        else:
            os.mkfifo(entry)
    assert cache.get(KEY) is None


@pytest.mark.parametrize("kind", ["kernel", "model"])
def test_no_umask_lets_others_write(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With umask 0, folders were made for everybody to write to, those above the cache included."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "a" / "b"))
    before = os.umask(0)
    try:
        if kind == "model":
            with atomic_file(cache_dir() / "part" / "model.onnx") as path:
                path.touch()
        else:
            ObjectCache(tmp_path / "a" / "b" / "kernels").put(KEY, b"code")
    finally:
        os.umask(before)
    made = list((tmp_path / "a").rglob("*"))
    assert len(made) >= 3
    for path in (tmp_path / "a", *made):
        assert path.stat().st_mode & 0o022 == 0, path


@pytest.mark.parametrize("at", [0, 8, 39, 40, -1])
def test_a_damaged_entry_is_dropped(tmp_path: Path, at: int) -> None:
    cache = ObjectCache(tmp_path)
    cache.put(KEY, b"some code")
    data = bytearray(entry_of(cache).read_bytes())
    data[at] ^= 1
    entry_of(cache).write_bytes(data)
    assert cache.get(KEY) is None
    assert "damaged" in cache.notes[0]
    assert cache.usage().entries == 0
    cache.put(KEY, b"some code")
    assert cache.get(KEY) == b"some code"


@pytest.mark.parametrize("size", [0, 5, 41])
def test_a_truncated_entry_is_dropped(tmp_path: Path, size: int) -> None:
    cache = ObjectCache(tmp_path)
    cache.put(KEY, b"some code")
    entry_of(cache).write_bytes(entry_of(cache).read_bytes()[:size])
    assert cache.get(KEY) is None
    assert cache.usage().entries == 0


def test_an_entry_in_the_place_of_another_is_noticed(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.put(KEY, b"code")
    cache.put(OTHER, b"other code")
    first, second = (path_of(cache, key) for key in (KEY, OTHER))
    first.write_bytes(second.read_bytes())
    assert cache.get(KEY) is None
    assert cache.get(OTHER) == b"other code"


def test_an_unwritable_place_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ObjectCache(tmp_path / "file" / "cache")
    for _ in range(2):
        cache.put(KEY, b"code")
        assert cache.get(KEY) is None
    cache.trim()
    assert len(cache.notes) == 1


def test_a_failed_write_is_a_note_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    cache = ObjectCache(tmp_path)
    monkeypatch.setattr(private_folder.os, "replace", full)
    cache.put(KEY, b"code")
    cache.put(OTHER, b"code")
    assert cache.notes == ["the cache can't be written: [Errno 28] No space left on device"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=10 * 1040)
    keys = [f"{i:064x}" for i in range(12)]
    for i, key in enumerate(keys):
        cache.put(key, bytes(1000))  # and a head of 40
        os.utime(path_of(cache, key), (i, i))
    assert cache.get(keys[0]) is not None  # in use: the newest now
    cache.trim()
    left = [key for key in keys if path_of(cache, key).exists()]
    assert left == [keys[0], *keys[5:]]
    assert cache.usage().size <= cache.limit


def test_entries_are_counted_only_when_the_limit_may_be_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each compilation looked at every entry: a third of a second for 50,000 of them."""
    counts = 0
    files = ObjectCache._files

    def counted(self: ObjectCache, *args: float) -> Iterator[_File]:
        nonlocal counts
        counts += 1
        return files(self, *args)

    monkeypatch.setattr(ObjectCache, "_files", counted)
    keys = [f"{i:064x}" for i in range(60)]
    for i, key in enumerate(keys):  # a process each
        cache = ObjectCache(tmp_path, limit=20 * 1040)
        cache.put(key, bytes(1000))  # and a head of 40
        os.utime(path_of(cache, key), (i, i))
        cache.trim()
        assert sum(path_of(cache, key).exists() for key in keys) <= 20
    # Once at first, then, from the limit on, each time that a fifth of it was written.
    assert 1 + 40 // 5 <= counts <= 2 + 40 // 4
    assert path_of(cache, keys[-1]).exists()


@pytest.mark.parametrize("kind", ["missing", "nonsense", "link", "pipe", "writable"])
def test_without_a_tally_that_can_be_trusted_entries_are_counted(tmp_path: Path, kind: str) -> None:
    cache = ObjectCache(tmp_path / "c", limit=10 * 1040)
    keys = [f"{i:064x}" for i in range(12)]
    cache.put(keys[0], bytes(1000))
    cache.trim()
    tally = cache.folder / "bytes-written"
    assert tally.read_text() == "1040\n"
    if kind == "nonsense":
        tally.write_text("many\n")
    elif kind == "writable":
        tally.chmod(0o666)
    else:
        tally.unlink()
        if kind == "link":
            (tmp_path / "other").write_text("0\n")
            tally.symlink_to(tmp_path / "other")
        elif kind == "pipe":
            os.mkfifo(tally)
    for key in keys[1:]:
        cache.put(key, bytes(1000))
    cache.trim()
    assert cache.usage() == CacheUsage(8, 8 * 1040)
    assert tally.read_text() == f"{8 * 1040}\n"
    assert not tally.is_symlink()
    assert kind != "link" or (tmp_path / "other").read_text() == "0\n"
    assert cache.notes == []


def test_what_a_dead_writer_left_is_removed(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=0)
    cache.put(KEY, b"code")
    old, new = (path_of(cache, KEY).parent / f".new-{name}" for name in ("old", "new"))
    old.write_bytes(b"half")
    os.utime(old, (1, 1))
    new.write_bytes(b"being written")
    cache.trim()
    assert not old.exists()
    assert new.exists()
    cache.clear()
    assert not new.exists()


def test_clear_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.put(KEY, b"code")
    cache.trim()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.gobj").write_text("not ours")
    (path_of(cache, KEY).parent / "readme").write_text("not ours")
    assert cache.clear().entries == 1
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.gobj", "readme"]


def test_many_writers_of_one_entry(tmp_path: Path) -> None:
    """Readers see the whole entry or none, whoever writes meanwhile."""
    wrong: list[bytes] = []

    def work() -> None:
        cache = ObjectCache(tmp_path)
        for _ in range(50):
            cache.put(KEY, b"code" * 1000)
            found = cache.get(KEY)
            if found != b"code" * 1000 or cache.notes:
                wrong.append(found or b"")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("GRAPHOPT_CACHE", raising=False)

    def folder() -> Path | None:
        cache = default_cache()
        return cache and cache.folder

    assert folder() == tmp_path / "home" / ".cache" / "graphopt" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder() == tmp_path / "xdg" / "graphopt" / "kernels"
    monkeypatch.setenv("GRAPHOPT_CACHE", "~/here")
    assert folder() == tmp_path / "home" / "here" / "kernels"
    assert cache_dir() == tmp_path / "home" / "here" / "zoo"
    monkeypatch.setenv("GRAPHOPT_CACHE", "OFF")
    assert default_cache() is None
    assert cache_dir() == tmp_path / "home" / ".cache" / "graphopt" / "zoo"  # models still need a place


def test_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    for text, limit in {"": 1 << 30, "12345": 12345, "much": 1 << 30, "-1": 0}.items():
        monkeypatch.setenv("GRAPHOPT_CACHE_LIMIT", text)
        cache = default_cache()
        assert cache is not None
        assert cache.limit == limit
