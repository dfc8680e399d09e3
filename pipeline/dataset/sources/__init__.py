"""Where images come from: folders, archives, downloads, digits. Lists files, and opens no image."""

from pipeline.dataset.sources.names import image_file
from pipeline.dataset.sources.source import Source, open_source, source_root
from pipeline.dataset.sources.walk import Candidate

__all__ = ["Candidate", "Source", "image_file", "open_source", "source_root"]
