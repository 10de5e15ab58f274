"""EarlyStopping: when more steps no longer help, and the weights from when they last did."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch


class EarlyStopping:
    """Watches the Dice of validations and keeps the best weights.

    The Volumes it looks at are held back ones, so that the Dice reached on them is chosen a
    little too well: keep others back for a score that must not be.

    Attributes
    ----------
    patience: validations without a better Dice that are waited for; 0: for ever.
    best_dice, best_step: of the best validation so far; step 0 before the first.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best_dice, self.best_step = -math.inf, 0
        self._num_waited = 0
        self._weights: dict[str, torch.Tensor] = {}

    def observe(self, dice: float, step: int, network: torch.nn.Module) -> bool:
        """Note a validation of `network`; whether it is time to stop. NaN is never better."""
        if not self.patience:
            return False
        if dice > self.best_dice:
            self.best_dice, self.best_step, self._num_waited = dice, step, 0
            self._weights = copy.deepcopy(network.state_dict())
        else:
            self._num_waited += 1
        return self._num_waited >= self.patience

    def restore_best(self, network: torch.nn.Module) -> None:
        """Give `network` the best weights; its own where there was no validation."""
        if self._weights:
            network.load_state_dict(self._weights)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "best_dice": self.best_dice,
            "best_step": self.best_step,
            "num_waited": self._num_waited,
            "weights": self._weights,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of another."""
        self.best_dice, self.best_step = state["best_dice"], state["best_step"]
        self._num_waited, self._weights = state["num_waited"], state["weights"]
