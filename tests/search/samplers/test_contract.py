"""Every method of the registry keeps the contract; a new method is picked up from the registry by itself."""

import pytest

from search.contracts.samplers import SearcherContract
from search.samplers import registry


class TestEveryMethod(SearcherContract):
    @pytest.fixture(params=sorted(registry.METHODS))
    def method(self, request):
        return request.param
