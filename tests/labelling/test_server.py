"""The labelling server as others see it: who is let in, what is refused, and what a kill leaves."""

from __future__ import annotations

import http.client
import json
import random
import resource
import socket
import stat
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from serving import Server, Starter, asking, labels_of, say, truth

from robal.cli import main
from robal.folder import RunFolder
from robal.labelling.gate import Gate, is_loopback, token_of
from tiny_runs import main_ends


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, list[int]]:
    """A run that asks about 40 images."""
    folder = tmp_path / "run"
    return folder, asking(folder, "start.labels=40")


def test_the_link_gives_a_cookie_that_scripts_cannot_read(shared: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port)
    connection.request("GET", f"/?token={shared.token}")
    answer = connection.getresponse()
    cookie = answer.getheader("Set-Cookie") or ""
    assert answer.status == 200
    assert b'url=/"' in answer.read()
    assert cookie.startswith(f"robal-{shared.port}=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    connection.close()
    assert stat.S_IMODE((shared.folder / ".label-token").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"Cookie": ""}, 403),
        ("/?token=wrong", {"Cookie": ""}, 403),
        ("/api/view", {"Cookie": "robal-1=x"}, 403),
        ("/api/view", {"Host": "evil.example"}, 421),
        ("/api/view", {"Host": "evil.example:{port}"}, 421),
        ("/api/view", {"Host": "127.0.0.1:1"}, 421),
        ("/api/view", {"Host": "0.0.0.0:{port}"}, 421),
        ("/image/../../../etc/passwd", {}, 404),
        ("/image/%2e%2e%2f%2e%2e%2fetc%2fpasswd.png", {}, 404),
        ("/image/{version}/99999999.png", {}, 422),
        ("/image/{version}/-1.png", {}, 404),
        ("/image/other/1.png", {}, 422),
        ("/page.py", {}, 404),
        ("/api/nothing", {}, 404),
    ],
)
def test_what_is_not_for_everybody(shared: Server, path: str, headers: dict[str, str], status: int) -> None:
    version = shared.ask("/api/view")[1]["version"]
    filled = {name: value.format(port=shared.port) for name, value in headers.items()}
    before = len(shared.log.read_text())
    found, body = shared.ask(path.format(version=version), headers=filled)
    assert found == status
    assert "root:" not in str(body)
    assert "refused GET" in shared.log.read_text()[before:]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"who": "x"}', {}, 422),
        (b"not json", {}, 422),
        (b"[" * 100_000, {}, 422),
        (b'{"who": "x", "judgements": [], "more": 1}', {}, 422),
        (b"x" * 300_000, {}, 413),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Origin": "http://evil.example"}, 403),
        (b"{}", {"Origin": "null"}, 403),
        (b"{}", {"Origin": ""}, 403),
        (b"{}", {"Origin": "https://127.0.0.1:{port}"}, 403),
        (b"{}", {"Origin": "http://localhost:{port}"}, 403),  # ours, but not where the request goes
        (b"{}", {"Sec-Fetch-Site": "cross-site"}, 403),
        (b"{}", {"Cookie": ""}, 403),
    ],
)
def test_what_may_not_be_sent(shared: Server, body: bytes, headers: dict[str, str], status: int) -> None:
    filled = {name: value.format(port=shared.port) for name, value in headers.items()}
    assert shared.ask("/api/judgements", body, filled)[0] == status
    assert RunFolder(shared.folder).judgements.all() == []
    assert shared.ask("/api/view")[0] == 200


def test_judgements_that_cannot_be(shared: Server) -> None:
    images = shared.ask("/api/view")[1]["images"]
    other = next(image for image in range(1000) if image not in images)
    assert shared.judge(other, 3)[0] == 409
    for label in (10, -1, -4, 2**40):
        assert shared.judge(images[0], label)[0] == 422
    assert shared.ask("/api/classes", {"who": "Ada", "name": "  "})[0] == 422
    assert shared.ask("/api/go-on", {})[0] == 422  # this server does not train
    assert RunFolder(shared.folder).judgements.all() == []


