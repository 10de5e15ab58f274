"""Networks by name, and trained ones as MONAI Bundles: what turns voxels into logits.

    networks/        names and arguments to a Definition; what may be built, and from what
    architectures/   networks that MONAI has not; what goes in, and what comes out of each

In training mode a network may return a list of logits, the finest first (deep supervision); in
eval mode it returns one tensor, without softmax or sigmoid.
"""
