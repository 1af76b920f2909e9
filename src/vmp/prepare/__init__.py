"""How videos and annotations become manifests, which training reads."""
