"""The network: what a checkpoint is, its weights, and the steps that it computes."""
