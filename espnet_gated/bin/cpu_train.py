"""Train with ESPnet's trainer on the cores of one machine: one data-parallel process a core.

Small models spend their time in small operators that two threads cannot share: two processes of one thread each, which
average their gradients, took half the time of one process with two threads (docs/experiments.md). ESPnet knows
distributed
training on CPU (gloo); this starts its processes and stops all of them when one fails.

    python -m espnet_gated.bin.cpu_train --processes 2 espnet2.bin.s2t_train --config … --output_dir …
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLL_SECONDS = 0.5


def get_parser() -> argparse.ArgumentParser:
    """Options of this launcher; everything behind the module's name goes to it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one for each core")
    parser.add_argument("module", help="ESPnet's command line, such as espnet2.bin.s2t_train")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def commands(module: str, arguments: list[str], processes: int, meeting_point: str) -> list[list[str]]:
    """Command line of each process (rank 0 first), with the gated names registered."""
    base = [sys.executable, "-m", "espnet_gated", "-m", module, *arguments]
    if processes == 1:
        return [base]
    shared = ["--ngpu", "0", "--multiprocessing_distributed", "false", "--dist_backend", "gloo"]
    shared += ["--dist_world_size", str(processes), "--dist_init_method", f"file://{meeting_point}"]
    return [[*base, *shared, "--dist_rank", str(rank)] for rank in range(processes)]


def run(module: str, arguments: list[str], processes: int) -> int:
    """Run all processes to their end.

    Rank 0 writes to this process's output; what the others say is shown only if they fail.

    Returns:
        exit status: that of the first process that failed, else 0.
    """
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)) // processes)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"rank{rank}.log" for rank in range(processes)]
        running = []
        for rank, command in enumerate(commands(module, arguments, processes, f"{folder}/meeting_point")):
            with open(logs[rank], "wb") as log:
                output = None if rank == 0 else log
                running.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        try:
            failed = _wait(running)
            codes = [process.poll() for process in running]
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
        for rank in range(1, processes):  # of several, one may have failed because another did
            if codes[rank] not in (None, 0):
                said = logs[rank].read_text(encoding="utf-8", errors="replace")[-4000:]
                sys.stderr.write(f"process {rank} of {processes} failed:\n{said}")
        if failed == 0 and processes > 1:
            sys.stderr.write(f"process 0 of {processes} failed first; what it said is above\n")
    return 0 if failed is None else abs(running[failed].returncode) or 1


def _wait(running: list[subprocess.Popen]) -> int | None:
    """Wait for all; the number of the first that fails ends the wait."""
    while True:
        codes = [process.poll() for process in running]
        for number, code in enumerate(codes):
            if code not in (None, 0):
                time.sleep(POLL_SECONDS)  # others that fail by themselves shall be heard too
                return number
        if all(code == 0 for code in codes):
            return None
        time.sleep(POLL_SECONDS)


def main(cmd: list[str] | None = None) -> int:
    """Run the command line."""
    args = get_parser().parse_args(cmd)
    # Being told to stop must stop the processes too: an exception runs what `finally` holds, the default action does
    # not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.processes < 1:
        print(f"cpu_train: processes must be at least 1, got {args.processes} (--processes)", file=sys.stderr)
        return 2
    return run(args.module, args.arguments, args.processes)


if __name__ == "__main__":
    sys.exit(main())
