"""Installing with uv where it can be had, else with pip. Neither is run here."""

from __future__ import annotations

import subprocess

import pytest

from cluster import install_packages
from cluster.install_packages import install, main, pip_settings, uv_environment, uv_options

LISTING = """:env:.find-links='/wheels'
global.cert='/ca.pem'
global.extra-index-url='file:///here file:///gone'
global.find-links='/others'
global.index-url='https://index/simple'
install.trusted-host='index'
download.no-binary=':all:'
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine where commands are noted; `fails` says which do not come to an end."""
    ran, fails = [], []

    def run(command, **options):
        ran.append((command, options))
        code = int(any(word in command for word in fails))
        return subprocess.CompletedProcess(command, code, stdout=LISTING if "list" in command else "")

    monkeypatch.setattr(install_packages.subprocess, "run", run)
    monkeypatch.setattr(install_packages.shutil, "which", lambda name: "/bin/uv")
    monkeypatch.setattr(install_packages.sys, "dont_write_bytecode", False)
    return ran, fails


def test_settings_of_pip_are_read_by_their_precedence(machine):
    assert pip_settings() == {"find-links": "/wheels", "cert": "/ca.pem", "index-url": "https://index/simple",
                              "extra-index-url": "file:///here file:///gone", "trusted-host": "index"}


def test_they_are_handed_on_and_folders_that_are_gone_are_not(tmp_path):
    told = uv_options({"index-url": "https://index", "extra-index-url": f"file://{tmp_path} file:///gone",
                       "find-links": "/wheels", "constraint": "/pins.txt", "progress-bar": "off"}, "file:///t")
    assert told == ["--index-strategy", "unsafe-best-match", "--default-index", "https://index", "--index",
                    f"file://{tmp_path}", "--find-links", "/wheels", "--constraints", "/pins.txt", "--index",
                    "file:///t"]
    assert uv_options({"no-binary": ":all:"}) is None
    told = uv_environment({"cert": "/ca.pem", "timeout": "9", "no-cache-dir": "true"})
    assert told["UV_HTTP_TIMEOUT"] == "9" and told["UV_NO_CACHE"] == "1" and "SSL_CERT_FILE" in told


def test_uv_installs_and_pip_where_it_fails(machine, capfd):
    ran, fails = machine
    assert main(["-c", "pins.txt", "-e", ".[search]", "numpy"]) == 0
    command, options = ran[-1]
    assert command[:3] == ["/bin/uv", "pip", "install"] and "env" in options
    assert command[-5:] == ["-c", "pins.txt", "numpy", "-e", ".[search]"]
    fails.append("/bin/uv")
    assert install(["numpy"], "file:///t") == 0
    assert ran[-1][0][1:] == ["-m", "pip", "install", "-qq", "--extra-index-url", "file:///t", "--no-compile",
                              "numpy"]
    assert capfd.readouterr().err == "uv could not install it; pip tries\n"
    fails.append("pip")
    assert install(["numpy"]) == 1


def test_all_is_compiled_where_python_keeps_nothing_that_it_compiles(machine, monkeypatch):
    ran, fails = machine
    fails.append("/bin/uv")
    for keeps in (True, False):
        monkeypatch.setattr(install_packages.sys, "dont_write_bytecode", not keeps)
        assert install(["numpy"]) == 0
        (uv, _), (pip, _) = ran[-2:]
        assert ("--compile-bytecode" in uv, "--no-compile" in pip) == (not keeps, keeps)


def test_pip_installs_where_it_is_set_to_what_is_not_known_or_there_is_no_uv(machine, monkeypatch):
    ran, fails = machine
    monkeypatch.setattr(install_packages, "pip_settings", lambda: {"no-binary": ":all:"})
    assert install(["numpy"]) == 0 and [command[2] for command, _ in ran] == ["pip"]
    monkeypatch.setattr(install_packages, "pip_settings", dict)
    monkeypatch.setattr(install_packages.shutil, "which", lambda name: None)
    assert install(["numpy"]) == 0
    assert install_packages.UV in ran[-2][0] and ran[-1][0][-1] == "numpy" and ran[-1][0][2] == "pip"
