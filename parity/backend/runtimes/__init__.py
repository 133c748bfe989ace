"""Graph compilers behind the same protocol as a device: a runtime instead of a chip."""
