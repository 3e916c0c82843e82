"""Corpora that several files look at."""

from pathlib import Path

import pytest

from spaces.config import CorpusConfig, PluginRef
from trainable.corpora.tokenize import build
from trainable.corpora.tokenized import TokenizedCorpus


@pytest.fixture(scope="session")
def e2e(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> TokenizedCorpus:
    """The real E2E corpus by the default settings. To be read only."""
    folder = tmp_path_factory.mktemp("e2e")
    build(CorpusConfig(source=PluginRef(name="e2e", path=str(data_dir / "e2e"))), folder)
    return TokenizedCorpus.open(folder)
