"""Forms of calibration data, read piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.driver.calibration import calibration_feeds
from graphopt.driver.calibration_source import named_source, pieces
from graphopt.errors import UserError
from graphopt.ir.dtypes import DType
from graphopt.runtime.signature import Signature, TensorSpec

TWO = Signature(tuple(TensorSpec(n, DType.f32, (1, 2)) for n in "ab"), ())
ROW = np.zeros((1, 2), np.float32)


def test_feeds_come_one_by_one() -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield {"a": ROW, "b": ROW + taken}

    feeds = calibration_feeds(endless(), TWO)
    assert [float(next(feeds)["b"][0, 0]) for _ in range(3)] == [1, 2, 3]
    assert taken == 3
    assert len(list(calibration_feeds(endless(), TWO, limit=5))) == 5


def test_a_file_for_each_input(tmp_path: Path) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.full((4, 2), ord(name), np.float32))
    feeds = list(calibration_feeds(tmp_path, TWO))
    assert [(float(f["a"][0, 0]), float(f["b"][0, 0])) for f in feeds] == [(97, 98)] * 4
    (tmp_path / "b.npy").rename(tmp_path / "c.npy")
    with pytest.raises(UserError, match=r"holds \.npy files, and the model has 2 inputs"):
        list(calibration_feeds(tmp_path, TWO))


def test_datasets_give_inputs_in_order() -> None:
    class Dataset:
        def get_inference_data(self) -> Any:
            return [(ROW, ROW + 1), [ROW, ROW + 2], {"a": ROW, "b": ROW + 3}]

    assert [float(f["b"][0, 0]) for f in calibration_feeds(Dataset(), TWO)] == [1, 2, 3]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asarray([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "a.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for name in ("a.npy", "a.pkl"):
        with pytest.raises(UserError, match=r"is no \.np[yz] file of"):
            list(pieces(tmp_path / name, ["a"]))


def test_names_of_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calib_of_mine.py").write_text(
        "class A:\n    @staticmethod\n    def load():\n        return [{'a': 1}]\n"
    )
    assert list(pieces(named_source("calib_of_mine:A.load"), ["a"])) == [("calibration sample 0", {"a": 1})]
    (tmp_path / "bad_calib.py").write_text("def load():\n    yield {'a': 1}\n    raise ZeroDivisionError('oh')\n")
    found = pieces(named_source("bad_calib:load"), ["a"])
    assert next(found)[1] == {"a": 1}
    with pytest.raises(UserError, match="bad_calib:load failed with ZeroDivisionError: oh"):
        next(found)
    assert named_source("folder/data.npz") == Path("folder/data.npz")
    with pytest.raises(UserError, match="can't be imported"):
        named_source("calib_of_mine:B")
