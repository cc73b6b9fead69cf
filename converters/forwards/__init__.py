"""The encoder's forward pass, written once per framework with the same functions in the same order.

They are independent on purpose: each catches the others' mistakes. All read an EncoderSpec by role,
so none knows the families apart.
"""
