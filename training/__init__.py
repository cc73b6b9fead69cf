"""Training on Hugging Face Trainer and peft: what is Chinese, and what is ours, and no more.

Data, tasks and metrics need no framework, for they also score artifacts; the rest needs the `training` extra.
"""
