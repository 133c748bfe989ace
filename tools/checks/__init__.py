"""What `tools/gate` runs: one module a check, each with a function from the checkout to a `Result`."""
