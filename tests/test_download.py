"""Files of weights fetched over real HTTP, from servers that misbehave in every way that has been seen."""

import hashlib
import json
import pickle
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from file_server import CONTENT, Server

from vmp import transfer
from vmp.backbones.download import fetch
from vmp.errors import WeightsError
from vmp.transfer import sha256_of


@pytest.fixture
def server(file_server):
    return file_server


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_fetch_once_then_from_the_folder(server, tmp_path, capsys):
    path = fetch([server.url("range")], tmp_path / "a", licence="CC-BY-NC-4.0")
    assert path == tmp_path / "a" / "w.pyth"
    assert path.read_bytes() == CONTENT
    assert files(path.parent) == {"w.pyth", "w.pyth.sha256"}
    assert (path.parent / "w.pyth.sha256").read_text() == f"{sha256_of(path)}  w.pyth\n"
    assert capsys.readouterr().out == "weights: licence CC-BY-NC-4.0: for non-commercial use only\n"
    assert fetch([server.url("range")], path.parent, licence="CC-BY-NC-4.0") == path
    assert capsys.readouterr().out == ""
    assert len(server.asked) == 1


def test_licence_without_limits(server, tmp_path, capsys):
    fetch([server.url("range")], tmp_path, licence="Apache-2.0")
    assert capsys.readouterr().out == "weights: licence Apache-2.0\n"


def test_a_changed_file_is_found_out(server, tmp_path):
    path = fetch([server.url("range")], tmp_path)
    before = sha256_of(path)
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"\0\1")
    with pytest.raises(WeightsError, match="not the file it should be") as error:
        fetch([server.url("range")], tmp_path)
    assert before in str(error.value)
    assert sha256_of(path) in str(error.value)


def test_dropped_connections_are_resumed(server, tmp_path):
    path = fetch([server.url("drop")], tmp_path)
    assert path.read_bytes() == CONTENT
    ranges = [asked for _, asked in server.asked]
    assert ranges == [None, "bytes=1000000-", "bytes=2000000-", "bytes=3000000-"]
    assert files(tmp_path) == {"w.pyth", "w.pyth.sha256"}


