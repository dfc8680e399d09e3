"""Where things are: the folder that holds a project's parameters, images, features and models.

Owns the names of files and folders, and nothing that is in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ParamsError, WorkspaceError

_HEAD_NAME = re.compile(r"[a-z][a-z0-9_-]*")  # reaches a shell through DVC's foreach


@dataclass(frozen=True)
class Workspace:
    """The files of one project.

    Parameters
    ----------
    root : Path
        The folder that holds ``params.yaml``.

    Raises
    ------
    WorkspaceError
        `root` holds no ``params.yaml``.
    """

    root: Path

    def __post_init__(self) -> None:
        if not self.params_file.is_file():
            raise WorkspaceError(
                f"{self.root}: not a workspace (no params.yaml here). "
                f"Make one with `pipeline init {self.root}`, or name another with `pipeline --root DIR …`."
            )

    @property
    def params_file(self) -> Path:
        """Everything that changes results."""
        return self.root / "params.yaml"

    @property
    def manifest_file(self) -> Path:
        """One row an image."""
        return self.root / "data" / "manifest.csv"

    @property
    def corrections_file(self) -> Path:
        """Labels and exclusions that people gave by hand; committed."""
        return self.root / "data" / "corrections.csv"

    @property
    def images_folder(self) -> Path:
        """Images unpacked from archives; folder sources stay where they are."""
        return self.root / "data" / "images"

    @property
    def download_folder(self) -> Path:
        """Archives fetched from the network."""
        return self.root / "data" / "downloads"

    @property
    def image_stat_cache(self) -> Path:
        """Hashes and verdicts of images already seen (disposable)."""
        return self.root / "data" / ".seen.json"

    @property
    def store_folder(self) -> Path:
        """The feature store."""
        return self.root / "cache" / "features"

    @property
    def quantised_file(self) -> Path:
        """The network of precision ``int8``, kept with the features that it made."""
        return self.store_folder / "quantised.safetensors"

    @property
    def index_file(self) -> Path:
        """What the store holds for the manifest: tiny, deterministic, committed."""
        return self.root / "cache" / "index.json"

    @property
    def networks_folder(self) -> Path:
        """Trainings of networks that are not finished, each under the name of its model (disposable)."""
        return self.root / "cache" / "networks"

    @property
    def prefixes_folder(self) -> Path:
        """What the frozen part of a network makes of images, a store for each place to cut (disposable)."""
        return self.root / "cache" / "prefixes"

    def finetuned_store(self, head: str) -> Path:
        """Features by the network that was fine-tuned with a head (disposable)."""
        return self.root / "cache" / "finetuned" / check_head_name(head)

    @property
    def times_folder(self) -> Path:
        """How long work took (disposable)."""
        return self.root / "cache" / "times"

    @property
    def factors_folder(self) -> Path:
        """Factors of training rows (disposable)."""
        return self.root / "cache" / "factors"

    @property
    def looks_file(self) -> Path:
        """Light and sharpness of images that an audit has measured (disposable)."""
        return self.root / "cache" / "looks.json"

    @property
    def failed_file(self) -> Path:
        """Images that passed ``prepare`` and failed in ``extract``."""
        return self.root / "cache" / "failed.csv"

    @property
    def models_folder(self) -> Path:
        """One folder a trained head."""
        return self.root / "models"

    def model_folder(self, head: str) -> Path:
        """Folder of the trained head called `head`."""
        return self.models_folder / check_head_name(head)

    @property
    def sweep_file(self) -> Path:
        """What sweeps have found (JSON)."""
        return self.root / "reports" / "sweep.json"

    @property
    def report_file(self) -> Path:
        """All there is to see, as a page (HTML)."""
        return self.root / "reports" / "index.html"

    @property
    def audit_file(self) -> Path:
        """What the last audit has found (JSON)."""
        return self.root / "reports" / "audit.json"

    @property
    def audit_fixes_file(self) -> Path:
        """What could be done about it, to be edited and applied."""
        return self.root / "reports" / "audit-fixes.csv"

    @property
    def test_looks_file(self) -> Path:
        """Which models were scored on the test split, so that looking twice is seen."""
        return self.root / "reports" / "test-looks.json"

    def metrics_file(self, head: str, split: str) -> Path:
        """Scores of one head on one split (JSON)."""
        return self.root / "reports" / "metrics" / f"{check_head_name(head)}.{split}.json"

    def confusion_file(self, head: str, split: str) -> Path:
        """Actual and predicted label of every scored image (CSV, for ``dvc plots``)."""
        return self.root / "reports" / "plots" / f"{check_head_name(head)}.{split}.confusion.csv"


def check_head_name(name: str) -> str:
    """Return `name` if it may name a head.

    Raises
    ------
    ParamsError
        It is not a lower-case letter followed by lower-case letters, digits, ``_`` and ``-``.
    """
    if not _HEAD_NAME.fullmatch(name):
        raise ParamsError(
            f"head {name!r}: a head's name is a lower-case letter followed by lower-case letters, "
            f"digits, '_' or '-', because it becomes a file name and a DVC stage."
        )
    return name
