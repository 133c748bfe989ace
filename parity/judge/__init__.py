"""Whether results are right: float64 oracles, derived budgets, and verdicts that fail closed."""
