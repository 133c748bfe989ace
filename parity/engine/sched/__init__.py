"""Who runs next: requests, and the plan of each step."""
