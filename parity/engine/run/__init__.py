"""A step: the flat batch, the network over it, and the next tokens."""
