"""Compare the training rates of the dltrain command, a bare PyTorch loop and other trainers.

Each workload is trained in several rounds; in a round, all systems train it one after another, each in its own process
and pseudo-terminal. The time between optimizer steps is measured after a warm-up, without checkpoints and evaluation;
only fastai validates, on one batch per epoch. Ratios to the bare loop are computed within a round.
"""

import argparse
import json
import os
import platform
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from child import GROWTH, SYSTEMS
from peers import missing
from workloads import WORKLOADS, prepare

QUIET = 0.5  # load average above which timings are unreliable
TOLERANCE = 0.02  # allowed relative slowdown of a late step
MAX_GROWTH_MB = 1.0  # allowed growth of memory between an early and a late step
Measured = dict[str, Any]
Rounds = dict[tuple[str, str], list[Measured]]


def main() -> int:
    options = parse_options()
    load = os.getloadavg()[0]
    if load > QUIET:
        print(f"The load average is {load:.2f}, above {QUIET}: other processes are running.", file=sys.stderr)
        if not options.busy:
            print("Wait until they end, or pass --busy for less reliable numbers.", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return check_growth(folder, options) if options.growth else compare(folder, options, load)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=names(WORKLOADS), default=list(WORKLOADS), help=",".join(WORKLOADS))
    parser.add_argument("--systems", type=names(SYSTEMS), default=list(SYSTEMS), help=",".join(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps per run, at least 4 (default: set by the workload)")
    parser.add_argument("--threads", type=int, help="value of OMP_NUM_THREADS and MKL_NUM_THREADS (default: unchanged)")
    parser.add_argument("--json", type=Path, default=Path("outputs/bench.json"))
    growth = (
        "compare time and memory of an early and a late step of mlp; ignores --workloads, --systems, --rounds, --steps"
    )
    parser.add_argument("--growth", action="store_true", help=growth)
    parser.add_argument("--busy", action="store_true", help="measure despite a high load average")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")
    if options.steps is not None and options.steps < 4:
        parser.error(f"--steps: expected at least 4, got {options.steps}")
    return options


def names(known: Sequence[str] | dict[str, Any]) -> Any:
    """Return a function that parses comma-separated names and rejects unknown ones."""

    def split(text: str) -> list[str]:
        if wrong := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"expected one of {','.join(known)}, got {wrong[0]}")
        return text.split(",")

    return split


def compare(folder: Path, options: argparse.Namespace, load: float) -> int:
    """Run all rounds, print the table, write the JSON file, and return the exit code."""
    for system in options.systems:
        if lacking := missing(system):
            print(f"{system}: skipped, not installed: {', '.join(lacking)}")
    rounds: Rounds = {}
    for name in options.workloads:
        prepare(folder, name)
        for number in range(options.rounds):
            for system in runnable_systems(options.systems, name):
                show(f"{name} round {number + 1}/{options.rounds} {system}")
                steps = options.steps or WORKLOADS[name].steps
                rounds.setdefault((name, system), []).append(run_system(system, name, folder, steps, options.threads))
    show("")
    rows = [summarize(rounds, name, system) for name, system in rounds]
    print_table(rows)
    warn(rows)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"machine": machine(options, load), "rows": rows}, indent=2) + "\n")
    print(f"written to {options.json}")
    return int(any("error" in row for row in rows))


def runnable_systems(systems: list[str], name: str) -> Iterator[str]:
    """Yield the systems that are installed and can train this workload."""
    workload = WORKLOADS[name]
    for system in systems:
        compared = workload.example is None or system in ("dltrain", "bare", "dltrain-bf16")
        if compared and not missing(system) and (workload.bf16 or "bf16" not in system):
            yield system


