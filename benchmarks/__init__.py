"""What make bench measures, each beside the plain way."""
