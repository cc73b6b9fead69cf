"""Checkpoint in: files, tensors, tokenizer, and the formats of other projects."""
