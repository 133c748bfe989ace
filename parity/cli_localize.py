"""The commands that look into one case: its ladder, and a reproduction. `cli` adds them to the command line.

Imports of stages sit inside commands, for cost only.
"""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.errors import UsageError

if TYPE_CHECKING:
    from parity.case.case import Case
    from parity.case.catalog import Catalog
    from parity.run.side import Side

__all__ = ["diff", "repro"]

_CaseName = Annotated[str, typer.Argument(metavar="CASE", help="A case id, or what names one case alone.")]
_Cases = Annotated[
    list[Path] | None,
    typer.Option("--cases", metavar="PATH", help="More case files or folders, beside the built-in ones."),
]
_Golden = Annotated[Path | None, typer.Option("--golden", metavar="DIR", help="Folder of golden sets.")]
_Timeout = Annotated[
    float, typer.Option(min=0.1, metavar="S", help="Seconds a step may take before it counts as hung.")
]
_Production = Annotated[
    bool,
    typer.Option(
        "--production/--strict",
        help="Leave the vendor's defaults, or pin every switch that changes arithmetic.",
    ),
]


def diff(
    reference: Annotated[
        str, typer.Argument(metavar="REF", help="Backend, folder of recordings, or oracle.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Backend or folder of recordings.")],
    case: _CaseName,
    production: _Production = False,
    whole: Annotated[bool, typer.Option("--all", help="Show every step: fold no layer.")] = False,
    golden: _Golden = None,
    timeout: _Timeout = 60.0,
    cases: _Cases = None,
) -> None:
    """Show every step of a case on both sides: who made an error, who carried it."""
    from parity import request
    from parity.case.catalog import Catalog
    from parity.localize.look import look, replayed
    from parity.report.colour import paint
    from parity.report.ladder import lines

    folders = request.case_folders(cases)
    catalog = Catalog.load(folders)
    chosen = _one(catalog, case)
    with request.work_folder() as work:
        theirs, ours = _sides(
            reference,
            target,
            production=production,
            golden=golden,
            folders=folders,
            work=work,
            timeout=timeout,
        )
        declared = request.declared_of(folders, [theirs, ours], catalog)
        looked = look(chosen, reference=theirs, target=ours)
        found = replayed(looked, live=ours.live, folder=work / "replay").ladder(deviations=declared)
    words = ["--production"] if production else []
    words += [word for path in cases or () for word in ("--cases", str(path))]
    departing = found.departing()
    if departing:
        step = ["--step", departing[0].step] if len(found.rungs) > 1 else []
        ref = ["--ref", reference] if reference != "oracle" else []
        next_command = shlex.join(
            ["parity", "repro", str(chosen.id), *step, "--target", target, *ref, *words, "-o", "repro"]
        )
    else:
        words += ["--golden", str(golden)] if golden else []
        next_command = shlex.join(
            ["parity", "check", str(chosen.id), "--ref", reference, "--target", target, *words]
        )
    paint(lines(found, next_command=next_command, whole=whole))
    raise typer.Exit(found.exit_code)


def repro(
    case: _CaseName,
    target: Annotated[str, typer.Option("--target", metavar="T", help="Backend or folder of recordings.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where to write both files.")],
    step: Annotated[
        str | None, typer.Option("--step", metavar="S", help="A step; default: the first that departs.")
    ] = None,
    reference: Annotated[
        str, typer.Option("--ref", metavar="R", help="Backend, folder of recordings, or oracle.")
    ] = "oracle",
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Inputs of our own: no weight and no prompt is written.")
    ] = False,
    production: _Production = False,
    golden: _Golden = None,
    timeout: _Timeout = 60.0,
    cases: _Cases = None,
) -> None:
    """Write a departing step as one Python and one Arrow file that need torch and pyarrow alone."""
    from parity import request
    from parity.case.catalog import Catalog
    from parity.localize.look import look
    from parity.localize.reproduce import reproduce
    from parity.localize.trial import Trials
    from parity.report.colour import paint
    from parity.report.repro import lines
    from parity.run.replayer import replaying

    if output.exists() and not output.is_dir():
        raise UsageError(f"-o {output}: is not a folder")
    folders = request.case_folders(cases)
    chosen = _one(Catalog.load(folders), case)
    with request.work_folder() as work:
        theirs, ours = _sides(
            reference,
            target,
            production=production,
            golden=golden,
            folders=folders,
            work=work,
            timeout=timeout,
        )
        looked = look(chosen, reference=theirs, target=ours)
        asking = partial(reproduce, looked, step=step, folder=output, synthetic=synthetic, timeout_s=timeout)
        if ours.live is None:
            found = asking(trials=None)
        else:
            # A moment for a device to come back after a trial that ended its process.
            with replaying(
                ours.live.spec, ours.live.setting, folder=work / "replay", timeout_s=timeout, pause_s=0.5
            ) as replayer:
                found = asking(trials=Trials(replayer, looked.target))
    paint(lines(found))


def _sides(
    reference: str,
    target: str,
    *,
    production: bool,
    golden: Path | None,
    folders: list[Path],
    work: Path,
    timeout: float,
) -> tuple[Side | None, Side]:
    from parity import request
    from parity.backend.spec import Setting
    from parity.judge.judge import use_one_thread
    from parity.run.side import Live, open_side
    from parity.store.folder import builtin_goldens

    use_one_thread()
    setting = Setting.PRODUCTION if production else Setting.STRICT
    side = partial(Live, setting=setting, case_folders=folders, timeout_s=timeout)
    theirs = None
    if reference != "oracle":
        theirs = open_side(
            reference,
            goldens=request.goldens_below(golden, builtin=builtin_goldens()),
            run=lambda spec: side(spec=spec, folder=work / "reference"),
        )
    ours = open_side(target, goldens=None, run=lambda spec: side(spec=spec, folder=work / "target"))
    return theirs, ours


def _one(catalog: Catalog, text: str) -> Case:
    """Return the case that a name means. Raises UsageError when it means none or several."""
    from parity.case.ids import Selector

    found = catalog.select([Selector.parse(text)], suite=None)
    exact = [case for case in found if str(case.id) == text]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise UsageError(f"no case matches {text}; see what there is: parity list {text.partition(':')[0]}")
    some = ", ".join(str(case.id) for case in found[:3])
    raise UsageError(f"{text} names {len(found)} cases, such as {some}; name one of: parity list {text}")
