"""What `make bench` measures: each thing beside the plain way of doing it, in turns, in one run."""
