"""Names in listings of buckets: none of them leaves the folder that it is put into."""

import pytest
from pyarrow import fs

from search.records.copying import Side
from trainable.storage.folders import plain_name
from trainable.storage.object_store import Store, StoreError


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//b", "a/./b", "", "a\\b", "a\nb",
                                  "\x1b[2J"])
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path, monkeypatch):
    assert not plain_name(name)
    store, side = Store(f"file://{tmp_path}"), Side(str(tmp_path))

    class Listing:
        type_name = "s3"

        def get_file_info(self, selector):
            return [fs.FileInfo(f"{selector.base_dir}/{each}", type=fs.FileType.File, size=1)
                    for each in ("space.yaml", name)]

    monkeypatch.setattr(store, "fs", Listing())
    monkeypatch.setattr(side, "fs", Listing())
    monkeypatch.setattr(side, "local", False)
    for listed in (store.sizes, side.looks, lambda: store.get_folder("run", tmp_path / "copy")):
        with pytest.raises(StoreError, match="holds a name that no run writes") as error:
            listed()
        assert "\n" not in str(error.value)


def test_plain_names_pass():
    assert all(map(plain_name, ["space.yaml", "artifacts/trial-0001/config.json", ".synced.json", "ä b"]))
