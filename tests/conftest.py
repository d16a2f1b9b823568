"""Before any test: one thread, shapes checked at run time, the same random numbers each time."""

import os

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Must stand before the first import of flava; pytest imports this file before any test.
install_import_hook("flava", "beartype.beartype")

# The tensors of the tests are so small that a second thread costs more than it brings. The
# variable is for the processes that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples each time, and no deadline: a busy machine is no defect.
settings.register_profile("flava", derandomize=True, deadline=None)
settings.load_profile("flava")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
