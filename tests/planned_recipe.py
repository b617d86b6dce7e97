"""The shell parts of a recipe by themselves, and its run.sh before an s2t.sh that only says what it was asked for."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "egs2" / "TEMPLATE" / "s2t1"
SAID = "stage stop_stage seed stats_dir dense_exp gated_exp control_exp test_sets local_data_opts".split()
SAID += ["gated_args", "dense_args", "s2t_args", "needs_gated", "needs_control"]


def bash(script, *args, cwd=TEMPLATE):
    """Run a script with arguments, in the folder of the recipes' common parts."""
    command = ["bash", "-c", f"set -euo pipefail\n{script}", "script.sh", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


class PlannedRecipe:
    """A copy of a recipe's folder of links, below ``folder``.

    Attributes:
        place: the folder that holds run.sh.
    """

    def __init__(self, folder: Path, recipe: str):
        self.place = folder / "egs2" / recipe / "s2t1"
        self.place.mkdir(parents=True)
        (self.place / "exp").mkdir()
        original = ROOT / "egs2" / recipe / "s2t1"
        for name in ("run.sh", "path.sh", "utils", "conf"):
            (self.place / name).symlink_to((original / name).resolve())
        head, found, _ = (original / "s2t.sh").read_text(encoding="utf-8").partition("\ndecodings=$(list_decodings)\n")
        assert found
        says = [f'says+="{name} ${{{name}}}\n"' for name in SAID]
        says.append("says+=$(list_decodings | sed 's/^/decoding /')")
        says.append('echo "call\n${says}"')
        (self.place / "s2t.sh").write_text("\n".join([head, "says=", *says, "}"]), encoding="utf-8")
        (self.place / "s2t.sh").chmod(0o755)

    def run(self, *options: str) -> subprocess.CompletedProcess:
        return subprocess.run([self.place / "run.sh", *options], capture_output=True, text=True, timeout=60)

    def calls(self, *options: str) -> list[dict]:
        """Run it: for each call of s2t.sh what :data:`SAID` names, and the words of each decoding's line.

        Calls that run beside each other are told apart by what stands before their lines (``NAME: ``).
        """
        result = self.run(*options)
        assert result.returncode == 0, result.stderr
        found: list[dict] = []
        current: dict[str, dict] = {}
        for line in result.stdout.splitlines():
            beside, name, value = re.fullmatch(r"(\w+: )?(\S+) ?(.*)", line).groups()
            if name == "call":
                current[beside] = {"decodings": []}
                found.append(current[beside])
            elif name == "decoding":
                current[beside]["decodings"].append(value.split())
            else:
                current[beside][name] = " ".join(value.split())
        return found
