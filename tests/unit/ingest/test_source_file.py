"""Which files a source is, how they are unpacked, and what is said when they cannot be read."""

import bz2
import gzip
import io
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.errors import BadInputError, UnavailableError
from fraud.ingest.mapping.mapping import Mapping
from fraud.ingest.source_file import SourceFiles, pieces

CONTENT = b"id,at,user,shop,usd\na,2024-03-01T10:00:00Z,u,m,1.5\n"
MAPPING = {
    "name": "bank", "source": {"format": "csv"}, "transaction_id": {"column": "id"},
    "event_timestamp": {"column": "at", "format": "ISO8601"}, "user_id": {"column": "user"},
    "merchant_id": {"column": "shop"}, "amount": {"column": "usd"},
}  # fmt: skip


def ids(path: Path, **changes: object) -> list[str]:
    mapping = Mapping.model_validate(MAPPING | changes)
    return [value for piece in pieces(path, mapping) for value in piece.rows["id"].to_pylist()]


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


NAMES = ["source.csv", "source", "SOURCE.CSV", "a[1]b*c.csv", "with space#%20.csv", "a::b.csv"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "packed",
    [
        CONTENT, gzip.compress(CONTENT), gzip.compress(CONTENT[:30]) + gzip.compress(CONTENT[30:]),
        bz2.compress(CONTENT), zstd(CONTENT), zipped(part=CONTENT),
        zipped(**{"__MACOSX/._part": b"x", "part.csv": CONTENT}),
    ],
    ids=["plain", "gzip", "gzip in two members", "bzip2", "zstd", "zip", "zip of a Mac"],
)  # fmt: skip
def test_the_first_bytes_decide_how_a_file_is_unpacked(tmp_path: Path, name: str, packed: bytes) -> None:
    (tmp_path / name).write_bytes(packed)
    [path] = SourceFiles(str(tmp_path / name)).local_copies(tmp_path)
    assert ids(path) == ["a"]


LONG = CONTENT + b"".join(b"%d,2024-03-01T10:00:00Z,u%d,m,%d.5\n" % (n, n * 7919 % 1000, n) for n in range(20_000))


@pytest.mark.parametrize("packed", [gzip.compress(LONG), bz2.compress(LONG), zstd(LONG), zipped(part=LONG)])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "source"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BadInputError, match="cannot be read completely"):
        ids(path)


