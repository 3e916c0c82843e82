"""Settings of Ray's that a process makes before Ray is there."""

from __future__ import annotations

from search.distributed.environment import keep_secret


def test_a_token_is_for_its_owner_alone(tmp_path):
    token = tmp_path / "auth_token"
    keep_secret(token)
    assert not token.exists()
    token.write_text("a" * 64)
    token.chmod(0o644)
    keep_secret(token)
    assert token.stat().st_mode & 0o777 == 0o600 and token.read_text() == "a" * 64
    token.chmod(0o400)
    keep_secret(token)
    assert token.stat().st_mode & 0o777 == 0o400, "it is the owner's to be stricter"
