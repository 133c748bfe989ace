"""The command line: reads arguments, runs a stage, prints, and turns an outcome into an exit code.

Imports of stages sit inside commands, for cost only: `parity --help` must not load torch. Longer
than a file should be: half of it declares options, which typer reads from the signatures.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import parity
from parity import cli_engine, cli_localize, cli_model, cli_selftest
from parity.errors import ParityError, UsageError

if TYPE_CHECKING:
    from parity.backend.spec import Setting
    from parity.case.case import Case
    from parity.report.view import Run

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Keeps an interrupt and a closed pipe from typer, which gives them exit codes that are not ours."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _reader_gone()
        except KeyboardInterrupt:
            _interrupted()


app = typer.Typer(
    name="parity",
    cls=_Commands,
    help="Tell which operation stops computing the same thing on another chip.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# typer reads these annotations at run time, so the names in them are imported above.
_Selectors = Annotated[list[str] | None, typer.Argument(metavar="SELECTOR", help="Case ids or parts of one.")]
_Cases = Annotated[
    list[Path] | None,
    typer.Option("--cases", metavar="PATH", help="More case files or folders, beside the built-in ones."),
]
_Golden = Annotated[
    Path | None,
    typer.Option("--golden", metavar="DIR", help="Folder of golden sets."),
]
_Suite = Annotated[str | None, typer.Option(metavar="SUITE", help="smoke, sample, ops or large.")]
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
    except KeyboardInterrupt:
        _interrupted()


_stop = threading.Event()


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    _stop.set()
    raise KeyboardInterrupt


def _interrupted() -> NoReturn:
    print("interrupted before it was done", file=sys.stderr)
    raise SystemExit(3) from None


def _reader_gone() -> NoReturn:
    """Leave: the reader of a pipe has gone, as `parity list | head` does; nothing is wrong."""
    _drop_stdout()
    raise SystemExit(0) from None


def _drop_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _whoever_reads() -> Iterator[None]:
    """Print inside the block: what was found keeps its exit code when the reader of a pipe has gone."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()


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
    model: cli_model.Model = None,
    dtype: cli_model.Dtype = None,
    prompt: cli_model.Prompt = None,
    tokens: cli_model.Tokens = None,
    ops: cli_model.Ops = False,
    stream: cli_model.Stream = False,
) -> None:
    """Judge cases on a target against a reference and the mathematics."""
    from parity import request
    from parity.backend.registry import default_target
    from parity.case.catalog import Catalog
    from parity.check import check as run_check
    from parity.judge.judge import use_one_thread
    from parity.report import terminal
    from parity.report.colour import paint
    from parity.report.file import require_writable, save
    from parity.report.progress import progress
    from parity.run.side import Live, open_side
    from parity.store.folder import builtin_goldens

    use_one_thread()
    setting = _setting(production=production)
    named = cli_model.named(
        model,
        dtype=dtype,
        prompt=prompt,
        tokens=tokens,
        ops=ops,
        stream=stream,
        others=bool(selectors or suite or last_failed),
    )
    if named is not None:
        # A layer is fed by the one before it, in the same child.
        cases, selectors, jobs = [*(cases or []), named.file], named.selectors, 1 if stream else jobs
    folders = request.case_folders(cases)
    catalog = Catalog.load(folders)
    chosen = _some(
        request.failed_in_last_run(catalog)
        if last_failed
        else request.choose(catalog, selectors, suite or (None if selectors else "smoke"))
    )
    target = target or default_target()
    reports = [request.LAST / "run.json", *([json_file] if json_file else [])]
    for path in [*reports, *([junit_file] if junit_file else [])]:
        require_writable(path)
    with request.work_folder() as work:
        side = partial(Live, setting=setting, case_folders=folders, timeout_s=timeout)
        theirs = None
        if reference != "oracle":
            theirs = open_side(
                reference,
                goldens=request.goldens_below(golden, builtin=builtin_goldens()),
                run=lambda spec: side(spec=spec, folder=work / "reference"),
            )
        ours = open_side(
            target,
            goldens=None,
            run=lambda spec: side(spec=spec, folder=work / "target", jobs=jobs, repeat=repeat),
        )
        with progress(len(chosen)) as advance:
            run = run_check(
                chosen,
                reference=theirs,
                target=ours,
                deviations=request.declared_of(folders, [theirs, ours], catalog),
                jobs=jobs,
                time_box_s=time_box,
                on_outcome=advance,
                stopped=_stop.is_set,
            )
    save(run, json_files=reports, junit_file=junit_file)
    same = request.again(
        reference=reference, target=target, production=production, golden=golden, cases=cases
    )
    render = terminal.full if output is _Output.FULL else terminal.concise
    with _whoever_reads():
        paint(render(run, next_command=_next(run, same), json_path=str(reports[-1])))
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
    from parity import request
    from parity.backend.spec import BackendSpec
    from parity.case.catalog import Catalog
    from parity.golden import record_goldens
    from parity.report.progress import progress
    from parity.run.probing import run_probes
    from parity.run.side import Live

    if not backend or golden is None:
        raise UsageError(
            "record needs --backend and --golden DIR, such as: "
            "parity record --backend cpu --golden ./recorded"
        )
    folders = request.case_folders(cases)
    chosen = _some(
        request.choose(Catalog.load(folders), selectors, suite or (None if selectors else "smoke"))
    )
    spec, setting = BackendSpec.parse(backend), _setting(production=production)
    with request.work_folder() as work, progress(len(chosen)) as advance:
        live = Live(
            spec=spec, setting=setting, folder=work, case_folders=folders, jobs=jobs, timeout_s=timeout
        )
        facts = run_probes(spec, setting, folder=work / "probe", timeout_s=timeout).provenance()
        made = record_goldens(
            chosen, live, root=golden, reason=reason, on_case=lambda: advance(None), facts=facts
        )
    with _whoever_reads():
        for line in made.lines():
            print(line)
    raise typer.Exit(made.exit_code)


