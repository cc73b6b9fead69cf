"""Known checkpoints, and how to recognise them."""
