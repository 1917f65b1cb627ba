"""What several of these tests look at."""

from types import SimpleNamespace

import pytest
from stops import fit


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """A run that was never stopped: folder of all its checkpoints, module, callback. Look at it, do not change it."""
    folder = tmp_path_factory.mktemp("whole_run")
    module, divide = fit(folder)
    return SimpleNamespace(folder=folder, module=module, divide=divide)
