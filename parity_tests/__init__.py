"""Every runtime against the float64 oracle: a library that `yizhi verify` uses, and a pytest suite."""
