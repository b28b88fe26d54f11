"""`qin-zoo serve` in a process of its own: answers, limits, signals, and clients that misbehave."""

import http.client
import json
import os
import resource
import select
import shlex
import socket
import struct
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from conftest import REPOSITORY
from http_service import (
    Service,
    answer_of,
    equals,
    path_fixture,  # noqa: F401
    post,
    receive_all,
    request,
    scorer_fixture,  # noqa: F401
)

pytest.importorskip("onnxscript")

from qin_zoo.serving.http.connection import TOLD

BODY = json.dumps(request(3)).encode()


@pytest.fixture(scope="module")
def service(path):
    """A service with short patience, that tests leave as it was."""
    with Service(path, "--timeout", 0.5, "--max-body", 20_000, "--max-candidates", 300) as running:
        yield running
        assert running.score(request()).status_code == 200
        assert not [line for line in running.log if "serving address" not in line]


def ended(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    if not select.select([connection], [], [], 0)[0]:
        return False
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def receive_answer(connection: socket.socket) -> bytes:
    """One answer of a connection that stays."""
    answer = b""
    while not answer.endswith(b"}}"):
        answer += connection.recv(65536)
    return answer


class TestAnswers:
    def test_exactly_the_scorer_s(self, service, scorer):
        for number in range(20):
            answer = service.score(request(number, 10 * number))
            assert answer.status_code == 200
            assert equals(answer, scorer, request(number, 10 * number))

    def test_on_two_connections_at_once(self, service):
        """Halves of two requests, crossed."""
        first, second = service.connect(), service.connect()
        with first, second:
            half = len(BODY) // 2
            for connection in (first, second):
                connection.sendall(post(BODY[:half], "Connection: close", length=len(BODY)))
            for connection in (second, first):
                connection.sendall(BODY[half:])
            assert [answer_of(receive_all(c))[0] for c in (first, second)] == [200, 200]

    @pytest.mark.parametrize("cuts", [(), (30,), (-1,), (-len(BODY),), (-len(BODY) - 2, -20)])
    def test_another_protocol_is_not_taken(self, cuts, service, scorer):
        """Java's client offers HTTP/2 with each request, as `curl --http2` does; it is answered once, in HTTP/1.1."""
        offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA")
        asked = post(BODY, *offer, length=len(BODY))
        last = post(BODY, "Connection: close", length=len(BODY))
        packets = [asked[first:end] for first, end in zip((None, *cuts), (*cuts, None))]
        with service.connect() as connection:
            for packet in [*packets, asked + asked + last]:
                connection.sendall(packet)
                time.sleep(0.05)
            answers = receive_all(connection).split(b"HTTP/1.1 ")[1:]
        assert len(answers) == 4
        for answer in answers:
            status, body = answer_of(b"HTTP/1.1 " + answer)
            assert status == 200
            assert np.array_equal(np.float32(body["scores"]), scorer.score(**request(3)))

    def test_answers_are_sent_at_once(self, service):
        """Connections inherit TCP_NODELAY from the listener; asyncio sets it only where it made the socket itself."""
        from qin_zoo.serving.http.server import listen

        with listen("127.0.0.1", 0)[0] as listener, socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted, client:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class TestBadClients:
    @pytest.mark.parametrize(
        "raw",
        [
            b"hello\r\n\r\n",
            os.urandom(500) + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            post(b"", length=-5),
            post(b"", "Content-Length: 3", "Content-Length: 4"),
            post(b"zz\r\n", "Transfer-Encoding: chunked"),
            b"GET /healthz HTTP/1.1\r\nHost: test\r\nX: " + b"x" * 20_000,
            b"GET /healthz HTTP/1.1\r\nHost: test\r\nHost: other\r\n\r\n",
            b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n",
        ],
        ids=[
            "no http", "random", "no host", "negative", "two lengths", "bad chunk", "huge header", "two hosts",
            "tunnel",
        ],
    )
    def test_garbage(self, raw, service):
        with service.connect() as connection:
            connection.sendall(raw)
            assert receive_all(connection).startswith(b"HTTP/1.1 400")
        assert service.client.get("/healthz").status_code == 200

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1|Content-Length: 5|Transfer-Encoding: chunked",
            b"HTTP/1.1|Transfer-Encoding: chunked|Content-Length: 5",
            b"HTTP/1.1|Transfer-Encoding: chunked|Content-Length: 0",
            b"HTTP/1.0|Transfer-Encoding: chunked|Connection: keep-alive",
            b"HTTP/1.1|Transfer-Encoding: chunked|Transfer-Encoding: identity",
            b"HTTP/1.1|Transfer-Encoding: identity, chunked",
            b"HTTP/1.1|Transfer-Encoding: \x0bchunked",
            b"HTTP/1.1|Transfer-Encoding : chunked",
            b"HTTP/1.1|Content-Length: 5, 6",
            b"HTTP/1.1|Content-Length: +5",
            b"HTTP/1.1|Content-Length: 0x5",
            b"HTTP/1.1|Content-Length: 5\rTransfer-Encoding: chunked",
            b"HTTP/1.1|Content-Length: \x005",
        ],
    )
    def test_two_ends_of_one_request(self, head, service):
        """What another server may take for a second request is not answered."""
        head = b"POST /score " + head.replace(b"|", b"\r\nHost: test\r\nContent-Type: application/json\r\n", 1)
        smuggled = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"
        with service.connect() as connection:
            connection.sendall(head.replace(b"|", b"\r\n") + b"\r\n\r\n0\r\n\r\n" + smuggled)
            answer = receive_all(connection)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"connection: close" in answer.lower()
        assert answer.count(b"HTTP/1.1") == 1

    def test_a_chunk_s_end(self, service):
        """Two bytes that are no line end do not end a chunk (CVE-2025-43859 of h11 below 0.16)."""
        with service.connect() as connection:
            connection.sendall(post(b"2\r\n{}XX0\r\n\r\n", "Transfer-Encoding: chunked"))
            assert receive_all(connection).startswith(b"HTTP/1.1 400")

    @pytest.mark.parametrize("chunked", [False, True])
    def test_oversize(self, chunked, service):
        """A client that reads only after it has sent everything gets the answer too."""
        size = 5_000_000
        with service.connect() as connection:
            if chunked:
                connection.sendall(post(b"", "Transfer-Encoding: chunked"))
                for _ in range(size // 50_000):
                    connection.sendall(b"c350\r\n" + b"x" * 50_000 + b"\r\n")
                connection.sendall(b"0\r\n\r\n")
            else:
                connection.sendall(post(b"x" * size, length=size))
            status, problem = answer_of(receive_all(connection))
        assert status == 413
        assert "at most 20,000 bytes" in problem["detail"]

    def test_a_length_beyond_reason(self, service):
        with service.connect() as connection:
            connection.sendall(post(b"x" * 1000, length=10**12))
            assert answer_of(receive_all(connection))[0] == 413

    def test_slow_headers(self, service):
        """A byte now and then does not keep the connection."""
        with service.connect() as connection:

            def dribble():
                for byte in post(b"", "X: " + "x" * 200):
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)

            with pytest.raises(ConnectionError):
                dribble()

    def test_no_headers_at_all(self, service):
        with service.connect() as connection:
            assert receive_all(connection) == b""

    def test_slow_body(self, service):
        with service.connect() as connection:
            connection.sendall(post(BODY[:10], length=len(BODY)))
            status, problem = answer_of(receive_all(connection))
        assert status == 408
        assert "within 0.5 seconds" in problem["detail"]

    def test_a_byte_a_second(self, service):
        """What comes slowly has no more time than what does not come at all."""
        body, begin = b" " * 1000 + BODY, time.monotonic()
        with service.connect() as connection:

            def dribble():
                connection.sendall(post(b"", length=len(body)))
                for byte in body:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)

            with pytest.raises(ConnectionError):
                dribble()
        assert time.monotonic() - begin < 20  # of 50

    def test_asks_whether_it_may_and_sends_nothing(self, service):
        with service.connect() as connection:
            connection.sendall(post(b"", "Expect: 100-continue", length=len(BODY)))
            answer = receive_all(connection)
        assert answer.startswith(b"HTTP/1.1 100 ")
        assert answer_of(answer.partition(b"\r\n\r\n")[2])[0] == 408

    def test_asks_whether_it_may_where_it_may_not(self, service):
        asked = post(b"", "Expect: 100-continue", length=len(BODY)).replace(b"/score", b"/metrics")
        with service.connect() as connection:
            connection.sendall(asked)
            assert receive_all(connection).startswith(b"HTTP/1.1 405")

    def test_looks_at_heads_alone(self, service):
        """As balancers and uptime monitors do: the headers of GET without the body, and the connection goes on."""
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
        for path in ("/healthz", "/openapi.json", "/", "/healthz"):
            told = []
            for method in ("HEAD", "GET"):
                connection.request(method, path)
                answer = connection.getresponse()
                headers = {name: value for name, value in answer.getheaders() if name.lower() != "date"}
                told.append((answer.status, headers, len(answer.read())))
            (status, headers, body), (_, of_get, size) = told
            assert (status, headers, body) == (200, of_get, 0)
            assert int(headers["content-length"]) == size > 0
        connection.close()

    def test_closes_its_half(self, service, scorer):
        """It has sent all it will, and reads the answers."""
        with service.connect() as connection:
            connection.sendall(post(BODY, length=len(BODY)) * 3)
            connection.shutdown(socket.SHUT_WR)
            answer = receive_all(connection)
        assert answer.count(b"HTTP/1.1 200") == 3
        assert np.array_equal(
            np.float32(json.loads(answer.rpartition(b"\r\n\r\n")[2])["scores"]), scorer.score(**request(3))
        )

    def test_closes_its_half_too_early(self, service):
        with service.connect() as connection:
            connection.sendall(post(BODY[:10], length=len(BODY)))
            connection.shutdown(socket.SHUT_WR)
            assert receive_all(connection) == b""
        assert service.score(request()).status_code == 200

    def test_goes_away(self, service):
        for _ in range(20):
            with service.connect() as connection:
                connection.sendall(post(BODY[:10], length=len(BODY)))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # as a reset
        assert service.score(request()).status_code == 200

    def test_does_not_read(self, service):
        """It asks on and on, and is cut off."""
        asked = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"
        with service.connect() as connection:

            def ask():
                for _ in range(1000):
                    connection.sendall(asked * 1000)

            with pytest.raises(ConnectionError):
                ask()


