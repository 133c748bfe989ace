"""One small function per op class: the float64 oracle of a step and the budget of each output."""
