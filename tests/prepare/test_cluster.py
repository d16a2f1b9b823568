"""The same build on a cluster: needs the extra "cluster", which `make install` leaves out."""

from dataclasses import replace
from pathlib import Path

import pytest

from flava.prepare.build import build
from tests.prepare.made import contents, write_pairs

pytestmark = pytest.mark.slow
cluster_utils = pytest.importorskip("ray.cluster_utils")


def test_two_workers_of_a_cluster_write_what_one_process_writes(tmp_path: Path) -> None:
    """Two nodes of Ray with a processor each, both on this machine."""
    config = replace(write_pairs(tmp_path, 60), rows_per_shard=5)
    build(replace(config, output=tmp_path / "one"), quiet=True)
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        build(config, cluster=cluster.address, quiet=True)
    finally:
        cluster.shutdown()
    assert contents(config.output) == contents(tmp_path / "one")
