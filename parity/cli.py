"""The command line: reads arguments, runs a stage, prints, and turns an outcome into an exit code.

Imports of stages sit inside commands, for cost only: `parity --help` must not load torch.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer

import parity
from parity.errors import ParityError, UsageError

if TYPE_CHECKING:
    from parity.backend.spec import Setting
    from parity.case.case import Case
    from parity.case.catalog import Catalog
    from parity.judge.deviations import Deviation
    from parity.judge.verdict import Outcome
    from parity.report.view import Run
    from parity.run.side import Side

__all__ = ["app", "main"]

app = typer.Typer(
    name="parity",
    help="Tell which operation stops computing the same thing on another chip.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LAST = Path(".parity/last")

# typer reads these annotations at run time, on Python 3.10 too, hence Optional.
_Selectors = Annotated[list[str] | None, typer.Argument(metavar="SELECTOR", help="Case ids or parts of one.")]
_Cases = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Option("--cases", metavar="PATH", help="More case files or folders, beside the built-in ones."),
]
_Golden = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--golden", metavar="DIR", help="Folder of golden sets."),
]
_Suite = Annotated[Optional[str], typer.Option(metavar="SUITE", help="smoke, sample, ops or large.")]  # noqa: UP045
_Jobs = Annotated[
    int, typer.Option("-j", "--jobs", min=1, metavar="N", help="Child processes for the target.")
]
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


class _Output(str, Enum):
    """How much `parity check` prints."""

    FULL = "full"
    CONCISE = "concise"


def main() -> None:
    """Run the command line; what `parity` and `python -m parity` call."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs want it
            signal.signal(number, _interrupt)
    try:
        app()
    except ParityError as error:
        _fail(error)
    except BrokenPipeError:
        # The reader of a pipe has gone, as `parity list | head` does; nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        print("interrupted before anything was judged", file=sys.stderr)
        raise SystemExit(3) from None


_stop = threading.Event()


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    _stop.set()
    raise KeyboardInterrupt


def _fail(error: ParityError) -> NoReturn:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"parity {parity.__version__}")
        raise typer.Exit


@app.command()
def check(
    selectors: _Selectors = None,
    reference: Annotated[
        str, typer.Option("--ref", metavar="R", help="Backend, folder of recordings, or oracle.")
    ] = "cpu",
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="T", help="Backend or folder; default: the first accelerator here, else cpu."
        ),
    ] = "",
    suite: _Suite = None,
    jobs: _Jobs = 1,
    production: _Production = False,
    golden: _Golden = None,
    timeout: _Timeout = 60.0,
    time_box: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="S", help="Most informative cases first; stop after S seconds."),
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, metavar="N", help="Run each step N times; different bits are reported.")
    ] = 1,
    last_failed: Annotated[
        bool, typer.Option("--last-failed", help="Only what was not within in the last run.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="F", help="Write the JSON report.")
    ] = None,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", metavar="F", help="Write a JUnit report.")
    ] = None,
    output: Annotated[
        _Output, typer.Option(metavar="full|concise", help="How much to print.")
    ] = _Output.FULL,
    cases: _Cases = None,
) -> None:
    """Judge cases on a target against a reference and the mathematics."""
    from parity.backend.registry import default_target
    from parity.check import check as run_check
    from parity.judge.judge import use_one_thread
    from parity.run.side import Live, open_side

    use_one_thread()
    setting = _setting(production=production)
    folders = _case_folders(cases)
    catalog = _catalog(folders)
    chosen = (
        _last_failed(catalog)
        if last_failed
        else _choose(catalog, selectors, suite or (None if selectors else "smoke"))
    )
    target = target or default_target()
    with _work_folder() as work, _reports([_LAST / "run.json", json_file, junit_file]):
        side = partial(Live, setting=setting, case_folders=folders, timeout_s=timeout)
        theirs = None
        if reference != "oracle":
            theirs = open_side(
                reference,
                goldens=_goldens(golden),
                run=lambda spec: side(spec=spec, folder=work / "reference"),
            )
        ours = open_side(
            target,
            goldens=None,
            run=lambda spec: side(spec=spec, folder=work / "target", jobs=jobs, repeat=repeat),
        )
        declared = _deviations(folders, [theirs, ours], catalog)
        with _progress(len(chosen)) as advance:
            run = run_check(
                chosen,
                reference=theirs,
                target=ours,
                deviations=declared,
                time_box_s=time_box,
                on_outcome=advance,
                stopped=_stop.is_set,
            )
    repeatable = _arguments(
        reference=reference, target=target, production=production, golden=golden, cases=cases
    )
    _write_reports(run, json_file, junit_file)
    _print(run, output, next_command=_next(run, repeatable), json_path=str(json_file or _LAST / "run.json"))
    raise typer.Exit(run.exit_code)


