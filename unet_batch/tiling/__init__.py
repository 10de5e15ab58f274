"""Box, tile grid, Blocks and blending weights: pure NumPy, no I/O."""
