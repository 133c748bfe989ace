"""What is said of a run: for a terminal, a program, a CI server."""
