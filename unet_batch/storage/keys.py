"""The Archive's own key, under which identifiers become pseudonyms.

`UNET_BATCH_KEY` in the environment, where it is set: the key then never touches the Archive,
which keeps a fingerprint only, so that another key is noticed. Without it the first ingest
makes a random key and stores it in `keys/`: readable by its owner only in a folder (mode
0600); in a bucket, restrict that prefix by policy. Whoever has the key can test guesses of a
PatientID against a pseudonym; nobody can compute one back.
"""

from __future__ import annotations

import hashlib
import os
import secrets

from unet_batch.errors import ConflictError, NotFoundError, SpecError
from unet_batch.storage import paths
from unet_batch.storage.object_store import ObjectStore

VARIABLE = "UNET_BATCH_KEY"
MIN_KEY_LENGTH = 16


def pseudonym_key(store: ObjectStore) -> bytes:
    """The key, 32 bytes; made where the Archive has none.

    Raises SpecError where the environment's key is too short, or none or another than the one
    this Archive was begun with.
    """
    given = os.environ.get(VARIABLE, "")
    if given:
        if len(given) < MIN_KEY_LENGTH:
            raise SpecError(f"{VARIABLE} has {len(given)} characters; expected {MIN_KEY_LENGTH}+")
        key = hashlib.sha256(given.encode()).digest()
        mine = b"fingerprint " + hashlib.sha256(b"fingerprint" + key).hexdigest().encode()
    else:
        key = secrets.token_bytes(32)
        mine = b"key " + key.hex().encode()
    stored = _first(store, mine)
    if stored == mine:
        return key
    if not given and stored.startswith(b"key "):
        return bytes.fromhex(stored[4:].decode())
    raise SpecError(
        f"{store.url} was begun with another key: "
        + (f"unset {VARIABLE}, or set the one" if given else f"set {VARIABLE} to the one")
        + " it was begun with, so that pseudonyms of one patient stay equal"
    )


def _first(store: ObjectStore, mine: bytes) -> bytes:
    """What the Archive holds after `mine` was offered to it: of several writers one wins."""
    try:
        return store.get(paths.KEY)
    except NotFoundError:
        pass
    try:
        store.put_if_absent(paths.KEY, mine, is_private=True)
    except ConflictError:
        return store.get(paths.KEY)
    return mine
