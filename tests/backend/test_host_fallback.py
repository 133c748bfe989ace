import contextlib
import os
import re
import subprocess
import sys
import textwrap
import warnings

import pytest

from parity.backend.base import Node, Witness
from parity.backend.host_fallback import FallbackWarning, HostFallbacks, Repeat, listen
from parity.case.dtype import DTYPES
from parity.case.op import OPS
from parity.judge.verdict import Verdict
from parity.judge.witness import examine

CAUTION = r"The operator '(?P<op>[^']+)' is not currently supported"


def fallbacks(repeat, pattern=CAUTION):
    return HostFallbacks(FallbackWarning(pattern=pattern, repeat=repeat, source="a test"))


def say(op):
    """Print as torch_npu does: on the file descriptor, not through Python."""
    os.write(2, f"[W x.cpp:250] Warning: CAUTION: The operator '{op}' is not currently supported\n".encode())


def ran(*kinds):
    return Witness(executed=tuple(Node(kind=kind, device="npu:0", precision="f32") for kind in kinds))


def step(heard, *kinds, says=()):
    with heard.watch() as warned:
        for op in says:
            say(op)
    return heard.revise(ran(*kinds), warned)


def verdict(witness):
    return examine(witness, OPS["relu"] if "relu" in OPS else OPS["silu"], [DTYPES["f32"]])[0]


def host(witness):
    return [(node.kind, node.device) for node in witness.host]


def test_an_operator_that_is_warned_of_ran_on_the_host():
    witness = step(fallbacks(Repeat.EVERY_CALL), "aten::mm", "aten::digamma", says=["aten::digamma.out"])
    assert host(witness) == [("aten::digamma", "cpu")]
    assert [node.kind for node in witness.executed] == ["aten::mm"]
    assert verdict(witness) is Verdict.FELL_BACK


def test_without_a_warning_the_witness_stays_as_it_is():
    assert step(fallbacks(Repeat.EVERY_CALL), "aten::mm") == ran("aten::mm")


def test_an_operator_that_only_a_kernel_called_is_named_too():
    witness = step(fallbacks(Repeat.EVERY_CALL), "aten::median", says=["aten::sort"])
    assert host(witness) == [("aten::sort", "cpu")]


def test_what_is_warned_of_at_every_call_is_not_remembered():
    heard = fallbacks(Repeat.EVERY_CALL)
    step(heard, "aten::digamma", says=["aten::digamma"])
    assert step(heard, "aten::digamma") == ran("aten::digamma")


def test_what_is_warned_of_once_per_operator_is_reported_again_in_later_steps():
    heard = fallbacks(Repeat.ONCE_PER_OP)
    step(heard, "aten::digamma", says=["aten::digamma"])
    later = step(heard, "aten::digamma", "aten::mm")
    assert host(later) == [("aten::digamma", "cpu")]
    assert step(heard, "aten::mm") == ran("aten::mm")


def test_what_called_a_fallback_from_inside_is_not_proved_in_later_steps():
    heard = fallbacks(Repeat.ONCE_PER_OP)
    step(heard, "aten::median", says=["aten::sort"])
    later = step(heard, "aten::median")
    assert [(node.device, node.precision) for node in later.executed] == [("?", "?")]
    assert verdict(later) is Verdict.UNJUDGED
    assert verdict(step(heard, "aten::silu")) is Verdict.WITHIN


def test_a_compiled_step_is_not_proved_after_a_warning_that_does_not_come_again():
    heard = fallbacks(Repeat.ONCE_PER_OP)
    assert verdict(step(heard, "inductor:silu")) is Verdict.WITHIN
    step(heard, "aten::digamma", says=["aten::digamma"])
    assert verdict(step(heard, "inductor:silu")) is Verdict.UNJUDGED


def test_after_a_warning_once_per_process_nothing_is_proved_any_more():
    heard = fallbacks(Repeat.ONCE_PER_PROCESS, pattern="fallback from XPU to CPU")
    assert verdict(step(heard, "aten::silu")) is Verdict.WITHIN
    with heard.watch() as warned:
        os.write(2, b"Aten Op fallback from XPU to CPU happends.\n")
    first = heard.revise(ran("aten::svd"), warned)
    assert host(first) == [("an operator that the warning does not name", "cpu")]
    assert verdict(step(heard, "aten::silu")) is Verdict.UNJUDGED


def test_a_warning_outside_of_any_step_is_remembered():
    heard = fallbacks(Repeat.ONCE_PER_OP)
    with heard.watch():
        say("aten::_to_copy")
    assert host(step(heard, "aten::_to_copy")) == [("aten::_to_copy", "cpu")]


def test_a_warning_before_an_exception_is_remembered():
    heard = fallbacks(Repeat.ONCE_PER_OP)
    with contextlib.suppress(ValueError), heard.watch():
        say("aten::digamma")
        raise ValueError
    assert host(step(heard, "aten::digamma")) == [("aten::digamma", "cpu")]


@pytest.mark.parametrize("action", ["default", "ignore", "error"])
def test_every_repetition_of_a_python_warning_is_heard(action, recwarn):
    heard = fallbacks(Repeat.EVERY_CALL)
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with heard.watch() as warned:
                warnings.warn("The operator 'aten::sgn.out' is not currently supported", stacklevel=1)
        assert warned == ["aten::sgn"]
    assert len(recwarn) == 2


def test_other_warnings_obey_the_filters_that_were_set():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="something else"), listen(CAUTION):
            warnings.warn("something else", stacklevel=1)


def test_what_a_vendor_prints_stays_visible(capfd):
    with listen(CAUTION) as said:
        say("aten::digamma")
    assert "aten::digamma" in said[0]
    assert capfd.readouterr().err.count("aten::digamma") == 1


HEARD_THROUGH_A_PIPE = """
    import os, re
    from parity.backend.host_fallback import listen
    with listen("x") as said:
        os.write(2, b"operator A\\n")
    os.write(1, repr(said).encode())
"""


def child(source, **options):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=False, **options)


def test_a_pipe_gets_afterwards_what_was_printed():
    done = child(HEARD_THROUGH_A_PIPE, capture_output=True)
    assert done.stdout == b"['operator A\\n']"
    assert done.stderr == b"operator A\n"


def test_a_crash_inside_a_step_keeps_its_last_words(tmp_path):
    source = """
        import os, signal
        from parity.backend.host_fallback import listen
        with listen("x"):
            os.write(2, b"synapse: out of memory\\n")
            os.kill(os.getpid(), signal.SIGSEGV)
    """
    with (tmp_path / "log").open("ab") as log:
        done = child(source, stderr=log)
    assert done.returncode == -11
    assert re.search("synapse: out of memory", (tmp_path / "log").read_text())
