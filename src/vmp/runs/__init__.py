"""A run: its folder and records, the trained model in it, and its test scores."""