def test_a_silent_server_is_not_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    began = time.monotonic()
    assert fetch([server.url("stall")], tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - began < 5
    assert len(server.asked) == 2


def test_a_server_without_versions_starts_over(server, tmp_path):
    assert fetch([server.url("plain")], tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, None]


def test_a_busy_server_is_asked_again(server, tmp_path, capsys):
    assert fetch([server.url("busy")], tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert "HTTP 503" in capsys.readouterr().out


def test_a_later_process_resumes_the_same_version_only(server, tmp_path):
    with pytest.raises(WeightsError, match=r"ended after 1,000,000 of 3,000,004 bytes, 4 tries in a row"):
        fetch([server.url("dead")], tmp_path)
    assert (tmp_path / "w.pyth.part").read_bytes() == CONTENT[:1_000_000]
    server.dying = False
    server.asked.clear()
    assert fetch([server.url("dead")], tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["bytes=1000000-"]

    for place in ("dead", "range"):  # of the same name at another place, not a byte is continued
        server.dying, server.content, server.etag = True, CONTENT, '"one"'
        other = tmp_path / place
        server.asked.clear()
        with pytest.raises(WeightsError):
            fetch([server.url("dead")], other)
        server.dying, server.content, server.etag = False, b"PK\x03\x04" + bytes(2_000_000), '"two"'
        server.asked.clear()
        assert fetch([server.url(place)], other).read_bytes() == server.content
        assert [asked for _, asked in server.asked] == ["bytes=1000000-" if place == "dead" else None]


def test_stopped_between_the_last_byte_and_the_name(server, tmp_path):
    (tmp_path / "w.pyth.part").write_bytes(CONTENT)
    known = {"url": server.url("range"), "etag": server.etag, "modified": "", "length": len(CONTENT)}
    (tmp_path / "w.pyth.part.version").write_text(json.dumps(known))
    assert fetch([server.url("range")], tmp_path).read_bytes() == CONTENT
    assert server.asked == []
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "w.pyth.part").write_bytes(CONTENT[:-9])  # of which version nobody knows
    assert fetch([server.url("range")], tmp_path / "b").read_bytes() == CONTENT
    assert server.asked[-1][1] is None


@pytest.mark.parametrize("how", ["page", "disguised"])
def test_a_page_is_not_weights(server, tmp_path, how):
    with pytest.raises(WeightsError, match="a web page"):
        fetch([server.url(how)], tmp_path)
    assert files(tmp_path) == set()


def test_the_second_place_is_tried(server, tmp_path):
    path = fetch(
        [server.url("missing", "a.safetensors"), server.url("page"), server.url("range", "b.bin")], tmp_path
    )
    assert path.name == "b.bin"


def test_without_network_the_message_says_what_to_do(server, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/there/model.safetensors"
        began = time.monotonic()
        with pytest.raises(WeightsError) as error:
            fetch([closed, server.url("missing", "a.pyth") + "?dl=1"], tmp_path)
    said = str(error.value)
    assert time.monotonic() - began < 5
    assert "space" not in said
    for part in (
        closed,
        "no connection",
        "HTTP 404",
        "backbone.weights=/path/to/file",
        str(tmp_path / "a.pyth"),
    ):
        assert part in said
    (tmp_path / "a.pyth").write_bytes(b"put here by hand")
    assert fetch([closed, server.url("missing", "a.pyth") + "?dl=1"], tmp_path) == tmp_path / "a.pyth"


def test_an_unwritable_folder(tmp_path, server):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="VMP_CACHE"):
        fetch([server.url("range")], tmp_path / "file")


def test_a_read_only_cache_is_enough(server, tmp_path):
    path = fetch([server.url("range")], tmp_path / "cache")
    (path.parent / ".lock").unlink(missing_ok=True)
    (path.parent / ".lock").mkdir()  # no lock can be taken here, even by root
    assert fetch([server.url("range")], path.parent) == path


@pytest.mark.slow
def test_processes_fetch_once(server, tmp_path):
    code = (
        "import sys; from pathlib import Path; from vmp.backbones.download import fetch;"
        "fetch([sys.argv[1]], Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, server.url("slow"), str(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(server.asked) == 1
    assert (tmp_path / "w.pyth").read_bytes() == CONTENT


def test_threads_fetch_once(server, tmp_path):
    threads = [threading.Thread(target=fetch, args=([server.url("slow")], tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert (tmp_path / "w.pyth").read_bytes() == CONTENT


# --- servers that lie ----------------------------------------------------------------------------------------------

ONE, TWO = CONTENT[:40_000], b"PK\x03\x04" + np.random.default_rng(1).bytes(39_996)
CUT = 15_000


def head(status: str, **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


@pytest.fixture
def script(monkeypatch):
    """script(answer, ...) -> (URL, heads): a server that sends each connection the next of these bytes, then the last
    one again, and closes; an answer may be a list with pauses in it. `heads` are the requests that came."""
    monkeypatch.setattr(transfer, "WAITS", (0.01, 0.02, 0.03))
    listeners = []

    def start(*answers: bytes | list[bytes | float]) -> tuple[str, list[str]]:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        heads: list[str] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    came = b""
                    while b"\r\n\r\n" not in came and not came.startswith(b"\x16"):  # TLS begins so
                        came += connection.recv(1 << 16)
                    heads.append(came.decode("latin-1"))
                    answer = answers[min(len(heads), len(answers)) - 1]
                    for piece in [answer] if isinstance(answer, bytes) else answer:
                        time.sleep(piece) if isinstance(piece, float) else connection.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/w.pyth", heads

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def tail(content: bytes, total: object = None, **headers: object) -> bytes:
    """The rest of a file from byte CUT on, as a server gives it that ignores If-Range."""
    span = f"bytes {CUT}-{len(content) - 1}/{total or len(content)}"
    return (
        head("206 Partial", Content_Range=span, Content_Length=len(content) - CUT, **headers) + content[CUT:]
    )


MONDAY, TUESDAY = "Mon, 07 Oct 2024 07:28:00 GMT", "Tue, 08 Oct 2024 07:28:00 GMT"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"ETag": '"one"'}, {"ETag": '"two"'}),
        ({"ETag": '"one"'}, {}),
        ({"ETag": '"one"', "Last_Modified": MONDAY}, {"ETag": '"one"', "Last_Modified": TUESDAY}),
        ({"Last_Modified": MONDAY}, {"Last_Modified": TUESDAY}),
        ({"Last_Modified": MONDAY}, {}),
        ({"ETag": 'W/"one"', "Last_Modified": MONDAY}, {"ETag": 'W/"one"', "Last_Modified": TUESDAY}),
        ({"ETag": '"one"'}, {"ETag": '"one"', "total": len(TWO) + 5}),
    ],
)
def test_two_versions_are_never_joined(script, tmp_path, first, second):
    """The connection breaks, the file changes, and the server sends the rest of the new one although it was asked to
    do so only for the old one."""
    whole = {name: value for name, value in second.items() if name != "total"}
    url, heads = script(
        head("200 OK", Content_Length=len(ONE), **first) + ONE[:CUT],
        tail(TWO, **second),
        head("200 OK", Content_Length=len(TWO), **whole) + TWO,
    )
    path = fetch([url], tmp_path)
    assert path.read_bytes() == TWO
    assert (tmp_path / "w.pyth.sha256").read_text() == f"{hashlib.sha256(TWO).hexdigest()}  w.pyth\n"
    assert ["Range:" in came for came in heads] == [False, True, False]


@pytest.mark.parametrize("headers", [{"ETag": '"one"'}, {"Last_Modified": MONDAY}])
def test_the_same_version_is_continued(script, tmp_path, headers):
    url, heads = script(
        head("200 OK", Content_Length=len(ONE), **headers) + ONE[:CUT], tail(ONE, total="*", **headers)
    )
    assert fetch([url], tmp_path).read_bytes() == ONE
    assert f"If-Range: {next(iter(headers.values()))}\r\n" in heads[1]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}])