def test_every_answer_carries_the_headers(shared: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port)
    connection.request("GET", "/", headers=shared.headers())
    answer = connection.getresponse()
    text = answer.read().decode()
    policy = answer.getheader("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert "//" not in text.replace("<!doctype", "")  # no address of anybody else's
    connection.close()


def test_hosts() -> None:
    async def nothing(*_: Any) -> None: ...

    at_home, exposed = Gate(nothing, "t" * 32, 87), Gate(nothing, "t" * 32, 87, "0.0.0.0")
    assert all(at_home.is_ours(host) for host in ("127.0.0.1:87", "localhost:87", "[::1]:87", "LOCALHOST:87"))
    assert not any(at_home.is_ours(host) for host in ("192.168.0.7:87", "localhost", "localhost.evil:87", "", ":87"))
    assert exposed.is_ours("192.168.0.7:87")
    assert not exposed.is_ours("evil.example:87")
    assert Gate(nothing, "t" * 32, 80).is_ours("localhost")  # browsers leave that port out
    assert is_loopback("::1")
    assert not is_loopback("192.168.0.7")


def test_a_token_that_was_cut_short_is_drawn_again(tmp_path: Path) -> None:
    first = token_of(tmp_path)
    assert token_of(tmp_path) == first
    (tmp_path / ".label-token").write_text("")
    again = token_of(tmp_path)
    assert len(again) >= 24
    assert again != first


def test_beyond_this_machine_only_when_it_is_said(
    run: tuple[Path, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["label", str(run[0]), "--host", "0.0.0.0", "--no-browser"])
    assert ended.value.code == 2
    assert "--exposed" in capsys.readouterr().err


def test_others_on_the_network_are_let_in_where_it_is_said(run: tuple[Path, list[int]], start: Starter) -> None:
    server = start(run[0], "--host", "0.0.0.0", "--exposed")
    name = socket.gethostname()
    assert server.link.startswith(f"http://{name}:{server.port}/?token=")
    mine = {"Host": f"{name}:{server.port}", "Origin": f"http://{name}:{server.port}"}
    assert server.ask("/api/view", headers=mine)[0] == 200
    server.question = server.ask("/api/view")[1]["question"]
    said = {"who": "Ada", "question": server.question, "judgements": [{"key": "a" * 9, "image": run[1][0], "label": 3}]}
    assert server.ask("/api/judgements", said, mine)[0] == 200
    assert server.ask("/api/judgements", said, mine | {"Origin": "http://evil.example"})[0] == 403
    assert server.ask("/api/view", headers={"Host": f"evil.example:{server.port}"})[0] == 421
    assert server.ask("/api/view", headers=mine | {"Cookie": ""})[0] == 403


def test_what_cannot_be_labelled_is_said(
    tmp_path: Path, run: tuple[Path, list[int]], start: Starter, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(["label", *words, "--no-browser", "--port", "0"])
        return capsys.readouterr().err

    assert "holds no run" in refusal(str(tmp_path / "nowhere"))
    assert "name the run folder" in refusal()
    server = start(run[0])
    assert "another process" in refusal(str(run[0]))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit):
            main(["label", str(run[0]), "--no-browser", "--port", str(taken.getsockname()[1])])
    assert "cannot be served" in capsys.readouterr().err
    assert server.ask("/api/view")[0] == 200


def killed_while_answers_stream_in(start: Starter, folder: Path, images: list[int], seed: int) -> None:
    """What the server said it has, it has, once; what is sent again with the same key is not doubled."""
    draw, server = random.Random(seed), start(folder)
    accepted: dict[str, int] = {}
    sent: list[tuple[str, int, int]] = []

    def stream() -> None:
        for image in images:
            key, label = uuid.uuid4().hex, draw.randrange(10)
            sent.append((key, image, label))
            try:
                if server.judge(image, label, key=key)[0] == 200:
                    accepted[key] = label
            except (OSError, http.client.HTTPException):
                return

    client = threading.Thread(target=stream)
    client.start()
    while not accepted and client.is_alive():
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.5))
    server.kill()
    client.join()
    kept = {one.key: one.label for one in RunFolder(folder).judgements.all()}
    assert accepted
    assert accepted.items() <= kept.items()
    again = start(folder, port=server.port)
    for key, image, label in sent[-3:]:
        assert again.judge(image, label, key=key)[0] == 200
    stored = RunFolder(folder).judgements.all()
    assert len({one.image for one in stored}) == len(stored)  # one of each image
    assert {key for key, _, _ in sent} >= {one.key for one in stored}
    again.kill()


def test_killed_while_answers_stream_in(start: Starter, tmp_path: Path) -> None:
    for seed in range(3):
        folder = tmp_path / str(seed)
        killed_while_answers_stream_in(start, folder, asking(folder, "start.labels=300"), seed)


@pytest.mark.slow
def test_killed_twenty_times_while_answers_stream_in(start: Starter, tmp_path: Path) -> None:
    for seed in range(3, 23):
        folder = tmp_path / str(seed)
        killed_while_answers_stream_in(start, folder, asking(folder, "start.labels=300"), seed)


def nonsense(draw: random.Random, server: Server) -> bytes:
    """Bytes that look more or less like a request."""
    method = draw.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "GET\x00", "é"])
    path = draw.choice(
        [
            "/",
            "/api/view",
            "/api/judgements",
            "/api/classes",
            "/api/go-on",
            "/image/x/1.png",
            "//",
            "/../..",
            "*",
            "/%00",
        ]
    )
    path += draw.choice(["", "?token=", "?who=" + "a" * draw.randrange(3000), "/" * draw.randrange(50), "%ff%fe"])
    headers = [f"Host: {draw.choice(['127.0.0.1', 'evil', ''])}:{server.port}"] * draw.choice([0, 1, 1, 1, 2])
    if draw.random() < 0.7:
        headers += [f"{name}: {value}" for name, value in server.headers().items()]
    headers += draw.choice([[], ["Transfer-Encoding: chunked"], ["Content-Length: -5"], ["X: " + "y" * 20_000]])
    value: Any = draw.choice(
        [
            None,
            [],
            {
                "who": "x" * draw.randrange(100),
                "judgements": [{"key": "k" * draw.randrange(80), "image": draw.random()}],
            },
            {"who": 3, "name": "\ud800"},
            {"judgements": [[]] * draw.randrange(300)},
        ]
    )
    body = json.dumps(value).encode() if draw.random() < 0.7 else draw.randbytes(draw.randrange(400))
    if draw.random() < 0.8:
        headers += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    text = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in headers) + "\r\n"
    return text.encode("latin-1", "replace") + body


