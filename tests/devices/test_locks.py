"""Locks: one run at a time, whoever made the file."""

import errno
import pathlib

import pytest

from jaxad.devices import locks
from jaxad.errors import InputError


def denied(*_):
    raise PermissionError(13, "Permission denied")


@pytest.fixture
def others(tmp_path, monkeypatch):
    """The lock file is another user's, in a folder where all may write their own."""
    (tmp_path / ".bank.lock").touch()
    monkeypatch.setattr(pathlib.Path, "unlink", denied)

    def opened(path, mode="r"):
        return denied() if mode == "w" else path.open(mode)

    monkeypatch.setattr(locks, "open", opened, raising=False)
    return tmp_path / "bank"


def test_a_lock_of_another_user_is_waited_for_and_taken(others):
    held, waited = locks._lock_of(others).open(), []
    assert locks._taken(held)

    def waiting():
        waited.append(len(waited))
        held.close()

    with locks.locked(others, waiting):
        assert locks.is_locked(others)
        with locks.tried(others) as mine:
            assert not mine
    assert waited == [0] and not locks.is_locked(others)


def test_a_lock_of_another_user_may_be_let_go_while_it_is_asked_for(
    tmp_path, monkeypatch
):
    asked = []

    def opened(path, mode="r"):
        asked.append(mode)
        return denied() if asked == ["w"] else path.open(mode)

    monkeypatch.setattr(locks, "open", opened, raising=False)
    with locks.locked(tmp_path / "bank", lambda: None):
        assert asked == ["w", "r", "w"]


def test_where_none_can_be_made_nobody_is_waited_for(tmp_path, monkeypatch):
    def opened(path, mode="r"):
        return denied() if mode == "w" else path.open(mode)

    monkeypatch.setattr(locks, "open", opened, raising=False)
    with (
        pytest.raises(InputError, match="Permission denied"),
        locks.locked(tmp_path / "bank", pytest.fail, "config.cache"),
    ):
        pass


def test_where_no_lock_can_be_made_the_sentence_names_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "open", denied, raising=False)
    with pytest.raises(InputError, match=r"Permission denied.*another config\.cache"):
        with locks.locked(tmp_path / "bank", lambda: None, "config.cache"):
            pass


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", without)
    with locks.tried(tmp_path / "bank") as mine:
        assert mine
    assert "has no locks" in caplog.text