class TestLimits:
    def test_token(self, path, scorer):
        with Service(path, token="s3cret") as running:
            assert running.score(request()).status_code == 401
            headers = {"Authorization": "Bearer s3cret"}
            assert running.client.post("/score", json=request(), headers=headers).status_code == 200
            assert running.client.get("/healthz").status_code == 200
            assert running.stop() == 0
            assert not any("s3cret" in line for line in running.log)

    def test_connections(self, path, scorer):
        """Those beyond the limit are told; the others are served; when they leave there is room again."""
        with Service(path, "--max-connections", 3) as running:
            idle = [running.connect() for _ in range(3)]
            refused = running.score(request())
            assert refused.status_code == 503
            assert refused.json()["detail"].startswith("too many connections")
            assert refused.headers["Retry-After"] == "1"
            assert running.client.get("/healthz").status_code == 200
            idle[0].sendall(post(BODY, "Connection: close", length=len(BODY)))
            assert answer_of(receive_all(idle[0]))[0] == 200
            for connection in idle:
                connection.close()
            running.client.close()
            until = time.monotonic() + 20
            while httpx.post(running.url + "/score", json=request()).status_code != 200:
                assert time.monotonic() < until


    def test_connections_without_number(self, path):
        """Those that the service has no file for are cut off at once; the others stay."""
        with Service(path, "--max-connections", 3, "--timeout", 60) as running:
            idle = [running.connect() for _ in range(3)]
            more = [running.connect() for _ in range(300)]
            until, open_ = time.monotonic() + 20, more
            while len(open_) > TOLD:
                assert time.monotonic() < until
                time.sleep(0.05)
                open_ = [c for c in open_ if not ended(c)]
            assert not any(ended(connection) for connection in idle)
            idle[0].sendall(post(BODY, "Connection: close", length=len(BODY)))
            assert answer_of(receive_all(idle[0]))[0] == 200
            for connection in idle + more:
                connection.close()

    def test_no_files_left(self, path):
        """The log says so once, and service goes on when there are some again."""
        with Service(path, "--timeout", 60) as running:
            assert running.score(request()).status_code == 200
            resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (24, 4096))
            waiting = [running.connect() for _ in range(40)]
            running.wait_for("ERROR connections wait, none can be accepted", seconds=20)
            time.sleep(3)
            assert len(running.log) == 2
            resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (4096, 4096))
            for connection in waiting:
                connection.sendall(post(BODY, "Connection: close", length=len(BODY)))
            assert {answer_of(receive_all(connection))[0] for connection in waiting} == {200}
            for connection in waiting:
                connection.close()

    def test_fewer_files_than_connections(self, path):
        command = [sys.executable, "-m", "qin_zoo", "serve", str(path), "--port", "0", "--max-connections"]
        code = f"ulimit -n 1000; exec {shlex.join(command)}"
        done = subprocess.run(["sh", "-c", f"{code} 1000"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "needs 1228 open files, this process may have 1000" in done.stderr
        mended = done.stderr.partition("Give --max-connections ")[2].split()[0]
        begun = subprocess.Popen(
            ["sh", "-c", f"{code} {mended}"], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        with begun:
            assert "serving address=" in begun.stderr.readline()
            begun.terminate()
            assert begun.wait(30) == 0


class TestEnd:
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
    def test_a_request_in_flight_is_answered(self, name, path, scorer):
        """Its body is half sent when the signal comes."""
        with Service(path) as running:
            with running.connect() as connection, running.connect() as idle:
                connection.sendall(post(BODY[:10], length=len(BODY)))
                running.wait_for_metric("qin_zoo_in_flight", 2)
                running.signal(name)
                assert idle.recv(1) == b""  # closed before the request is there
                with pytest.raises(ConnectionRefusedError):
                    running.connect()
                connection.sendall(BODY[10:])
                status, answer = answer_of(receive_all(connection))
            assert status == 200
            np.testing.assert_array_equal(np.float32(answer["scores"]), scorer.score(**request(3)))
            assert running.process.wait(30) == 0
            running.wait_for("INFO stopped")

    def test_idle_connections_may_ask_once_more(self, path, scorer):
        """A client that has not heard of the end yet is answered, and told."""
        with Service(path) as running, running.connect() as asking, running.connect() as idle:
            for connection in (asking, idle):
                connection.sendall(post(BODY, length=len(BODY)))
                assert b"connection: close" not in receive_answer(connection).lower()
            running.signal("SIGTERM")
            time.sleep(0.5)
            asking.sendall(post(BODY, length=len(BODY)))
            answer = receive_all(asking)
            assert b"\r\nconnection: close\r\n" in answer.lower()
            assert answer_of(answer)[0] == 200
            assert receive_all(idle) == b""
            assert running.process.wait(30) == 0

    def test_no_clients(self, path):
        with Service(path) as running:
            assert running.score(request()).status_code == 200
            running.client.close()
            begin = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - begin < 1.5

    def test_nobody_is_waited_for_longer_than_the_grace_period(self, path, scorer):
        with Service(path, "--grace", 1) as running, running.connect() as connection:
            connection.sendall(post(BODY[:10], length=len(BODY)))
            running.wait_for_metric("qin_zoo_in_flight", 2)
            assert running.stop() == 0

    def test_killed_and_started_again(self, path, scorer):
        with Service(path) as first:
            assert first.score(request()).status_code == 200
            with first.connect() as connection:
                connection.sendall(post(BODY[:10], length=len(BODY)))
                first.process.kill()
                first.process.wait()
            with Service(path, port=first.port) as second:
                assert second.port == first.port
                assert equals(second.score(request(5)), scorer, request(5))


class TestHeadsThatAreKnown:
    """A head is read once; what comes with the same one is answered as before, however it is cut, as h11 reads it."""

    @staticmethod
    def answers(service, packets: list[bytes], count: int) -> list[tuple[int, bytes]]:
        h11 = pytest.importorskip("h11")
        reader, found = h11.Connection(h11.CLIENT), []
        with service.connect() as connection:
            for packet in packets:
                connection.sendall(packet)
                time.sleep(0.05)
            while len(found) < count:
                asked = h11.Request(method="POST", target="/score", headers=[("Host", "test"), ("Content-Length", "0")])
                reader.send(asked)
                reader.send(h11.EndOfMessage())
                status, body = None, b""
                while not isinstance(part := reader.next_event(), h11.EndOfMessage):
                    if part is h11.NEED_DATA:
                        reader.receive_data(connection.recv(65536))
                    elif isinstance(part, h11.Response):
                        status = part.status_code
                    else:
                        body += part.data
                found.append((status, body))
                if reader.their_state is h11.MUST_CLOSE:
                    break
                reader.start_next_cycle()
        return found

    def test_however_packets_are_cut(self, service, scorer):
        other = json.dumps(request(3)).replace(" ", "", 1).encode() + b" "  # of the same length
        one, two = post(BODY, length=len(BODY)), post(other, length=len(BODY))
        bad = post(b"[" * len(BODY), length=len(BODY))
        first = self.answers(service, [one], 1)[0]
        assert first[0] == 200
        assert np.array_equal(np.float32(json.loads(first[1])["scores"]), scorer.score(**request(3)))
        head = one[: -len(BODY)]
        for packets in ([one, two, one], [one + two + one], [one, head, BODY + two], [one + two[:9], two[9:] + one]):
            assert self.answers(service, packets, 3) == [first] * 3
        assert [status for status, _ in self.answers(service, [one, bad, one], 3)] == [200, 400, 200]
        assert [status for status, _ in self.answers(service, [one, one + b"more\r\n\r\n"], 3)] == [200, 200, 400]

    def test_a_token_is_asked_for_each_time(self, path):
        with Service(path, token="s3cret") as running:
            right, wrong = (post(BODY, f"Authorization: Bearer {t}", length=len(BODY)) for t in ("s3cret", "s3creT"))
            packets = [right, right, wrong, right, post(BODY, length=len(BODY))]
            assert [status for status, _ in self.answers(running, packets, 5)] == [200, 200, 401, 200, 401]
