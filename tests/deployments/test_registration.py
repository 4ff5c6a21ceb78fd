import json
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr
from typer.testing import CliRunner

from blocks.crds import CrdsCache
from blocks.store import DataStore
from deployments.cli import app
from deployments.registration import S3Access, make_bucket, make_results, make_store, save_block, store_block
from flows.cli import Exit
from tasks.errors import ConfigError

SECRET = "a-secret-that-nobody-sees"


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_saved_store_is_the_same_store_in_a_flow(own_server: dict[str, str], tmp_path: Path) -> None:
    store = make_store(str(tmp_path), "v1", S3Access())
    save_block(store, "same")

    assert DataStore.load("same") == store


def test_saving_again_changes_nothing_and_saving_other_values_keeps_the_identifier(
    own_server: dict[str, str], tmp_path: Path
) -> None:
    outcomes = [save_block(make_store(str(tmp_path), name, S3Access()), "again").outcome for name in ("v1", "v1", "v2")]
    first = DataStore.load("again")._block_document_id
    save_block(make_store(str(tmp_path), "v3", S3Access()), "again")

    assert outcomes == ["created", "unchanged", "changed"]
    assert DataStore.load("again")._block_document_id == first


def test_what_is_not_given_stays_as_it_was(own_server: dict[str, str], tmp_path: Path) -> None:
    access = S3Access("http://localhost:1", "me", SecretStr(SECRET))
    DataStore(
        root="s3://bucket/products", collection="v1", timeout_s=90, read_cache=str(tmp_path), **vars(access)
    ).save("tuned")

    assert invoke("blocks", "register", "--store", "tuned=s3://bucket/products")[0] == Exit.OK
    same = DataStore.load("tuned")
    assert invoke("blocks", "register", "--store", "tuned=s3://other/products", "--collection", "v2")[0] == Exit.OK
    moved = DataStore.load("tuned")

    assert (same.timeout_s, same.read_cache, same.collection, same.endpoint_url) == (
        90,
        str(tmp_path),
        "v1",
        access.endpoint_url,
    )
    assert moved == same.model_copy(update={"root": "s3://other/products", "collection": "v2"})
    assert moved.secret_key == access.secret_key


def test_a_folder_does_not_keep_the_secret_of_the_bucket_before_it(own_server: dict[str, str], tmp_path: Path) -> None:
    save_block(make_store("s3://bucket", "v1", S3Access(None, "me", SecretStr(SECRET))), "moved")
    save_block(make_store(str(tmp_path), None, S3Access()), "moved")

    found = DataStore.load("moved")
    assert (found.root, found.collection, found.access_key, found.secret_key) == (str(tmp_path), "v1", None, None)


def test_products_go_to_main_until_somebody_says_otherwise(own_server: dict[str, str], tmp_path: Path) -> None:
    collections = []
    for collection in (None, "v1", None):
        name, _ = store_block(str(tmp_path), "first-products", collection, S3Access())
        collections.append(DataStore.load(name).collection)

    assert collections == ["main", "v1", "v1"]


def test_registering_offers_the_block_types_in_the_ui(own_server: dict[str, str]) -> None:
    from prefect.client.orchestration import get_client

    code, text = invoke("blocks", "register")

    assert code == Exit.OK, text
    with get_client(sync_client=True) as client:
        for kind in (DataStore, CrdsCache):
            assert client.read_block_type_by_slug(str(kind._block_type_slug)).name == kind._block_type_name


def test_secrets_are_neither_printed_nor_shown_by_the_api(
    own_server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client

    monkeypatch.setenv("MY_SECRET", SECRET)
    access = ("--access-key", "me", "--secret-key-from", "MY_SECRET", "--endpoint-url", "http://localhost:1")
    cache = ("--cache", "rules=s3://rules/crds", "--observatory", "jwst")
    code, text = invoke("blocks", "register", "--store", "secretive=s3://bucket/products", *cache, *access)

    assert code == Exit.OK, text
    assert SECRET not in text
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/block_documents/filter", json={"limit": 200})
        assert "secretive" in answer.text
        assert SECRET not in answer.text
        named = client.request(
            "GET",
            "/block_types/slug/{slug}/block_documents/name/{block_document_name}",
            path_params={"slug": "shearline-data-store", "block_document_name": "secretive"},
        )
        assert set(json.loads(named.text)["data"]["secret_key"]) == {"*"}
    loaded = DataStore.load("secretive")
    assert loaded.secret_key is not None
    assert loaded.secret_key.get_secret_value() == SECRET
    assert SECRET not in repr(loaded)


def test_a_changed_secret_is_noticed(own_server: dict[str, str]) -> None:
    outcomes = [
        save_block(make_store("s3://bucket", "", S3Access(None, "me", SecretStr(secret))), "rotated").outcome
        for secret in ("one", "one", "two")
    ]

    assert outcomes == ["created", "unchanged", "changed"]


@pytest.mark.parametrize("name", ["Products", "my products", "../x", "", "x" * 101])
def test_a_name_that_no_block_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a block"):
        save_block(make_store(str(tmp_path), "", S3Access()), name)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--store", "products"), "is not of the form NAME=URL"),
        (("--store", "products=ftp://host/x"), "a store is a folder, file:// or s3://, not ftp://"),
        (("--cache", "rules=/data/crds"), "--cache needs --observatory"),
        (("--results", "/data/results"), "give an s3:// URL"),
        (("--access-key", "me"), "belong together"),
        (("--collection", "v1"), "--collection v1 says nothing without --store NAME=URL"),
        (("--observatory", "jwst"), "--observatory jwst says nothing without --cache NAME=URL"),
        (("--context", "jwst_1.pmap"), "--context jwst_1.pmap says nothing without --cache NAME=URL"),
        (("--store", "local=/data", "--endpoint-url", "http://localhost:1"), "are about s3:// URLs"),
        (("--store", "local=/data", "--make-buckets"), "are about s3:// URLs"),
        (("--secret-key-from", "NOT_SET_ANYWHERE"), "that environment variable is not set"),
    ],
)
def test_a_wrong_command_line_has_exit_code_2(
    own_server: dict[str, str], arguments: tuple[str, ...], sentence: str
) -> None:
    code, text = invoke("blocks", "register", *arguments)

    assert code == Exit.CONFIG
    assert sentence in " ".join(text.split())


def test_credentials_never_enter_the_block_of_results() -> None:
    # Prefect's own block has no field for a secret: the API shows all its settings
    assert make_results("s3://results/prefect", "http://localhost:1").settings == {"endpoint_url": "http://localhost:1"}


def test_a_missing_bucket_is_created_once() -> None:
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        access = S3Access(f"http://{host}:{port}", "test", SecretStr("test"))

        outcomes = [change.outcome for _ in range(2) for change in make_bucket("s3://new-bucket/raw", access)]

        assert outcomes == ["created", "unchanged"]
        assert make_bucket("/data/raw", access) == []
        store = make_store("s3://new-bucket/raw", "", access)
        store.probe()
    finally:
        server.stop()
