"""Known checkpoints, and which of them a checkpoint is."""
