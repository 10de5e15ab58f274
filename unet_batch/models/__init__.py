"""Networks by name, and trained ones as MONAI Bundles: what turns voxels into logits."""
