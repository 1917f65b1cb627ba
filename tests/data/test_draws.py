"""Random numbers that depend on a seed and an image alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from divconq_pl.data import draws


def test_they_are_those_of_splitmix64(monkeypatch: pytest.MonkeyPatch) -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]  # from 1234567
    monkeypatch.setattr(draws, "_digest", lambda seed: 1234567)
    drawn = draws.uniform_numbers("", np.array([1, 0]), 2)
    assert drawn.tolist() == [[(n >> 11) / 2**53 for n in pair] for pair in (published[2:], published[:2])]


def test_they_are_uniform_and_unrelated_among_images_epochs_and_places() -> None:
    images = np.arange(5000)
    columns = torch.cat([draws.uniform_numbers(f"0 {epoch}", images, 4) for epoch in range(2)], dim=1).T
    assert min(kstest(column.numpy(), "uniform").pvalue for column in columns) > 0.01
    shifted = torch.cat([columns[:, :-1], columns[:, 1:]])  # also with those of the next image
    related = torch.corrcoef(shifted).fill_diagonal_(0).abs()
    assert float(related.max()) < 5 / 5000**0.5
