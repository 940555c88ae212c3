"""Training of the joint network: objective, stages, loop, checkpoints and sample sheets."""
