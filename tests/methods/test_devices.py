"""Many devices: the trajectory of one, nothing gathered or recompiled, and the memory of docs/.

The facts come from devices_child.py, which runs once, in a process with eight virtual devices.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys

import pytest
from problems import processes

TESTS = pathlib.Path(__file__).parents[1]
EIGHT = "--xla_force_host_platform_device_count=8"
SHARDS = {"data": 1, "tensor": 4, "fsdp": 8}
# The layers of devices_child.py: 32-128-16 in float64.
SHAPES = [(32, 128), (128,), (128, 16), (16,)]
PARAMS = 8 * (32 * 128 + 128 + 128 * 16 + 16)
EXAMPLE = 8 * (32 + 16)
CASES = [
    ("data", "hd"),
    ("data", "marthe"),
    ("data", "lrs_opt"),
    ("tensor", "hd"),
    ("tensor", "marthe"),
    ("tensor", "lrs_opt"),
    ("fsdp", "hd"),
    ("fsdp", "marthe"),
]


@pytest.fixture(scope="module")
def report():
    command = [sys.executable, "-W", "error", "-m", "problems.devices_child"]
    environment = processes.environment(EIGHT)
    done = subprocess.run(
        command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def counted(facts, scalars=True):
    """How often each (kind, sorted shape) occurs; XLA transposes as it likes."""
    found = ((kind, tuple(sorted(shape))) for kind, shape in facts["collectives"])
    return collections.Counter(pair for pair in found if scalars or pair[1])


@pytest.mark.parametrize(
    ("layout", "method"),
    [
        *CASES,
        ("data", "auto"),
        ("tensor", "auto"),
        ("explicit", "hd"),
        ("explicit", "marthe"),
        ("explicit", "auto"),
    ],
)
def test_the_trajectory_is_that_of_one_device(report, layout, method):
    assert report["travel"][method] > 1e-2  # there is a trajectory to compare
    assert report[layout][method]["difference"] < 1e-12


@pytest.mark.parametrize(("layout", "method"), CASES)
def test_one_program_serves_all_steps_and_the_state_stays_where_it_is(report, layout, method):
    # The child calls one compiled program, which refuses arguments in any other sharding.
    assert report[layout][method]["moved"] == []


@pytest.mark.parametrize("method", ["hd", "marthe"])
def test_data_parallel_sums_gradients_and_nothing_else(report, method):
    # Of the gradient, the validation gradient and the Hessian-vector product, one sum each. A
    # layer whose input has a tangent contributes two products, which XLA on CPU sums apart.
    sums = {"hd": 2, "marthe": 3}[method]
    expected = collections.Counter({("all-reduce", tuple(sorted(shape))): sums for shape in SHAPES})
    if method == "marthe":
        expected["all-reduce", (16, 128)] += 1
    assert counted(report["data"][method]) == expected
    if method == "marthe":
        assert counted(report["data"]["floor"]) == expected


def test_divided_layers_need_what_the_model_needs_and_a_few_scalars(report):
    """Beside the floor (plain step, validation gradient, product), only sums of inner products."""
    found, floor = (report["tensor"][name] for name in ("marthe", "floor"))
    assert counted(found, scalars=False) == counted(floor)
    assert {kind for kind, _ in counted(floor)} == {"all-reduce"}
    # Three inner products, of the three arrays that are divided.
    assert 0 < counted(found)["all-reduce", ()] <= 9
    hd = counted(report["tensor"]["hd"])
    assert 0 < hd.pop(("all-reduce", ())) <= 4
    assert hd <= counted(floor)


def test_where_axes_are_explicit_nothing_is_gathered(report):
    kinds = {kind for kind, _ in counted(report["explicit"]["marthe"])}
    assert kinds == {"all-reduce"}


def test_divided_parameters_are_gathered_as_often_as_by_the_floor(report):
    """The weights for the network, Z for the product; no state for the inner products."""

    def gathered(name):
        shapes = {("all-gather", tuple(sorted(shape))) for shape in SHAPES}
        found = counted(report["fsdp"][name])
        return {pair: found[pair] for pair in shapes}

    assert gathered("marthe") == gathered("floor")
    assert {pair: 2 * n for pair, n in gathered("hd").items()} == gathered("floor")


@pytest.mark.parametrize("layout", ["data", "tensor"])
def test_lrs_opt_gathers_nothing(report, layout):
    assert {kind for kind, _ in counted(report[layout]["lrs_opt"])} == {"all-reduce"}


# Copies of the parameters in docs/devices.md: w, the inner state, Z for both, B where μ adapts.
COPIES = {"hd": 1 + 1 + 1, "marthe": 1 + 2 + (1 + 2) + 1, "lrs_opt": 1}
OUTPUTS = {"hd": 3, "marthe": 7, "lrs_opt": 0}


def divided(layout):
    """Bytes of the parameters on one device; the last bias of "tensor" is everywhere."""
    whole = 8 * 16 if layout == "tensor" else 0
    return (PARAMS - whole) // SHARDS[layout] + whole


def minibatch(layout):
    return EXAMPLE * 40 // (2 if layout == "tensor" else 8)


@pytest.mark.parametrize(("layout", "method"), CASES)
def test_memory_of_parameters_and_state_is_the_formula(report, layout, method):
    facts = report[layout][method]
    of_schedule = 8 * 2 if method == "lrs_opt" else 0
    minibatches = minibatch(layout) * (2 if method != "lrs_opt" else 2 + 1)
    # The last hypergradient is kept to be looked at, and no step reads it.
    unread = 0 if method == "lrs_opt" else 8
    arrays = COPIES[method] * divided(layout) + of_schedule + minibatches
    assert facts["arguments"] == arrays + facts["scalars"] - unread
    pointers = 8 * facts["leaves"]  # of the tuple of results
    returned = OUTPUTS[method] * divided(layout) + of_schedule + facts["scalars"]
    assert facts["outputs"] == returned + pointers


# The bounds of docs/devices.md, in copies of a device's parameters; and of all of them, where they
# are gathered for the network.
TEMPORARIES = {"hd": (2, 3), "marthe": (3, 4), "lrs_opt": (2 * (2 + 2 * 1 + 1), 0)}


@pytest.mark.parametrize(("layout", "method"), CASES)
def test_temporaries_are_within_the_bound(report, layout, method):
    copies, gathered = TEMPORARIES[method]
    activations = 8 * 2 * (32 + 128 + 16) * minibatch(layout) // EXAMPLE
    chunk = 1 if method == "lrs_opt" else 0  # T = 2
    bound = copies * divided(layout) + 4 * (chunk + 1) * activations
    if layout == "fsdp":
        bound += gathered * PARAMS
    assert report[layout][method]["temporaries"] <= bound


PAGE = TESTS.parent / "docs" / "devices.md"
# A step once more, as jax.jit would run it: with everything where it is, nothing is compiled.
AGAIN = """
batches = draw(0), draw(1)
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
train_step(divided_params, state, *batches)
assert not [name for name in compiled if "compile" in name], compiled
"""


def test_every_python_block_of_the_page_runs_on_eight_devices():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join([*blocks, AGAIN])],
        env=processes.environment(EIGHT),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rates = re.findall(r"learning rate ([\d.]+)", done.stdout)
    assert len(rates) == 5
    assert rates[0] == rates[1] != "0.0100"
    assert rates[2] == rates[3] == rates[4] != "0.0100"


def processes_differ(count, methods):
    """How far several processes are from one, by method; the script fails above rounding."""
    script = TESTS.parent / "scripts" / "checks" / "distributed_check.py"
    done = subprocess.run(
        [sys.executable, str(script), "--processes", str(count), "--methods", *methods],
        env=processes.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split()[0]: float(line.split()[-1]) for line in done.stdout.splitlines()}


def test_two_processes_are_one():
    differences = processes_differ(2, ["MARTHE"])
    assert differences.keys() == {"MARTHE"}
    assert differences["MARTHE"] < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_are_one(count):
    differences = processes_differ(count, ["HD", "MARTHE", "LRS-OPT"])
    assert differences.keys() == {"HD", "MARTHE", "LRS-OPT"}
    assert max(differences.values()) < 1e-12
