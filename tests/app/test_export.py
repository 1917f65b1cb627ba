"""What an exported file holds, and that it can be read anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from divconq_pl.app.export import export_embeddings
from divconq_pl.data import FileDataset
from divconq_pl.errors import InputError

CLASSES = ["Ångström", "b", "a long name"]
QUERY = FileDataset(["q/0.png", "q/ü.png"], [2, 0], CLASSES)
GALLERY = FileDataset(["g/0.png", "g/1.png", "g/22222.png"], [0, 1, 2], CLASSES)
ROWS = torch.nn.functional.normalize(torch.arange(1.0, 21).view(5, 4))
EXPECTED = {
    "label": [2, 0, 0, 1, 2],
    "path": ["q/0.png", "q/ü.png", "g/0.png", "g/1.png", "g/22222.png"],
    "part": ["query"] * 2 + ["gallery"] * 3,
}


def test_numpy_reads_it_without_unpickling(tmp_path: Path):
    path = export_embeddings(tmp_path / "new" / "file.npz", [ROWS[:2], ROWS[2:]], [QUERY, GALLERY])
    with np.load(path, allow_pickle=False) as file:
        found = dict(file)
    assert found["embeddings"].dtype == np.float32
    assert np.array_equal(found["embeddings"], ROWS)
    assert found["labels"].tolist() == EXPECTED["label"]
    assert found["classes"].tolist() == CLASSES
    assert found["paths"].tolist() == EXPECTED["path"]
    assert found["part"].tolist() == EXPECTED["part"]


def test_parquet_has_one_row_per_image(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = export_embeddings(tmp_path / "file.parquet", [ROWS[:2], ROWS[2:]], [QUERY, GALLERY])
    table = parquet.read_table(path)
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[4]"
    found = table.to_pydict()
    assert np.array_equal(np.array(found.pop("embedding"), dtype=np.float32), ROWS)
    assert found.pop("class") == [CLASSES[label] for label in EXPECTED["label"]]
    assert found == EXPECTED
    alone = parquet.read_table(export_embeddings(tmp_path / "alone.parquet", [ROWS[:2]], [QUERY]))
    assert alone.column_names == ["embedding", "label", "class", "path"]


def test_fewer_embeddings_than_images_are_the_first(tmp_path: Path):
    path = export_embeddings(tmp_path / "file.npz", [ROWS[:2]], [GALLERY])
    with np.load(path) as file:
        assert file["paths"].tolist() == ["g/0.png", "g/1.png"]
        assert file["labels"].tolist() == [0, 1]


def test_nothing_is_overwritten_and_nothing_is_left_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file.npz").write_text("precious")
    with pytest.raises(InputError, match=r"file\.npz' exists, and nothing is overwritten"):
        export_embeddings(tmp_path / "file.npz", [ROWS[:2]], [QUERY])
    assert (tmp_path / "file.npz").read_text() == "precious"

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        export_embeddings(tmp_path / "other.npz", [ROWS[:2]], [QUERY])
    assert [path.name for path in tmp_path.iterdir()] == ["file.npz"]
