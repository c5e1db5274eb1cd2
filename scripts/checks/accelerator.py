"""What should be run on a GPU or a TPU before a release: on whatever devices JAX finds there.

Three parts, each a process of its own, which all have to succeed: 50-step trajectories of every
algorithm against float64 NumPy (TPUs emulate float64); the benchmark of steps; and `hyperlr mnist`
with LRS-OPT for as many iterations as asked.

    python scripts/checks/accelerator.py --iterations 200 --out accelerator
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DEVICES = "import jax; print('JAX', jax.__version__, 'on', *jax.devices())"


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The parts by name, as arguments of the Python that runs this."""
    out = arguments.out.resolve()
    benchmark = ["scripts/benchmarks/online.py", "--rounds", str(arguments.rounds)]
    mnist = ["-m", "hyperlr", "mnist", "--preset", arguments.preset]
    if arguments.iterations:
        mnist += ["--iterations", str(arguments.iterations)]
    return {
        "trajectories": ["-m", "pytest", "-n", "0", "-q", "tests/methods/test_trajectories.py"],
        "benchmark": [*benchmark, "--peers", "--json", str(out / "benchmark.json")],
        "mnist": [*mnist, "--out", str(out / "mnist")],
    }


def main() -> int:
    """Runs the parts one after another; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="rounds of timing (default 100)")
    parser.add_argument("--preset", default="quick", help="of hyperlr mnist (default quick)")
    parser.add_argument("--iterations", type=int, help="of LRS-OPT, in place of the preset's")
    parser.add_argument("--only", choices=("trajectories", "benchmark", "mnist"), nargs="+")
    parser.add_argument("--out", type=Path, default=Path("results/accelerator"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", _DEVICES], check=True)
    failed = []
    for name, command in commands(arguments).items():
        if arguments.only and name not in arguments.only:
            continue
        print(f"\n{name}: python {' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
            failed.append(name)
    print("\nfailed: " + ", ".join(failed) if failed else "\nall passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
