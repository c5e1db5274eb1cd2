"""Data parallelism written by hand: all replicas have the rate of one device with the batch."""

import json
import pathlib
import subprocess
import sys

import numpy as np
from problems import processes

TESTS = pathlib.Path(__file__).parents[1]


def test_replicas_have_the_rate_of_one_device():
    environment = processes.environment("--xla_force_host_platform_device_count=4")
    done = subprocess.run(
        [sys.executable, "-m", "problems.replicas_child"],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    alone = report.pop("one device")
    assert abs(alone - 0.02) > 0.01
    taken_back = report.pop("one device, taken back")
    assert report.pop("rollbacks") > 0
    assert taken_back < 2.0
    assert len(report) == 11
    for name, found in report.items():
        expected = taken_back if name.startswith("taken back") else alone
        np.testing.assert_allclose(found["rates"], expected, rtol=1e-4, err_msg=name)
        assert found["drift"] == 0.0, name
