"""From a case that departs to the step that made the error, its likely cause and a reproduction."""
