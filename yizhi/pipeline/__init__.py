"""What a command does: jobs in processes of their own, from a checkpoint to a verified release."""
