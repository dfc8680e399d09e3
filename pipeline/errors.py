"""Everything that can go wrong, named for what failed.

::

    PipelineError              exit code 1, one line: the thing and the remedy
    ├── ParamsError            params.yaml, or a value given on the command line
    ├── WorkspaceError         not a workspace, or one that cannot be written
    ├── SourceError            the images cannot be used as they are
    │   ├── SourceMissing      ... because they are not there
    │   └── UnsafeArchive      ... because an archive would reach outside its folder
    ├── ManifestError          data/manifest.csv
    ├── WeightsError           the backbone's weights
    ├── DeviceError            no such device, or out of its memory
    ├── StoreError             the feature store
    │   ├── IdentityMismatch   ... made by another extractor
    │   ├── DamagedShard       ... whose bytes are not those that were written
    │   ├── MissingRows        ... that lacks features
    │   └── StoreLocked        ... that another process is writing
    ├── ClusterError           the Dask cluster, or a worker of it
    ├── HeadError              an estimator, its parameters, or its training rows
    └── ModelError             a saved head that is absent, damaged or of another extractor

Messages name the thing, say what was expected and found, and what to do about it.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of every error that a user can mend."""


class ParamsError(PipelineError):
    """A key or value of ``params.yaml``, or its twin on the command line, is wrong."""


class WorkspaceError(PipelineError):
    """The folder is not a workspace, or cannot be used as one."""


class SourceError(PipelineError):
    """The images cannot be used as they are."""


class SourceMissing(SourceError):
    """The source of the images is not there."""


class UnsafeArchive(SourceError):
    """An archive holds members that would reach outside its folder, or would fill the disk."""


class ManifestError(PipelineError):
    """``data/manifest.csv`` is absent, malformed, or unfit for what was asked."""


class WeightsError(PipelineError):
    """The backbone's weights are absent, damaged, or cannot be fetched."""


class DeviceError(PipelineError):
    """The device asked for does not exist here, or ran out of memory."""


class StoreError(PipelineError):
    """The feature store cannot be used as it is."""


class IdentityMismatch(StoreError):
    """The store, or a model, was made by another extractor."""


class DamagedShard(StoreError):
    """A shard's bytes are not those that were written."""


class MissingRows(StoreError):
    """Features were asked for that the store does not hold."""


class StoreLocked(StoreError):
    """Another process is writing the store."""


class ClusterError(PipelineError):
    """The Dask cluster cannot be reached, or a worker of it is not like this process."""


class HeadError(PipelineError):
    """An estimator is unknown, its parameters are wrong, or its training rows are unfit."""


class ModelError(PipelineError):
    """A saved head is absent, damaged, untrusted, or belongs to another extractor."""
