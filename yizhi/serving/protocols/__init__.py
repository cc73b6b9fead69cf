"""One module per protocol: its endpoints, its bodies, and how it says no."""
