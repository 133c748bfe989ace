"""What runs: case ids, inputs that are the same bits everywhere, and the catalog of case files."""
