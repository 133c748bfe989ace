"""The engine as people use it: prompts in, text out."""