@app.command("list")
def list_(selectors: _Selectors = None, suite: _Suite = None, cases: _Cases = None) -> None:
    """Print the id of every case, one a line."""
    from parity import request
    from parity.case.catalog import Catalog

    for case in _some(request.choose(Catalog.load(request.case_folders(cases)), selectors, suite)):
        print(case.id)


@app.command()
def show(
    case: Annotated[str, typer.Argument(metavar="CASE", help="A case id.")], cases: _Cases = None
) -> None:
    """Print what a case runs, on which inputs, and how its result is judged."""
    from parity import request
    from parity.case.catalog import Catalog
    from parity.case.ids import CaseId
    from parity.judge.judge import formula
    from parity.report.show import lines

    catalog = Catalog.load(request.case_folders(cases))
    for line in lines(catalog.get(CaseId.parse(case)), formula=formula):
        print(line)


@app.command()
def devices() -> None:
    """Print every known backend and whether it can be used here."""
    from parity.backend.registry import available

    for family, state in available():
        hint = f"; {state.hint}" if state.hint and not state.ok else ""
        print(f"{family:<14} {'yes' if state.ok else 'no':<4} {state.reason}{hint}")


@app.command()
def doctor(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="F", help="Write the findings as JSON.")
    ] = None,
) -> None:
    """Examine what is installed here: what is missing, replaced or broken, and what to do."""
    from parity.backend.doctor import examine
    from parity.report import doctor as report

    if json_file is not None:
        report.require_writable(json_file)
    findings = examine()
    if json_file is not None:
        report.save(findings, json_file)
    with _whoever_reads():
        for line in report.lines(findings):
            print(line)
    raise typer.Exit(report.exit_code(findings))


@app.command()
def probe(
    target: Annotated[str, typer.Option("--target", metavar="T", help="Backend to ask.")] = "",
    production: _Production = False,
    timeout: _Timeout = 60.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="F", help="Write the facts as JSON.")
    ] = None,
) -> None:
    """Find what a backend's arithmetic really is, and compare it with what is declared."""
    from parity import request
    from parity.backend.spec import BackendSpec
    from parity.report import probe as report
    from parity.report.file import require_writable, write_text
    from parity.run.probing import run_probes

    if not target:
        raise UsageError("probe needs --target T, such as: parity probe --target cpu")
    if json_file is not None:
        require_writable(json_file)
    with request.work_folder() as work:
        probed = run_probes(
            BackendSpec.parse(target), _setting(production=production), folder=work, timeout_s=timeout
        )
    if json_file is not None:
        write_text(json_file, report.dumps(probed))
    with _whoever_reads():
        for line in report.lines(probed):
            print(line)
    raise typer.Exit(probed.exit_code)


app.command()(cli_engine.generate)
app.command("bench-engine")(cli_engine.bench_engine)
app.command()(cli_localize.diff)
app.command()(cli_localize.repro)
app.command()(cli_selftest.selftest)


def _setting(*, production: bool) -> Setting:
    from parity.backend.spec import Setting

    return Setting.PRODUCTION if production else Setting.STRICT


def _some(cases: list[Case]) -> list[Case]:
    """Return the cases, or leave with exit code 3: nothing that is selected is nothing judged."""
    if not cases:
        raise typer.Exit(3)
    return cases


def _next(run: Run, repeatable: str) -> str:
    from parity.judge.verdict import Verdict

    if any(outcome.gate.departs or outcome.gate is Verdict.UNJUDGED for outcome in run.outcomes):
        return f"{repeatable} --last-failed"
    if run.interrupted or run.left_out or not run.outcomes:
        return shlex.join(["parity", *sys.argv[1:]])
    return f"{repeatable} --suite ops" if len(run.outcomes) < 500 else f"parity show {run.outcomes[0].case}"