@app.command()
def record(
    selectors: _Selectors = None,
    backend: Annotated[str, typer.Option("--backend", metavar="B", help="Where to run.")] = "",
    golden: _Golden = None,
    suite: _Suite = None,
    jobs: _Jobs = 1,
    production: _Production = False,
    timeout: _Timeout = 60.0,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why these recordings are made.")
    ] = "first recording",
    cases: _Cases = None,
) -> None:
    """Record cases on a backend into a folder that `--ref` and `--target` take; nothing is overwritten."""
    from parity.backend.spec import BackendSpec
    from parity.golden import record_goldens
    from parity.run.side import Live

    if not backend or golden is None:
        raise UsageError(
            "record needs --backend and --golden DIR, such as: "
            "parity record --backend cpu --golden ./recorded"
        )
    folders = _case_folders(cases)
    chosen = _choose(_catalog(folders), selectors, suite or (None if selectors else "smoke"))
    spec, setting = BackendSpec.parse(backend), _setting(production=production)
    with _work_folder() as work, _progress(len(chosen)) as advance:
        live = Live(
            spec=spec, setting=setting, folder=work, case_folders=folders, jobs=jobs, timeout_s=timeout
        )
        made = record_goldens(chosen, live, root=golden, reason=reason, on_case=lambda: advance(None))
    for line in made.lines():
        print(line)
    raise typer.Exit(made.exit_code)


@app.command("list")
def list_(selectors: _Selectors = None, suite: _Suite = None, cases: _Cases = None) -> None:
    """Print the id of every case, one a line."""
    for case in _choose(_catalog(_case_folders(cases)), selectors, suite):
        print(case.id)


@app.command()
def show(
    case: Annotated[str, typer.Argument(metavar="CASE", help="A case id.")], cases: _Cases = None
) -> None:
    """Print what a case runs, on which inputs, and how its result is judged."""
    from parity.case.ids import CaseId
    from parity.judge.judge import formula
    from parity.report.show import lines

    catalog = _catalog(_case_folders(cases))
    for line in lines(catalog.get(CaseId.parse(case)), formula=formula):
        print(line)


@app.command()
def devices() -> None:
    """Print every known backend and whether it can be used here."""
    from parity.backend.registry import available

    for family, state in available():
        hint = f"; {state.hint}" if state.hint and not state.ok else ""
        print(f"{family:<14} {'yes' if state.ok else 'no':<4} {state.reason}{hint}")


def _setting(*, production: bool) -> Setting:
    from parity.backend.spec import Setting

    return Setting.PRODUCTION if production else Setting.STRICT


def _case_folders(more: Sequence[Path] | None) -> list[Path]:
    from parity.case.catalog import builtin_cases

    for path in more or ():
        if not path.exists():
            raise UsageError(f"--cases {path}: no such file or folder")
    return [builtin_cases(), *(more or ())]


def _catalog(folders: Sequence[Path]) -> Catalog:
    from parity.case.catalog import Catalog

    return Catalog.load(folders)


