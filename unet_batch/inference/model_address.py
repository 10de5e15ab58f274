"""Opening a model by its address: the folder of a Bundle, or a version in a registry."""

from __future__ import annotations

from unet_batch.errors import BundleError
from unet_batch.models.bundle import Bundle, load_bundle
from unet_batch.storage.bundle_cache import find_model


def load_model(address: str, *, trust_network: bool = False) -> Bundle:
    """The Bundle at `address`, checked against the hash that its registry knows.

    `trust_network` lets a network of the user's own be imported, as `load_bundle` says.
    Raises BundleError, NotFoundError or StoreError where it cannot be had as it was added.
    """
    folder, version = find_model(address)
    bundle = load_bundle(folder, trust_network=trust_network)
    if version is not None and bundle.content_hash != version.content_hash:
        raise BundleError(
            f"{version}: the Bundle in {folder} has the hash {bundle.content_hash[:12]}..., but"
            f" {version.content_hash[:12]}... was added; use another version"
        )
    return bundle
