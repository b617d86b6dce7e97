"""Run any ESPnet command line with the gated classes registered.

``python -m espnet_gated -m espnet2.bin.s2t_train …``, ``python -m espnet_gated -c "…"`` or ``python -m espnet_gated
script.py …``: what stands behind
``-m espnet_gated`` is what would stand behind ``python``, so ``python3 -m espnet_gated`` can be given as ``--python``
to ESPnet's recipes.
"""

from __future__ import annotations

import os
import runpy
import sys
import time

import espnet_gated  # noqa: F401  (registers the names)

USAGE = "usage: python -m espnet_gated [-u] (-m MODULE | -c CODE | SCRIPT) [ARGUMENTS]"


PRECISION_VARIABLE = "ESPNET_GATED_MATMUL_PRECISION"
"""Environment variable: precision of float32 products (highest, high, medium; auto: medium, which is bfloat16 inside,
where this processor is faster at it, else highest). ESPnet has no option for it."""


def _set_precision() -> None:
    precision = os.environ.get(PRECISION_VARIABLE)
    if not precision:
        return
    import torch

    try:
        torch.set_float32_matmul_precision(_faster_precision() if precision == "auto" else precision)
    except RuntimeError:
        raise SystemExit(f"{PRECISION_VARIABLE} must be highest, high, medium or auto, got {precision!r}") from None


def _faster_precision(width: int = 256, tries: int = 20) -> str:
    """``medium`` if a product of two square matrices of ``width`` is a tenth faster that way, on one thread; or else
    ``highest``."""
    import torch

    x, threads, best = torch.ones(width, width), torch.get_num_threads(), {}
    torch.set_num_threads(1)
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        times = []
        for _ in range(tries):
            start = time.perf_counter()
            torch.mm(x, x)
            times.append(time.perf_counter() - start)
        best[precision] = min(times)
    torch.set_num_threads(threads)
    return "medium" if best["medium"] < 0.9 * best["highest"] else "highest"


def main(argv: list[str] | None = None) -> None:
    """Run a module, a command or a script as ``python`` would.

    Raises:
        SystemExit: with 2 where there is nothing to run.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    _set_precision()
    while args and args[0] in (
        "-u",
        "-B",
        "-s",
        "-E",
    ):  # interpreter flags that cannot matter any more
        args.pop(0)
    if not args:
        raise SystemExit(USAGE)
    if args[0] in ("-h", "--help"):
        print(f"{USAGE}\n\n{__doc__}")
    elif args[0] == "-m":
        _need(args, "MODULE")
        sys.argv = args[1:]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    elif args[0] == "-c":
        _need(args, "CODE")
        sys.argv = ["-c", *args[2:]]
        exec(compile(args[1], "<string>", "exec"), {"__name__": "__main__"})
    elif args[0] == "-":
        sys.argv = args
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
    elif args[0].startswith("-"):
        raise SystemExit(f"unknown option {args[0]}\n{USAGE}")
    else:
        sys.argv = args
        sys.path.insert(0, args[0].rpartition("/")[0] or ".")
        runpy.run_path(args[0], run_name="__main__")


def _need(args: list[str], what: str) -> None:
    if len(args) < 2:
        raise SystemExit(f"{args[0]} needs {what}\n{USAGE}")


if __name__ == "__main__":
    main()
