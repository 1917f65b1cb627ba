import logging
import sys
import warnings

import pytest
from terminals import run_in_terminal, screen

from divconq_pl.app.console import Terminal, fold, log_warnings, say

LINE = (
    "division 4 | epoch 8 | 4 clusters: 1466 2412 1595 927 images, 352 377 399 215 classes | 979 images moved, 63 lone "
    "images left out, NMI 0.67, 30 % of positive pairs kept | features 5.7 s, k-means 0.2 s, rest 0.02 s"
)
BESIDE_A_BAR = f"""
import logging, time
from tqdm import tqdm
from divconq_pl.app.console import Terminal
logging.basicConfig(level="INFO", handlers=[Terminal()])
bar = tqdm(total=5, file=__import__("sys").stdout)
for number in range(5):
    bar.update()
    logging.info({LINE!r})
bar.close()
"""


@pytest.fixture
def logged(monkeypatch):
    """A root logger with a terminal and a list."""
    records = []
    keeper = logging.Handler()
    keeper.emit = lambda record: records.append(record.getMessage())
    monkeypatch.setattr(logging.root, "handlers", [Terminal(), keeper])
    monkeypatch.setattr(logging.root, "level", logging.INFO)
    return records


@pytest.mark.parametrize("columns", [30, 80, 120, 200])
def test_a_folded_line_fits_and_loses_no_word(columns):
    folded = fold(LINE, columns).splitlines()
    assert max(map(len, folded)) < columns
    assert " ".join(folded).split() == LINE.split()


def test_a_line_that_fits_stays_as_it_is():
    assert fold("a | b\n   c", 80) == "a | b\n   c"


@pytest.mark.parametrize("columns", [80, 200])
def test_the_progress_bar_erases_no_line(columns):
    code, lines = run_in_terminal([sys.executable, "-c", BESIDE_A_BAR], columns)
    assert code == 0
    text = [line for line in lines if line and "it/s" not in line]
    assert "\n".join(text) == "\n".join([fold(LINE, columns)] * 5)
    assert "5/5" in lines[-2] + lines[-1]


def test_what_is_printed_is_logged_and_not_shown_twice(logged, capsys):
    say("a table")
    captured = capsys.readouterr()
    assert captured.out == "a table\n"
    assert captured.err == ""
    assert logged == ["a table"]


def test_warnings_are_logged_and_named_on_the_terminal(logged, capsys):
    with warnings.catch_warnings(), log_warnings():
        warnings.simplefilter("always")
        warnings.warn("the images are odd", stacklevel=1)
        warnings.warn("old", FutureWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: the images are odd\n"
    assert logged[0] == "the images are odd"
    assert logged[1].endswith(": old")


def test_advertisements_are_left_to_the_log_file(logged, capsys):
    logging.info("💡 Tip: try something else")
    assert capsys.readouterr().err == ""
    assert logged == ["💡 Tip: try something else"]


def test_the_screen_of_the_tests_obeys_returns_wraps_and_moves_up():
    assert screen("abcdef\rxy\nnext\x1b[A\rz", 4) == ["abcd", "zy", "next"]