def run_system(system: str, name: str, folder: Path, steps: int, threads: int | None) -> Measured:
    """Run one system in a new process; return its measurements or its error."""
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    script = str(Path(__file__).with_name("child.py"))
    # Keras uses torch, GPUs are disabled, and Hugging Face's libraries do not access the network.
    env = {**os.environ, "KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    env |= {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    words = [sys.executable, script, system, name, str(folder), str(steps), str(time.time()), str(result)]
    tail = run_in_terminal(words, env)
    return json.loads(result.read_text()) if result.exists() else {"error": tail}


def run_in_terminal(words: list[str], env: dict[str, str]) -> str:
    """Run a command in a pseudo-terminal, so that it draws its progress; return the end of its output."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    tail = b""
    try:
        while written := os.read(controller, 2**16):
            tail = (tail + written)[-2000:]
    except OSError:
        pass  # Linux raises OSError after the process has closed the terminal
    finally:
        os.close(controller)
        process.wait()
    return tail.decode(errors="replace")


def summarize(rounds: Rounds, name: str, system: str) -> Measured:
    """Return one row: medians over the rounds, and ratios with their range."""
    row: Measured = {"workload": name, "system": system}
    done = [measured for measured in rounds[name, system] if "error" not in measured]
    if len(done) < len(rounds[name, system]):
        return row | {"error": next(m["error"] for m in rounds[name, system] if "error" in m)}
    for key in done[0].keys() - {"growth"}:
        row[key] = statistics.median(measured[key] for measured in done)
    row["parameters"] = int(row["parameters"])
    for reference in ("bare", "bare-bf16"):
        others = rounds.get((name, reference), [])
        if others and not any("error" in other for other in others):
            pairs = zip(others, done, strict=True)
            ratios = [other["ms_per_step"] / mine["ms_per_step"] for other, mine in pairs]
            row[f"times_{reference}"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return row | {"rounds_ms_per_step": [measured["ms_per_step"] for measured in done]}


def print_table(rows: list[Measured]) -> None:
    heads = ["workload", "system", "ms/step", "samples/s", "x bare (min-max)", "x bare-bf16", "MiB", "first step s"]
    print(" ".join(f"{head:>{width}}" for head, width in zip(heads, WIDTHS, strict=True)))
    for row in rows:
        print(" ".join(f"{cell:>{width}}" for cell, width in zip(cells(row), WIDTHS, strict=True)))


WIDTHS = [8, 12, 9, 10, 18, 18, 8, 12]


def cells(row: Measured) -> list[str]:
    if "error" in row:
        return [row["workload"], row["system"], "failed", "", "", "", "", ""]
    ratios = [
        "{:.2f} ({:.2f}-{:.2f})".format(*row[key]) if key in row else "" for key in ("times_bare", "times_bare-bf16")
    ]
    numbers = [f"{row['ms_per_step']:.3f}", f"{row['samples_per_s']:,.0f}"]
    return [
        *(row["workload"], row["system"], *numbers, *ratios),
        *(f"{row['peak_mb']:.0f}", f"{row['seconds_to_first_step']:.2f}"),
    ]


def warn(rows: list[Measured]) -> None:
    """Print errors, and warnings about different models and wrong rates in result.json."""
    for row in rows:
        if "error" in row:
            print(f"{row['workload']} {row['system']} failed:\n{row['error']}")
    for name in {row["workload"] for row in rows}:
        sizes = {row["parameters"] for row in rows if row["workload"] == name and "parameters" in row}
        if len(sizes) > 1:
            print(f"{name}: the systems trained different models, with {sizes} parameters")
    for row in rows:
        reported = row.get("reported_samples_per_s")
        if reported and abs(reported / row["samples_per_s"] - 1) > 0.05:
            share = reported / row["samples_per_s"]
            print(f"{row['workload']}: dltrain's result.json reports {share:.2f} times the measured rate")


def check_growth(folder: Path, options: argparse.Namespace) -> int:
    """Compare time and memory of an early and a late step in one run of the tiny MLP; return the exit code."""
    prepare(folder, "mlp")
    early, late = GROWTH
    measured = run_system("dltrain", "mlp", folder, late + early + 1, options.threads)
    if "error" in measured:
        print(measured["error"])
        return 1
    first, last = (measured["growth"][str(step)] for step in GROWTH)
    slower, more = last["us"] / first["us"] - 1, last["rss_mb"] - first["rss_mb"]
    for step, measurement in ((early, first), (late, last)):
        print(f"step {step:>6,}: {measurement['us']:.1f} us per step, {measurement['rss_mb']:.1f} MiB")
    passed = slower <= TOLERANCE and more <= MAX_GROWTH_MB
    print(f"{slower:+.1%} time, {more:+.2f} MiB: {'flat' if passed else 'grows'}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"machine": machine(options, os.getloadavg()[0]), **measured}, indent=2) + "\n")
    return 0 if passed else 1


def machine(options: argparse.Namespace, load: float) -> Measured:
    """Return the hardware, the number of threads, the software versions and the load average."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "capabilities": [name for name, value in torch.cpu.get_capabilities().items() if value is True],
        "threads": options.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_before": load,
    }


def show(text: str) -> None:
    """Print the current workload, round and system on one line, which the next call overwrites."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
