"""How videos and annotations become manifests."""
