"""Networks that MONAI has not, or has in another shape, as plain torch modules.

Each module is named for its paper, which it cites. All are called with (n, channels, *tile)
and return logits (n, classes, *tile): softmax or sigmoid is applied where sums are finished
(`inference.head`) and inside the losses, never in the network.

**Deep supervision.** In training mode a network may return a list of logits instead, each
(n, classes, *size): the first is the one that eval mode returns, those after it are helpers,
from fine to coarse, each at its own resolution. A loss weighs them down in this order (a half
each, as nnU-Net does) against the truth sampled at their size. In eval mode every network
returns one tensor.

A Bundle names these classes by their path (`unet_batch.models.architectures.unet.UNet`).
"""

from __future__ import annotations

import unet_batch.models.lean_monai  # noqa: F401 (before anything imports MONAI)
