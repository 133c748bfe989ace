"""`tools/sizes.py` counts what a reader sees and never fails."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_and_its_change_are_printed(project):
    shutil.copy(ROOT / "tools/sizes.py", project.folder / "tools/sizes.py")
    for command in (("init", "-q"), ("add", "-A")):
        project.run("git", *command)
    project.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    body = "".join(f"    print({number})\n" for number in range(50))
    project.append("parity/case/ids.py", f"\n\ndef long():\n{body}")
    done = project.run(sys.executable, "tools/sizes.py", "--since", "HEAD", "parity")
    assert done.stdout == (
        "             number   median      p90  longest   aim  limit\n"
        "functions         4        6        7       51    15     40\n"
        "  change         +1       +1       +2      +44\n"
        "files             8        6       15       65   120    300\n"
        "  change         +0       +0       +3      +50\n"
        "\n"
        "functions over 40 lines: 1\n"
        "     51  parity/case/ids.py:15 long\n"
    )
    assert done.returncode == 0
