"""The workspace of the heads' tests, under the same names."""

from tests.heads.conftest import asked, change_rows, prepared_folder, workspace

__all__ = ["asked", "change_rows", "prepared_folder", "workspace"]
