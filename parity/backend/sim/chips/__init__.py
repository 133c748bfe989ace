"""One declaration a file: the module's `CHIP`."""
