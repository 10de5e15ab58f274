"""Sequences: which modules of a network run one right after the other, and where they sit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

import torch

Kind = TypeVar("Kind", bound=torch.nn.Module)

_IDLE = (torch.nn.Identity, torch.nn.Dropout, torch.nn.Dropout2d, torch.nn.Dropout3d)


@dataclass(frozen=True, slots=True)
class Place:
    """A module of a network, and its parent, in which another can be put in its stead."""

    parent: torch.nn.Module
    name: str

    @property
    def module(self) -> torch.nn.Module:
        """What is there now."""
        return self.parent.get_submodule(self.name)

    def put(self, module: torch.nn.Module) -> None:
        """Put another there."""
        setattr(self.parent, self.name, module)

    def clear(self) -> None:
        """Put something there that does nothing."""
        self.put(torch.nn.Identity())


def sequences(network: torch.nn.Module) -> Iterator[list[Place]]:
    """What each outermost Sequential of `network` runs, in order, those inside it being opened.

    Modules that do nothing in eval mode are left out.
    """
    every = [one for one in network.modules() if _is_sequence(one)]
    inner = {child for one in every for child in one.children()}
    for outermost in every:
        if outermost not in inner:
            yield steps(outermost)


def steps(sequence: torch.nn.Module) -> list[Place]:
    """What one Sequential runs; nothing of another module, or of one that somebody listens to."""
    if not _is_sequence(sequence):
        return []
    return [place for place in _leaves(sequence) if not is_plain(place.module, *_IDLE)]


def is_plain(module: object, *kinds: type[Kind]) -> TypeGuard[Kind]:
    """Whether `module` is exactly of one of these kinds, with nobody listening to it.

    A subclass may compute something else (weight normalisation does).
    """
    return isinstance(module, kinds) and type(module) in kinds and not _is_heard(module)


def _is_sequence(module: torch.nn.Module) -> bool:
    """Whether a module runs its children one after the other, and nobody sees it begin or end."""
    is_one = isinstance(module, torch.nn.Sequential) and not _is_heard(module)
    return is_one and type(module).forward is torch.nn.Sequential.forward


def _is_heard(module: torch.nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks  # noqa: SLF001 (torch has no question for it)
    return bool(hooks)


def _leaves(sequence: torch.nn.Module) -> Iterator[Place]:
    for name, child in sequence.named_children():
        if _is_sequence(child):
            yield from _leaves(child)
        else:
            yield Place(sequence, name)
