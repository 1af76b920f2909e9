"""One HTML page about runs, which opens from disk."""
