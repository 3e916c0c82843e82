"""What Ray has under private names alone, for jobs: see `search.distributed.compat`, which has the rest.

Read in the Ray version below; tests/cluster/test_submitting.py says what it has to do.
"""

from __future__ import annotations

import logging

RAY = "2.60.0"
"""Seen in."""


def use_machine_token() -> None:
    """Have this process, and those it starts, show this machine's token, if it has one and the user has
    not said otherwise.

    Ray's own switch; the variable alone would not reach a Ray that is imported already.
    """
    from ray._private.authentication import authentication_token_setup as setup

    setup.logger.setLevel(logging.ERROR)  # it warns that a token is in use
    setup.AuthenticationTokenLoader.instance().reset_cache()  # made since it was last looked for
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