def test_without_a_version_a_file_starts_over(script, tmp_path, headers):
    whole = head("200 OK", Content_Length=len(ONE), **headers)
    url, heads = script(whole + ONE[:CUT], whole + ONE)
    assert fetch([url], tmp_path).read_bytes() == ONE
    assert not any("Range:" in came for came in heads)


def test_old_bytes_do_not_stay_under_a_new_version(script, tmp_path):
    """The new version's answer breaks off before its first byte: what is there of the old one must be gone."""
    url, _ = script(
        head("200 OK", Content_Length=len(ONE), ETag='"one"') + ONE[:CUT],
        head("200 OK", Content_Length=len(TWO), ETag='"two"'),
        head("200 OK", Content_Length=len(TWO), ETag='"two"') + TWO,
    )
    assert fetch([url], tmp_path).read_bytes() == TWO


def saved(tmp_path: Path, kind: str) -> bytes:
    """A small file of weights: torch's zip, safetensors, or a pickle."""
    import torch
    from safetensors.torch import save_file

    path, state = tmp_path / kind, {"weight": torch.arange(2000.0)}
    if kind == "zip":
        torch.save(state, path)
    elif kind == "safetensors":
        save_file(state, path)
    else:
        path.write_bytes(pickle.dumps({"weight": state["weight"].numpy()}))
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["zip", "safetensors", "pickle"])
def test_a_body_without_a_length_is_believed_only_with_proof(script, tmp_path, kind):
    content = saved(tmp_path, kind)
    for count, body in enumerate((content, content[:-1], content[:5000])):
        folder = tmp_path / f"{kind}{count}"
        url, _ = script(head("200 OK", ETag='"one"') + body)
        if kind != "pickle" and body == content:
            assert fetch([url], folder).read_bytes() == content
            continue
        with pytest.raises(WeightsError, match="did not say how long the file is"):
            fetch([url], folder)
        assert files(folder) == set()


