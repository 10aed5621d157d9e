"""Places and what is asked of them: URIs, attempts, time limits."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from packs import opened
from pyarrow import fs

from raid.data import storage
from raid.data.storage import Place, place_of
from raid.errors import InputError


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://people/sets/market", Place("s3", "people/sets/market")),
        ("s3://people/", Place("s3", "people")),
        ("gs://people/x", Place("gs", "people/x")),
        ("file:///data/my%20set", Place("file", "/data/my set")),
        ("file://localhost/data", Place("file", "/data")),
        (Path("/data/x"), Place("file", "/data/x")),
        ("~/x", Place("file", os.path.expanduser("~/x"))),
    ],
)
def test_places(text, place):
    assert place_of(text) == place
    assert place_of(str(place)) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://", "wanted s3://BUCKET/PREFIX"),
        ("s3:///x", "wanted s3://BUCKET/PREFIX"),
        ("s3://people//x", "wanted s3://BUCKET/PREFIX"),
        ("s3://people/../x", "wanted s3://BUCKET/PREFIX"),
        ("s3://people/x?region=eu", r"AWS_REGION"),
        ("http://people/x", "http:// cannot be read"),
        ("file://people/x", "wanted file:///FOLDER"),
    ],
)
def test_what_is_no_place_is_said(text, said):
    with pytest.raises(InputError, match=said):
        place_of(text)


def test_credentials_in_a_uri_are_refused_and_not_shown():
    with pytest.raises(InputError, match="credentials do not belong into a URI") as raised:
        place_of("s3://AKIA:secret@people/x")
    assert "secret" not in str(raised.value)
    assert "AKIA" not in str(raised.value)


def test_an_unwritable_cache_is_named(out, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"data\.cache_folder: .*file/shards: .*; choose another"):
        opened(out, tmp_path / "file")


def test_connections_are_tried_again_and_refusals_are_not(monkeypatch, caplog):
    monkeypatch.setattr(storage, "_PAUSES_S", (0.0, 0.0))
    asked = []

    def failing(message):
        def action():
            asked.append(message)
            raise OSError(message)

        return action

    place = Place("s3", "people/set")
    with pytest.raises(InputError, match=r"s3://people/set/a\.parquet: no connection to the storage .*AWS"):
        storage._tried(place, "a.parquet", 5.0, failing("AWS Error NETWORK_CONNECTION during GetObject"))
    assert len(asked) == 3
    assert caplog.text.count("s3://people/set/a.parquet") == 2
    asked.clear()
    with pytest.raises(InputError, match="the storage refuses the credentials"):
        storage._tried(place, "a.parquet", 5.0, failing("AWS Error ACCESS_DENIED during GetObject"))
    with pytest.raises(InputError, match="set AWS_REGION"):
        storage._tried(place, "a.parquet", 5.0, failing("AWS Error UNKNOWN (HTTP status 301) during"))
    assert len(asked) == 2


def test_google_storage_is_asked_through_pyarrow_and_does_not_go_on_for_ever(cache, monkeypatch):
    """No network: a port of this machine at which nobody listens."""
    real, made = fs.GcsFileSystem, []

    def nearby(**options):
        made.append(options)
        options["retry_time_limit"] = timedelta(seconds=1)
        return real(anonymous=True, scheme="http", endpoint_override="127.0.0.1:9", **options)

    monkeypatch.setattr(storage.fs, "GcsFileSystem", nearby)
    storage._filesystem.cache_clear()
    try:
        with pytest.raises(InputError, match=r"gs://people/set/pack\.parquet: no connection to the storage"):
            opened("gs://people/set", cache)
    finally:
        storage._filesystem.cache_clear()
    assert made[0]["retry_time_limit"] <= timedelta(seconds=30)
