import json
import re

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from divconq_pl.app.runs import Run, compare_queries, find_plain_run, judge, write_queries
from divconq_pl.errors import InputError
from divconq_pl.metrics.retrieval import Answers

DIVIDED = {"_target_": "divconq_pl.DivideConquerCallback", "split_depth": 2}


@pytest.fixture
def make_run(tmp_path):
    """Leave the folder of a run."""

    def make_run(name, hits, *, divide=None, seed=0, labels=None, **config):
        folder = tmp_path / "outputs" / name
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save({"divide": divide, "seed": seed, "loss": "margin", **config}, folder / ".hydra" / "config.yaml")
        overrides = ["loss=margin", f"divide={'flat' if divide else 'none'}"]
        results = {"test/recall_at_1": float(np.nanmean(hits)), "overrides": overrides, "name": name}
        (folder / "results.json").write_text(json.dumps(results))
        hits = torch.tensor(hits, dtype=torch.float32)
        relevant = (~hits.isnan()).long()
        answers = Answers({"recall_at_1": hits.nan_to_num()}, relevant, torch.zeros(len(hits), 1, dtype=torch.int64))
        write_queries(folder, answers, np.arange(len(hits)) // 2 if labels is None else np.asarray(labels))
        return folder

    return make_run


def test_what_queries_were_answered_is_kept_and_unanswerable_ones_are_nan(make_run):
    queries = Run.read(make_run("a/0", [1.0, 0.0, float("nan"), 1.0])).queries()
    np.testing.assert_array_equal(queries["recall_at_1"], [1, 0, np.nan, 1])
    np.testing.assert_array_equal(queries["labels"], [0, 0, 1, 1])


def test_the_plain_run_is_found_in_the_same_and_in_other_folders(make_run):
    divided = Run.read(make_run("today/10", [1, 1, 1, 1], divide=DIVIDED))
    assert find_plain_run(divided) is None
    elsewhere = make_run("yesterday/9", [1, 0, 1, 0])
    assert find_plain_run(divided).folder == elsewhere
    make_run("today/11", [1, 0, 1, 0], seed=1)
    assert find_plain_run(divided).folder == elsewhere, "the same seed comes first"
    make_run("today/12", [1, 0, 1, 0], loss="triplet")
    make_run("today/13", [1, 0, 1, 0], divide=DIVIDED)
    assert find_plain_run(divided).folder == elsewhere
    assert find_plain_run(Run.read(elsewhere)) is None, "a plain run is compared with none"


def test_a_run_that_is_not_finished_is_no_plain_run(make_run):
    divided = Run.read(make_run("a/0", [1, 1], divide=DIVIDED))
    (make_run("a/1", [1, 0]) / "results.json").write_text("{")
    assert find_plain_run(divided) is None


def test_the_question_is_answered_with_both_figures_and_an_interval(make_run, monkeypatch):
    plain = make_run("a/0", [1, 0, 1, 0, 0, 0])
    run = Run.read(make_run("a/1", [1, 1, 1, 0, 1, 1], divide=DIVIDED))
    monkeypatch.chdir(plain.parents[1])
    assert "that of the plain loss 33.3 (a/0)" in judge(run, find_plain_run(run), "")
    monkeypatch.chdir(run.folder)
    said = judge(run, find_plain_run(run), "")
    assert f"R@1 is 83.3 and that of the plain loss 33.3 ({plain.resolve()})" in said
    assert "+50.0 points, 95 % interval over 3 test classes" in said


def test_an_epoch_before_the_first_division_tells_nothing_of_dividing(make_run):
    plain, folder = make_run("a/0", [1, 0]), make_run("a/1", [1, 0], divide=DIVIDED)
    results = json.loads((folder / "results.json").read_text())
    for tested, said in ((1, "but tested is epoch 1, and the first division came in epoch 2$"), (2, "try seed=0,1,2$")):
        (folder / "results.json").write_text(json.dumps({**results, "epoch": tested, "division/first_epoch": 2}))
        assert re.search(said, judge(Run.read(folder), Run.read(plain), ""))


def test_without_a_plain_run_the_command_is_given_that_makes_one(make_run):
    said = judge(Run.read(make_run("a/1", [1, 1], divide=DIVIDED)), None, "divconq-train --config-dir=my")
    assert said.endswith("to find out: divconq-train --config-dir=my loss=margin divide=none")
    said = judge(Run.read(make_run("b/1", [1, 1])), None, "python train.py")
    assert said.endswith("to compare: python train.py -m divide=none,hierarchical loss=margin")


def test_runs_on_other_images_are_not_compared_query_by_query(make_run):
    one, other = make_run("a/0", [1, 1]), make_run("a/1", [1, 1], labels=[0, 1])
    assert compare_queries(Run.read(one), Run.read(other)) is None


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no folder of a finished run: its results.json"):
        Run.read(tmp_path)
