"""Every method of the catalogue keeps the contract; a new method is picked up from the catalogue by itself."""

import pytest

from search import catalogue
from search.searcher_testing import SearcherContract


class TestEveryMethod(SearcherContract):
    @pytest.fixture(params=sorted(catalogue.METHODS))
    def method(self, request):
        return request.param
