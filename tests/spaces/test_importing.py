"""What imports do to the garbage collector."""

import subprocess
import sys

import pytest

from spaces.importing import importing

SCRIPT = """
import gc
from spaces.importing import importing

passes = []
gc.callbacks.append(lambda phase, info: passes.append(phase))
with importing():
    import pydantic.main, pydantic.json_schema
assert not passes and gc.isenabled(), passes
frozen = gc.get_freeze_count()
assert frozen > 10_000, frozen

class Node: pass

with importing():
    import pydantic.main  # there already
    node = Node(); node.itself = node; del node
assert gc.get_freeze_count() == frozen
assert any(isinstance(each, Node) for each in gc.get_objects())
gc.collect()
assert not any(isinstance(each, Node) for each in gc.get_objects())

gc.disable()
with importing():
    pass
assert not gc.isenabled()
"""


def test_nothing_is_collected_meanwhile_and_what_was_imported_is_frozen():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_a_failed_import_leaves_the_collector_on():
    import gc

    was = gc.isenabled()
    gc.enable()
    try:
        with pytest.raises(ModuleNotFoundError), importing():
            import no_such_module_at_all  # noqa: F401
        assert gc.isenabled()
    finally:
        if not was:
            gc.disable()
