"""Every store keeps the contract."""

import pytest

from search.contracts.schedulers import StoreContract
from search.records.memory import MemoryRecords
from search.records.run_folder import RunFolder


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
