"""Simulated chips: a torch device whose arithmetic, gaps and graphs are declared, one file a chip."""
