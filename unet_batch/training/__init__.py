"""Training on Ray Train: patches from Volumes, the loop of a worker, the run of them all."""
