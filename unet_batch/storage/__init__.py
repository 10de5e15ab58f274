"""Archives of Volumes on disk or in a bucket: OME-Zarr images and Labels, Catalog, Ledger."""
