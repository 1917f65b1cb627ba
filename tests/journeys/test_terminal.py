"""A run on a real terminal: every line stays on the screen, and everything is in its log file."""

import os
import re
import sys
from pathlib import Path

import pytest
from programs import ROOT
from terminals import run_in_terminal

import divconq_pl

RUN = ["dataset=glyphs", "dataset.num_classes=60", "dataset.size=16", "data.batch_size=16", "trainer.max_epochs=4"]
RUN += ["divide.every_n_epochs=1", "hydra.run.dir=run"]


@pytest.mark.slow
def test_every_line_is_on_the_screen_and_in_the_log(tmp_path):
    source = str(Path(divconq_pl.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *RUN]
    code, lines = run_in_terminal(command, columns=80, cwd=tmp_path, env=environment)
    assert code == 0, lines
    seen, log = " ".join(" ".join(lines).split()), (tmp_path / "run" / "train.log").read_text()
    logged = re.findall(r"\] - (division \d .*)", log)
    assert len(logged) == 3
    for line in logged:
        assert line in seen
    assert re.search(r"epoch 3/4, merged, 4 clusters: .*loss=", seen)
    for said in ("training    ", "schedule    ", "expected time: about ", "Unseen classes, ", "MAP@R", "R@1"):
        assert " ".join(said.split()) in seen
        assert said in log
    question = "Did dividing help? No run of the plain loss with these settings is known here; to find out: python "
    assert question in log
    assert question.replace(" ", "") in seen.replace(" ", ""), "a long line is broken by the terminal itself"
    assert "faiss" not in log
    assert "Tip" not in seen
