"""The reference inference engine: the system under test.

It loads Hugging Face checkpoints and serves them. A step is a pure function of weights, KV pool
and a flat batch of tokens; every operation has a site, a reference that is its specification, and
a place where recording is bound in. Imports nothing else of parity but its errors.
"""

from parity.engine.sched.request import Finish, SamplingParams
from parity.engine.sched.scheduler import Limits
from parity.engine.serve.engine import Engine, Output, Piece

__all__ = ["Engine", "Finish", "Limits", "Output", "Piece", "SamplingParams"]
