"""What the tests share: quiet trainers, a small network and data with latent factors."""

import warnings

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Keep small tensors from being spread over threads, which is slower and competes with workers."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded(tmp_path, monkeypatch):
    """Start every test from the same random state, with a cache folder of its own."""
    torch.manual_seed(0)
    monkeypatch.setenv("DIVCONQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield
    assert not torch.is_autocast_enabled("cpu"), "a test left mixed precision switched on for those after it"
