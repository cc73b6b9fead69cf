"""One module per protocol: its endpoints, its bodies, and its errors."""