@pytest.mark.parametrize("members", [{}, {"a.csv": CONTENT, "b.csv": CONTENT}])
def test_a_zip_archive_holds_one_file(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "source.zip"
    # An archive of nothing has no local header: one of a folder has.
    path.write_bytes(zipped(**members or {"folder/": b""}))
    with pytest.raises(BadInputError, match="not an archive of one readable file") as caught:
        ids(path)
    assert caught.value.got == (", ".join(members) or "no file")


def test_a_parquet_file_under_a_csv_mapping_and_the_other_way_round(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    pq.write_table(pa.table({"id": ["a"]}), table)
    with pytest.raises(BadInputError, match="is a Parquet file"):
        ids(table)
    text = tmp_path / "a.parquet"
    text.write_bytes(CONTENT)
    with pytest.raises(BadInputError, match="cannot be read completely"):
        ids(text, source={"format": "parquet"})


def test_a_nested_column_is_named_when_the_mapping_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"id": ["a"], "at": pa.array([0], pa.timestamp("us", "UTC")), "user": ["u"], "usd": [1.5]}
    pq.write_table(pa.table({**columns, "shop": [{"id": "m"}], "m": [["x"]]}), path)
    parquet = {"source": {"format": "parquet"}, "event_timestamp": {"column": "at"}}
    with pytest.raises(BadInputError, match="column shop is nested") as caught:
        ids(path, **parquet)
    assert caught.value.got == "struct<id: string>"
    assert ids(path, **parquet, merchant_id={"constant": "m"}) == ["a"]


def test_a_column_named_twice_in_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = [pa.array(["a"])] * 4 + [pa.array([1.0])] * 2
    pq.write_table(pa.Table.from_arrays(columns, ["id", "at", "user", "shop", "usd", "usd"]), path)
    with pytest.raises(BadInputError, match="several columns named usd"):
        ids(path, source={"format": "parquet"})


@pytest.mark.parametrize(
    ("encoding", "bom"),
    [
        ("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16", b""), ("utf-16-le", b""), ("utf-16-le", b"\xff\xfe"),
        ("utf-16-be", b"\xfe\xff"), ("utf-32", b""), ("cp1252", b""), ("UTF8", b"\xef\xbb\xbf"),
    ],
)  # fmt: skip
def test_encodings_with_and_without_a_byte_order_mark(tmp_path: Path, encoding: str, bom: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(bom + CONTENT.decode().replace("\na,", "\nZoë,").encode(encoding))
    assert ids(path, source={"format": "csv", "encoding": encoding}) == ["Zoë"]


@pytest.mark.parametrize(
    ("written", "declared", "said"),
    [
        ("utf-16", "utf-8", "byte order mark of UTF-16"), ("latin-1", "utf-8", "cannot be read as utf-8"),
        ("latin-1", "ascii", "as ascii"),
    ],
)  # fmt: skip
def test_another_encoding_than_the_declared_one(tmp_path: Path, written: str, declared: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT.decode().replace("\na,", "\nZoë,").encode(written))
    with pytest.raises(BadInputError, match=said) as caught:
        ids(path, source={"format": "csv", "encoding": declared})
    assert "source.encoding" in caught.value.hint


def test_a_folder_is_all_its_files_and_a_pattern_those_it_matches(tmp_path: Path) -> None:
    names = ["part-1.csv", "part-0.csv", "more/part-2.csv", "_SUCCESS", ".part-1.csv.crc", "_temporary/part-9.csv"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CONTENT)

    def found(uri: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in SourceFiles(uri).local_copies(tmp_path / "none")]

    assert found(str(tmp_path)) == ["more/part-2.csv", "part-0.csv", "part-1.csv"]
    assert found(f"file://{tmp_path}") == ["more/part-2.csv", "part-0.csv", "part-1.csv"]
    assert found(str(tmp_path / "part-*.csv")) == ["part-0.csv", "part-1.csv"]
    assert found(str(tmp_path / "**/*.csv")) == ["more/part-2.csv", "part-0.csv", "part-1.csv"]
    assert found(str(tmp_path / "_temporary/*.csv")) == ["_temporary/part-9.csv"]


def test_a_relative_pattern_works_in_a_folder_whose_name_looks_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a[1]b*", "a1b"):
        (tmp_path / folder / "parts").mkdir(parents=True)
        (tmp_path / folder / "parts/x.csv").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path / "a[1]b*")
    assert list(SourceFiles("parts/*.csv").local_copies(tmp_path)) == [Path("parts/x.csv")]
    assert list(SourceFiles("parts").local_copies(tmp_path)) == [Path("parts/x.csv")]
    assert list(SourceFiles(str(tmp_path / "a[1]b*")).local_copies(tmp_path)) == [tmp_path / "a[1]b*/parts/x.csv"]


@pytest.mark.parametrize("name", ["none.csv", "none-*.csv", "folder"])
def test_a_source_without_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInputError, match=r"is not there|matches no file"):
        SourceFiles(str(tmp_path / name))


def test_an_empty_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CONTENT)
    (tmp_path / "b.csv").touch()
    with pytest.raises(BadInputError, match=r"b\.csv is empty"):
        list(SourceFiles(str(tmp_path)).local_copies(tmp_path))


@contextmanager
def http_server(status: int) -> Iterator[str]:
    """A server that answers CONTENT with this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(CONTENT)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/part.csv"
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def test_a_remote_file_is_copied_while_it_is_read(tmp_path: Path) -> None:
    with http_server(200) as uri:
        for path in SourceFiles(uri).local_copies(tmp_path):
            assert ids(path) == ["a"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "error"), [(404, BadInputError), (403, UnavailableError), (503, UnavailableError)])
def test_what_an_http_server_answers_decides_the_error(status: int, error: type[Exception]) -> None:
    with http_server(status) as uri, pytest.raises(error):
        SourceFiles(uri)


def test_a_server_that_does_not_answer_is_worth_another_try() -> None:
    with pytest.raises(UnavailableError, match="the store refused or did not answer"):
        SourceFiles(f"http://127.0.0.1:{closed_port()}/a.csv")


def test_an_object_store_without_credentials_or_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    s3 = fsspec.get_filesystem_class("s3")
    s3.clear_instance_cache()  # a process keeps the credentials that it read first, here those of another test
    with pytest.raises(UnavailableError) as caught:
        SourceFiles("s3://no-credentials/a.csv")
    assert caught.value.got.startswith("NoCredentialsError: ")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "thing")
    s3.clear_instance_cache()
    with pytest.raises(UnavailableError) as caught:
        SourceFiles("s3://no-endpoint/a.csv")
    assert caught.value.got.startswith("EndpointConnectionError: ")


@pytest.mark.parametrize(
    ("uri", "got"),
    [("gs://b/a.csv", "gcsfs"), ("abfs://b/a.csv", "adlfs"), ("foo://b/a.csv", "Protocol not known")],
)
def test_a_scheme_that_cannot_be_read_is_named(uri: str, got: str) -> None:
    with pytest.raises(BadInputError) as caught:
        SourceFiles(uri)
    assert got in caught.value.got
