"""The model: what a configuration says, which parameters there are, what each family calls them."""
