"""Run any ESPnet command line with the gated classes registered.

``python -m espnet_gated -m espnet2.bin.s2t_train …``, ``python -m espnet_gated -c "…"`` or ``python -m espnet_gated
script.py …``: what stands behind
``-m espnet_gated`` is what would stand behind ``python``, so ``python3 -m espnet_gated`` can be given as ``--python``
to ESPnet's recipes.
"""

from __future__ import annotations

import runpy
import sys

import espnet_gated  # noqa: F401  (registers the names)
from espnet_gated.precision import set_precision

USAGE = "usage: python -m espnet_gated [-u] (-m MODULE | -c CODE | SCRIPT) [ARGUMENTS]"


def main(argv: list[str] | None = None) -> None:
    """Run a module, a command or a script as ``python`` would.

    Raises:
        SystemExit: with 2 where there is nothing to run.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    set_precision()
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