def _choose(catalog: Catalog, selectors: Sequence[str] | None, suite: str | None) -> list[Case]:
    from parity.case.ids import Selector

    parsed = [Selector.parse(text) for text in selectors or ()]
    chosen = catalog.select(parsed, suite=suite)
    if not chosen:
        what = " ".join(map(str, parsed)) or "the catalog"
        within = f" in suite {suite}" if suite else ""
        there = f" {parsed[0].path}" if parsed else ""
        print(f"no case matches {what}{within}; see what there is: parity list{there}", file=sys.stderr)
        raise typer.Exit(3)
    return chosen


def _last_failed(catalog: Catalog) -> list[Case]:
    from parity.case.ids import CaseId
    from parity.report.json import failed_ids

    path = _LAST / "run.json"
    if not path.is_file():
        raise UsageError(f"--last-failed: there is no {path} here; run parity check first, in this folder")
    ids = failed_ids(path)
    if not ids:
        print("nothing failed in the last run", file=sys.stderr)
        raise typer.Exit(3)
    return [catalog.get(CaseId.parse(text)) for text in ids]


def _goldens(golden: Path | None) -> Path:
    from parity.store.folder import builtin_goldens

    if golden is None:
        return builtin_goldens()
    if not golden.is_dir():
        raise UsageError(
            f"--golden {golden}: no such folder; make one: parity record --backend cpu --golden {golden}"
        )
    return golden


def _deviations(
    folders: Sequence[Path], sides: Sequence[Side | None], catalog: Catalog
) -> dict[str, Sequence[Deviation]]:
    from parity.judge.deviations import load

    families = {side.spec().family for side in sides if side is not None}
    return {family: load(folders, family, catalog.ids()) for family in families}


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder for this run's recordings, removed at the end."""
    import tempfile

    root = _LAST.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="run-", dir=root, ignore_cleanup_errors=True)
    except OSError as error:
        raise UsageError(
            f"cannot write here: {root.resolve()}: {error.strerror}; run from a folder that can be written"
        ) from None
    with folder as name:
        yield Path(name)


@contextmanager
def _reports(paths: Sequence[Path | None]) -> Iterator[None]:
    """Say before the run that a report cannot be written, not after it."""
    from parity.report.file import require_writable

    for path in paths:
        if path is not None:
            require_writable(path)
    yield


def _write_reports(run: Run, json_file: Path | None, junit_file: Path | None) -> None:
    from parity.report import json, junit
    from parity.report.file import write_text

    text = json.dumps(run)
    write_text(_LAST / "run.json", text)
    if json_file is not None:
        write_text(json_file, text)
    if junit_file is not None:
        write_text(junit_file, junit.dumps(run))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Outcome | None], None]]:
    """Show counts, rate and time left on stderr while cases run."""
    from parity.report.progress import progress

    with progress(total) as advance:
        yield advance


def _print(run: Run, output: _Output, *, next_command: str, json_path: str) -> None:
    from parity.report import terminal
    from parity.report.colour import paint

    render = terminal.full if output is _Output.FULL else terminal.concise
    paint(render(run, next_command=next_command, json_path=json_path))


def _arguments(
    *, reference: str, target: str, production: bool, golden: Path | None, cases: Sequence[Path] | None
) -> str:
    words = ["parity", "check", "--ref", reference, "--target", target]
    words += ["--production"] if production else []
    words += ["--golden", str(golden)] if golden else []
    for path in cases or ():
        words += ["--cases", str(path)]
    return shlex.join(words)


def _next(run: Run, repeatable: str) -> str:
    from parity.judge.verdict import Verdict

    if any(outcome.gate.departs or outcome.gate is Verdict.UNJUDGED for outcome in run.outcomes):
        return f"{repeatable} --last-failed"
    if run.interrupted or run.left_out or not run.outcomes:
        return shlex.join(["parity", *sys.argv[1:]])
    return f"{repeatable} --suite ops" if len(run.outcomes) < 500 else f"parity show {run.outcomes[0].case}"
