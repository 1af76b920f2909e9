"""What `make bench` measures: each part of the project beside a plain implementation of the same."""
