"""The workspace of the heads' tests, under the same names."""

from tests.heads.conftest import change_rows, prepared_folder, workspace

__all__ = ["change_rows", "prepared_folder", "workspace"]
