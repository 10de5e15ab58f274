"""Every error a caller can meet, in one tree.

    UnetBatchError
    ├── SpecError               a request that cannot be carried out as written
    ├── StoreError              a folder or bucket that cannot be read or written
    │   ├── NotFoundError       nothing at this path
    │   ├── DamagedError        what lies there makes no sense, as after a power cut
    │   └── ConflictError       somebody else wrote first
    ├── ScanError               one scan that cannot be used (its Volume is quarantined)
    │   ├── UnreadableScanError     a file is truncated, corrupt or of an unknown kind
    │   ├── GeometryError           positions, spacing or affine contradict each other
    │   └── VoxelError              NaN, inf, or values that no rule of the Spec allows
    ├── BundleError             a model that cannot be loaded or does not fit the scan
    ├── MemoryBudgetError       the work cannot fit the declared budget
    ├── DeviceMemoryError       a device, or its host, had less memory than was predicted
    ├── ReplicaError            a Replica failed in a way that retrying will not mend
    ├── TrainingError           a training that diverged
    ├── ClusterError            Kubernetes or Ray refused what was asked, or does not answer
    ├── JobStoppedError         the Job was paused or cancelled before its end
    └── QuarantineError         the Job ended, but not every Volume was done

A message says what failed, where, what was expected, what was found, and what to do.
"""

from __future__ import annotations


class UnetBatchError(Exception):
    """Base of every error this package raises on purpose."""


class SpecError(UnetBatchError):
    """A Spec, flag or override that cannot be carried out as written."""


class StoreError(UnetBatchError):
    """A folder or bucket that cannot be read or written."""


class NotFoundError(StoreError):
    """Nothing is stored at this path."""


class DamagedError(StoreError):
    """What is stored at this path makes no sense: it was cut short, or altered."""


class ConflictError(StoreError):
    """Another writer was first; read again and decide again."""


class ScanError(UnetBatchError):
    """One scan cannot be used. The Job goes on; its Volume is quarantined."""


class UnreadableScanError(ScanError):
    """A file is truncated, corrupt or of an unknown kind."""


class GeometryError(ScanError):
    """Positions, spacing or affine are missing or contradict each other."""


class VoxelError(ScanError):
    """Voxel values (NaN, inf, constant) that the Spec does not allow."""


class BundleError(UnetBatchError):
    """A model cannot be loaded, or does not fit the Volume it is asked to segment."""


class MemoryBudgetError(UnetBatchError):
    """The work cannot be cut small enough for the declared memory budget."""


class DeviceMemoryError(UnetBatchError):
    """A device or its host ran out of memory, though the work fits the declared budget."""


class ReplicaError(UnetBatchError):
    """A Replica failed in a way that retrying will not mend."""


class TrainingError(UnetBatchError):
    """A training that does not get anywhere, such as one whose loss is NaN."""


class ClusterError(UnetBatchError):
    """A cluster, Kubernetes' or Ray's, refused what was asked of it, or does not answer."""


class JobStoppedError(UnetBatchError):
    """Somebody asked for the Job to be paused or cancelled, and it has stopped."""


class QuarantineError(UnetBatchError):
    """The Job ended, but some Volumes were quarantined or left."""


def reason_of(error: BaseException) -> str:
    """What went wrong, to a person: our own message, else the kind and the first line.

    An error that a worker met comes wrapped, with the `cause` inside a stack of frames.
    """
    cause = cause_of(error)
    if isinstance(cause, UnetBatchError):
        return str(cause)
    return f"{type(cause).__name__}: {first_line(cause)}"


def cause_of(error: BaseException) -> BaseException:
    """The error that a worker met, where `error` is what Ray wraps around it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
