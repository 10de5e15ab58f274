"""Augmentation: random but repeatable changes of one training patch, cheap on a CPU."""
