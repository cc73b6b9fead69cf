"""Training on Hugging Face Trainer and peft, with additions for Chinese and for Yizhi's checkpoints.

Data, tasks and metrics need no framework, because they also score artifacts. The rest needs the `training` extra.
"""
