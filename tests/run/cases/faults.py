"""Cases whose second of four steps is named after a fault of the faulty backend."""

import os

from parity.case.case import Step, TensorSpec
from parity.case.dtype import dtype
from parity.case.family import Parts, family

FAULTS = (
    *("abort", "async", "close_fds", "closes_pipes", "compile", "compile_hang", "exit_0", "garbage"),
    *("hang", "leaves_a_child", "meets", "no_outputs", "not_a_tuple", "out_of_memory", "overwrites"),
    *("poison", "raises", "reads_stdin", "real_time", "segfault", "sigkill", "sticky", "sys_exit"),
    *("unfetchable", "unstable", "unsupported", "wrong_dtype", "wrong_shape"),
)


def tanh(name, x, y):
    return Step(name=name, op="tanh", inputs=(x,), outputs=(y,))


def four_steps(fault, of="f32"):
    x = TensorSpec(name="x", dtype=dtype(of), shape=(16,))
    steps = (tanh("first", "x", "a"), tanh(fault, "a", "b"), tanh("needs", "b", "c"), tanh("aside", "x", "d"))
    return Parts(inputs=(x,), steps=steps)


@family("faults/at", fault=FAULTS)
def at(p):
    """A fault in the middle of a case."""
    return four_steps(p.fault)


@family("faults/none", n=tuple(map(str, range(20))))
def none(p):
    """Nothing goes wrong."""
    return four_steps(f"healthy{p.n}")


@family("faults/meets_too", n=("1",))
def meets_too(_):
    """Another case with the step that waits for a second process."""
    return four_steps("meets")


@family("faults/narrow", fault=("none",))
def narrow(_):
    """The device has no float64."""
    return four_steps("second", of="f64")


@family("faults/moody", n=("1",))
def moody(_):
    """A case file that reads the environment, as it should not: other steps in the child."""
    return four_steps(f"in_{'child' if 'FAULTY_SETTING' in os.environ else 'parent'}")
