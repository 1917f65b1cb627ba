"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tour.ipynb"


@pytest.mark.filterwarnings("ignore:split_depth=2 would be reached")
def test_every_cell_of_the_notebook_runs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    first, *others = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    small = first.replace("OBJECTS, EPOCHS = 800, 12", "OBJECTS, EPOCHS = 40, 4")
    assert small != first
    names = {"__name__": "notebook"}
    for code in (small, *others):
        exec(compile(code, NOTEBOOK.name, "exec"), names)
    assert names["counts"].sum() > 0
    assert 0 < names["divided_recall"] <= 1
    assert len(plt.get_fignums()) == 4  # the objects, the clusters, and nearest images after either training
    plt.close("all")
