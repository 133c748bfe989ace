"""The command that measures the judge. `cli` adds it to the command line.

Imports of stages sit inside the command, for cost only.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["selftest"]


def selftest(
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of the inputs; default: another one each time.")
    ] = None,
    time_box: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="Every family comes early; stop after S seconds.")
    ] = 60.0,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, metavar="N", help="Processes.")] = 1,
    production: Annotated[
        bool, typer.Option("--production-shapes", help="Steps of the sizes that large models have instead.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="F", help="Write every count.")] = None,
) -> None:
    """Measure the judge: honest results that it flags, planted faults that it misses."""
    from parity.report import selftest as report
    from parity.report.file import require_writable, write_text
    from parity.report.progress import progress
    from parity.selftest import card as stage

    if json_file is not None:
        require_writable(json_file)
    # Inputs that nothing has seen: what was tuned on a seed proves nothing on it.
    seed = random.SystemRandom().randrange(10**6, 10**9) if seed is None else seed
    with progress(stage.size(production=production)) as advance:
        card = stage.run(
            seed=seed,
            time_box_s=time_box,
            jobs=jobs,
            production=production,
            on_case=lambda: advance(None),
        )
    if json_file is not None:
        write_text(json_file, json.dumps(card.to_json(), indent=1) + "\n")
    more = " --production-shapes" if production else ""
    for line in report.lines(card, again=f"parity selftest --seed {seed} --time-box {10 * time_box:g}{more}"):
        print(line)
    raise typer.Exit(card.exit_code)
