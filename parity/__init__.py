"""Tell which operation stops computing the same thing when LLM inference moves to another chip.

`parity check` is the main job; the stages are `case`, `backend`, `store`, `run`, `judge`,
`localize` and `report`, in the order in which data flows. Importing this package imports
neither torch nor pyarrow.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