def test_chunks(script, tmp_path):
    def chunked(*pieces: bytes) -> bytes:
        return head("200 OK", Transfer_Encoding="chunked", ETag='"one"') + b"".join(
            b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces
        )

    url, heads = script(chunked(ONE[:CUT]), tail(ONE, ETag='"one"'))
    assert fetch([url], tmp_path / "broken").read_bytes() == ONE
    assert f"Range: bytes={CUT}-" in heads[1]
    url, heads = script(chunked(ONE[:CUT], ONE[CUT:], b""))
    assert fetch([url], tmp_path / "whole").read_bytes() == ONE
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        *(
            (head("200 OK", Content_Length=length) + ONE, "no usable length")
            for length in ("abc", "-5", "1_000", "40000, 5", "9" * 5000)
        ),
        (head("200 OK", Content_Length=10**17) + ONE, "MB are still to come"),
        (head("200 OK", Content_Length=0), "an empty file"),
        (head("204 No Content"), "HTTP 204"),
        (head("206 Partial", Content_Length=9, Content_Range="bytes 0-99/100") + ONE, "contradicts itself"),
        *(
            (head("302 Found", Location=where), said)
            for where, said in (
                ("http://[::bad/w.pyth", "no address"),
                ("http://127.0.0.1:port/w.pyth", "no address"),
                ("file:///etc/passwd", "HTTP 302"),
                ("/w.pyth", "HTTP 302"),
            )
        ),
        (head("302 Found"), "HTTP 302"),
        (
            head("206 Partial", Content_Range="bytes five-9/10", Content_Length=5) + b"12345",
            "another version",
        ),
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n", "the connection broke"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "the connection broke"),
        (b"", "the connection broke"),
    ],
)
def test_an_answer_that_makes_no_sense(script, tmp_path, answer, said):
    url, _ = script(answer)
    with pytest.raises(WeightsError, match="could not be fetched") as error:
        fetch([url], tmp_path)
    assert said in str(error.value)
    assert "space" not in str(error.value)
    assert "w.pyth" not in files(tmp_path)


def test_a_server_that_stays_slow_is_given_up(script, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "WINDOW", 0.1)
    monkeypatch.setattr(transfer, "SPEED", 100_000.0)
    start = head("200 OK", Content_Length=len(ONE), ETag='"one"')
    url, heads = script([start, *[b"12345", 0.01] * 500])
    with pytest.raises(WeightsError, match=r"too slow .* 4 tries in a row"):
        fetch([url], tmp_path)
    assert len(heads) == 4


def test_routes_and_certificates_are_not_a_matter_of_space(script, tmp_path):
    plain, _ = script(head("200 OK"))
    for url, said in (
        ("http://[fe80::1]/w.pyth", "no connection (OSError"),  # link-local without an interface: no route
        ("http://host.invalid/w.pyth", "no connection (gaierror"),
        (plain.replace("http:", "https:"), "no connection (SSLError"),
    ):
        with pytest.raises(WeightsError) as error:
            fetch([url], tmp_path)
        assert said in str(error.value)
        assert "space" not in str(error.value)


def test_a_certificate_that_nobody_vouches_for(tmp_path):
    if not (openssl := shutil.which("openssl")):
        pytest.skip("needs the openssl command")
    pair = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([openssl, "req", "-x509", *kind, *pair, *name], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = Server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    try:
        with pytest.raises(WeightsError, match=r"certificate is not trusted .*SSL_CERT_FILE"):
            fetch([server.url("range").replace("http:", "https:")], tmp_path / "w")
    finally:
        server.shutdown()
        server.server_close()


def test_no_redirect_gives_up_encryption():
    request = urllib.request.Request("https://there.invalid/w.pyth")
    for where in ("http://there.invalid/w.pyth", "ftp://there.invalid/w.pyth"):
        with pytest.raises(transfer.Failed, match="not encrypted"):
            transfer._Redirects().redirect_request(request, None, 302, "Found", {}, where)
    followed = transfer._Redirects().redirect_request(request, None, 302, "Found", {}, "https://b.invalid/w")
    assert followed.full_url == "https://b.invalid/w"


def test_a_record_that_holds_no_sum(server, tmp_path):
    fetch([server.url("range")], tmp_path)
    for damaged in (b"", b"\xff\x00", b"0" * 63 + b"  w.pyth\n"):
        (tmp_path / "w.pyth.sha256").write_bytes(damaged)
        with pytest.raises(WeightsError, match="holds no SHA-256"):
            fetch([server.url("range")], tmp_path)
        assert (tmp_path / "w.pyth.sha256").read_bytes() == damaged
