"""Post-processing: finished Labels mended, region by region, as if done on the whole volume.

    regions ──read──> [components | holes | morphology] ──write──> regions

NumPy and scipy alone. A volume of any size goes through in the memory of one region and of
tables: a few bytes a connected component, and one plane of numbers across the volume. The
result is that of scipy.ndimage on the whole volume, wherever the regions' borders lie.
"""