def stays_up(start: Starter, folder: Path, requests: int) -> None:
    images = asking(folder, "start.labels=40")
    server, draw = start(folder), random.Random(0)
    statuses = set()
    for _ in range(requests):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.settimeout(0.5)
            try:
                connection.sendall(nonsense(draw, server))
                connection.shutdown(socket.SHUT_WR)
                statuses.add(connection.recv(4096)[9:12])
            except OSError:
                continue
    assert not any(status.startswith(b"5") for status in statuses)
    assert {b"403", b"421", b"422"} <= statuses
    assert server.process.poll() is None
    assert server.judge(images[0], 3)[0] == 200
    assert [(one.image, one.label) for one in RunFolder(folder).judgements.all()] == [(images[0], 3)]


def test_five_hundred_requests_of_nonsense(start: Starter, tmp_path: Path) -> None:
    stays_up(start, tmp_path / "run", 500)


@pytest.mark.slow
def test_six_thousand_requests_of_nonsense(start: Starter, tmp_path: Path) -> None:
    stays_up(start, tmp_path / "run", 6000)


def test_a_full_disk_loses_nothing_that_was_accepted(start: Starter, run: tuple[Path, list[int]]) -> None:
    folder, images = run
    server = start(folder)
    assert server.judge(images[0], 1)[0] == 200
    none, all_of_it = (1, resource.RLIM_INFINITY), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, none)  # no file may grow
    status, answer = server.judge(images[1], 2)
    assert status == 507
    assert "state.sqlite could not be used" in answer["error"]
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, all_of_it)
    assert server.judge(images[1], 2)[0] == 200
    assert labels_of(folder, images[:2]) == [1, 2]


@pytest.mark.parametrize("acquisition", ["CEAL", "{name: Mix, first: CEAL, second: DFAL}"])
def test_a_class_named_in_a_round_goes_with_what_the_acquisition_function_adds(
    tmp_path: Path, acquisition: str
) -> None:
    folder, known = tmp_path / "run", truth()
    settings = ("start.labels=40", f"acquisition={acquisition}")
    say(folder, {image: known[image] for image in asking(folder, *settings)})
    more = asking(folder, *settings)
    label = RunFolder(folder).judgements.add_class(tuple("0123456789"), "smudge", 1, "Ada")
    say(folder, {image: label if place < 3 else known[image] for place, image in enumerate(more)})
    main_ends(["resume", str(folder), "--json"])
    assert RunFolder(folder).history()[1]["new_classes"] == ["smudge"]
    assert RunFolder(folder).history()[1]["kept"]["pseudo"] + RunFolder(folder).history()[1]["kept"]["twin"] > 0


def test_what_was_said_of_another_run_is_not_taken(start: Starter, run: tuple[Path, list[int]]) -> None:
    folder, images = run
    server = start(folder)
    server.question = "of another run"
    status, answer = server.judge(images[0], 3)
    assert status == 409
    assert "another question" in answer["error"]
    assert RunFolder(folder).judgements.all() == []
    odd = f'prefs={{"a":1}}; flag; {server.headers()["Cookie"]}'  # cookies are shared by all ports of a machine
    assert server.ask("/api/view", headers={"Cookie": odd})[0] == 200


def test_the_run_goes_on_with_what_people_said_and_learns_a_class_they_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    images, known = asking(folder, "start.labels=40"), truth()
    say(folder, {image: known[image] for image in images})
    more = asking(folder, "start.labels=40")
    judgements = RunFolder(folder).judgements
    label = judgements.add_class(tuple("0123456789"), "smudge", 1, "Ada")
    say(folder, {image: label if place < 3 else known[image] for place, image in enumerate(more)})
    say(folder, {more[5]: known[more[5]]}, "Bert")
    main_ends(["resume", str(folder), "--json"])
    first, last = RunFolder(folder).history()
    assert "new_classes" not in first
    assert last["new_classes"] == ["smudge"]
    assert last["query"]["classes"][10] == 3
    assert last["labels"] == first["labels"] | {"training": 50, "repeated": 1, "bought": 51}
    main_ends(["resume", str(folder)])  # finished, and read again as it was
    main_ends(["evaluate", "--run", str(folder), "--images", "5", "--attacks", "pgd", "--no-checks"])
    assert "smudge" in (folder / "report" / "index.html").read_text()
    assert "smudge" in (folder / "rounds" / "001" / "query.csv").read_text()
