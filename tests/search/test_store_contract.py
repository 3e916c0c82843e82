"""Every store keeps the contract."""

import pytest

from search.records import RunFolder
from search.records_memory import MemoryRecords
from search.testing import StoreContract


class TestRunFolder(StoreContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path
        yield
        self.folder.close()

    def build(self):
        self.folder = RunFolder.create(self.path, "toy", "name: toy\n")
        return self.folder


class TestMemoryRecords(StoreContract):
    def build(self):
        return MemoryRecords()
