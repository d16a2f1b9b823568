"""Where work is given to."""

import socket
import sys
from types import SimpleNamespace

import pytest

from flava.core.processes import process_pool


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_is_not_there_is_told_before_ray_tries_to_reach_it(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is a stand-in here that fails the test when it is asked."""

    def init(**_: object) -> None:
        raise AssertionError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = form.format(free.getsockname()[1])
    with (
        pytest.raises(ValueError, match=f"--cluster {address}: no Ray cluster is there.*ray start"),
        process_pool(1, address),
    ):
        pass


def test_a_cluster_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[object]()
    ray = SimpleNamespace(
        init=lambda **given: asked.append(given["address"]),
        cluster_resources=lambda: {"CPU": 7.0},
        shutdown=lambda: asked.append("shutdown"),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with process_pool(1, address) as (_, processes):
            assert processes == 7
    assert asked == [address, "shutdown"]
