"""The demo's command."""

import sys
from pathlib import Path

import pytest

from server.demo import run
from server.exceptions import ConfigError


def test_the_demo_without_its_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "chitchat_dataset", None)
    options = run.Options(data=tmp_path, users=2, port=0, speed=1, replay=False, json=True)
    with pytest.raises(ConfigError, match=r"pip install 'atlas-sync\[demo\]'"):
        run.run(options)
    assert not list(tmp_path.iterdir())
