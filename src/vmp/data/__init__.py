"""What training reads: manifests, exact frames, transforms, the dataset; and the generated dataset motions."""
