import gzip
import json
from dataclasses import replace

from flava.training.step_metrics import PARTS
from tests.tiny_runs import figures
from tests.training.trainers import same, trained, weights


def test_a_trace_holds_the_parts_of_three_updates_and_changes_no_figure(run, tmp_path):
    plain = replace(run, max_steps=9)
    watched = replace(plain, output_dir=tmp_path / "profiled", profile=True)
    expected, found = trained(plain), trained(watched)
    assert same(weights(expected), weights(found))
    assert figures(plain.output_dir) == figures(watched.output_dir)
    assert not (plain.output_dir / "trace.json.gz").exists()
    with gzip.open(watched.output_dir / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    ranges = [each for each in events if each.get("cat") == "user_annotation"]
    for part in PARTS:
        spans = [each for each in ranges if each["name"] == part]
        # An update computes its optimiser's part in two pieces.
        assert len(spans) == (6 if part == "optimizer" else 3), part
        assert all(each["dur"] >= 0 for each in spans)
    # The products of the forward pass lie within it.
    (first, *_) = (each for each in ranges if each["name"] == "forward")
    inside = [
        each["name"]
        for each in events
        if each.get("cat") == "cpu_op" and first["ts"] <= each["ts"] <= first["ts"] + first["dur"]
    ]
    assert "aten::conv2d" in inside
