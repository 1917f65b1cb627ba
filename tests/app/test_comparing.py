import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from divconq_pl.app.comparing import compare, find_differing, main
from divconq_pl.app.runs import write_queries
from divconq_pl.errors import InputError
from divconq_pl.metrics.retrieval import Answers


@pytest.fixture
def make_run(tmp_path):
    def make_run(name, hits, classes=8, **config):
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        data = {"_target_": "divconq_pl.data.RetrievalDataModule"}
        data["dataset"] = {"_target_": "divconq_pl.data.Glyphs", "num_classes": 12, "size": 16, "images_per_class": 4}
        OmegaConf.save({"data": data, **config}, folder / ".hydra" / "config.yaml")
        results = {"test/recall_at_1": float(np.mean(hits)), "test/map_at_r": 0.1, "overrides": [], "name": name}
        (folder / "results.json").write_text(json.dumps(results))
        notes = [{"epoch": e, "metrics": {"val/recall_at_1": 0.5 + e / 10}} for e in range(3)]
        (folder / "notes.json").write_text(json.dumps({"epochs": notes, "divisions": []}))
        hits = torch.tensor(hits, dtype=torch.float32)
        answers = Answers({"recall_at_1": hits, "map_at_r": hits / 2}, torch.ones(len(hits)), torch.zeros(len(hits), 1))
        write_queries(folder, answers, np.arange(len(hits)) % classes)
        return folder

    return make_run


def test_runs_are_compared_image_by_image(make_run, tmp_path, capsys):
    one, other = make_run("one", [1, 0, 0, 0] * 2, seed=0), make_run("<script>", [1, 1, 1, 0] * 2, seed=1)
    main([str(one), str(other), "--to", str(tmp_path / "page.html")])
    out = capsys.readouterr().out
    assert "<script> against one: R@1 +50.0 points, 95 % interval over 8 test classes" in out
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt; right, one wrong: 4" in page
    assert "one right, &lt;script&gt; wrong: 0" in page
    assert page.count("data:image/jpeg") == 4
    assert page.count("<polyline") == 2
    assert "<code>seed</code></td><td>0</td><td>1</td>" in page


def test_runs_on_other_images_have_no_paired_difference(make_run, tmp_path, capsys):
    compare([make_run("one", [1, 0]), make_run("two", [1, 0, 0])], tmp_path / "page.html")
    assert "with other test images than the first, have no paired difference" in capsys.readouterr().out
    assert "no test images in common" in (tmp_path / "page.html").read_text()


def test_settings_that_differ_are_found_however_deep():
    assert find_differing([{"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}]) == {"a.c": [2, 3]}


def test_what_cannot_be_compared_is_said_in_one_line(make_run, tmp_path, capsys):
    one = make_run("one", [1, 0])
    with pytest.raises(InputError, match="1 run cannot be compared"):
        compare([one], tmp_path / "page.html")
    with pytest.raises(InputError, match="named twice"):
        compare([one, one], tmp_path / "page.html")
    with pytest.raises(SystemExit) as stop:
        main([str(one), str(tmp_path / "nowhere")])
    assert stop.value.code == 2
    assert "error: '" + str(tmp_path / "nowhere") + "' is no folder" in capsys.readouterr().err


def test_the_folder_of_a_sweep_stands_for_a_table_of_its_settings(make_run, tmp_path, capsys):
    for name, hits in (("a/0", [1, 0]), ("a/1", [1, 1]), ("b/0", [0, 0])):
        make_run(name, hits)
    main([str(tmp_path / "a")])
    assert "75.00 ±35.36" in capsys.readouterr().out
    assert "75.00 ±35.36" in (tmp_path / "a" / "sweep.md").read_text()
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--to", str(tmp_path / "both")])
    assert "50.00 ±50.00" in capsys.readouterr().out
    assert (tmp_path / "both" / "sweep.csv").is_file()
