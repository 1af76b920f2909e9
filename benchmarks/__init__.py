"""What `make bench` measures: each part of the project beside a plain implementation of the same."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
