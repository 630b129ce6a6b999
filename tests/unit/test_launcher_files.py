"""What the launcher, which is root, writes where others may have been before it."""

from __future__ import annotations

import configparser
import os
from pathlib import Path

import pytest

from launcher import rabbitmq, services, variables
from launcher.state import Cloud, State


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    values = variables.parsed(variables.DEFAULTS | {"HOST_IP": "127.0.0.1"})
    made = Cloud(State(tmp_path), "k7ps", values, configparser.RawConfigParser())
    made.state.rabbitmq.mkdir(parents=True)
    made.state.log("x").parent.mkdir(parents=True)
    return made


def test_a_link_in_a_daemons_directory_is_not_followed(cloud: Cloud, tmp_path: Path) -> None:
    target = tmp_path / "somebody's"
    service = rabbitmq.service(cloud)
    assert service.once_ready is not None
    service.once_ready()
    [mark] = cloud.state.rabbitmq.iterdir()
    mark.unlink()
    mark.symlink_to(target)
    service.once_ready()
    assert not target.exists()
    assert mark.is_file()
    assert not mark.is_symlink()


def test_a_log_that_grew_large_is_put_aside_at_the_next_start(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LOG_BYTES", 3)
    service = rabbitmq.service(cloud)
    log = cloud.state.log(service.name)
    for text in ("abc", "d", "e"):
        file = services._open_log(cloud, service)
        os.write(file, text.encode())
        os.close(file)
    assert (log.with_name(f"{log.name}.1").read_text(), log.read_text()) == ("abcd", "e")
