"""Specs, Plans, cost and schedule: pure decisions, no Ray, Dask, torch or Zarr."""
