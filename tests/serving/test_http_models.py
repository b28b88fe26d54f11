"""Several models in one service, shadows, users' histories and events, the access log."""

import shutil
from collections import Counter

import httpx
import numpy as np
import pytest
from http_service import CONTEXT, Local, Service, equals, export, request, settings

pytest.importorskip("onnxscript")

from qin_zoo.cli import main
from qin_zoo.errors import QinZooError
from qin_zoo.serving import Scorer
from qin_zoo.serving.histories import FileHistories, Users, write_histories
from qin_zoo.serving.http import tasks
from qin_zoo.serving.http.models import Models
from qin_zoo.serving.http.settings import Served


@pytest.fixture(scope="module")
def paths(sample):
    return export(sample), export(sample, 2)


@pytest.fixture(scope="module")
def scorers(paths):
    return {name: Scorer(path) for name, path in zip("ab", paths)}


def several(paths, *shares):
    return tuple(Served(name, path, share) for name, path, share in zip("abc", paths, shares))


class TestShares:
    def test_each_answer_is_one_model_s(self, paths, scorers):
        with Local(settings(paths[0], models=several(paths, 3, 1))) as client:
            names = Counter()
            for number in range(200):
                answer = client.post("/score", json=request(number % 30))
                name = answer.json()["model"]["name"]
                names[name] += 1
                assert equals(answer, scorers[name], request(number % 30))
            assert 25 < names["b"] < 80  # of 200, a quarter: three deviations are 18
            for name in "ab":
                answer = client.post("/score", json={**request(3), "model": name})
                assert answer.json()["model"]["name"] == name
            refused = client.post("/score", json={**request(3), "model": "c"})
            assert (refused.status_code, refused.json()["detail"]) == (422, "model: expected a, b, found 'c'.")
            lines = client.get("/metrics").text.splitlines()
            assert f'qin_zoo_score_count{{model="b"}} {5 * (names["b"] + 1)}.0' in lines
            assert {line.partition("name=")[2] for line in lines if "model_info{" in line} == {'"a"} 1.0', '"b"} 1.0'}

    def test_a_user_stays_with_one(self, paths):
        models = Models(settings(paths[0], models=several(paths, 1, 1)))
        chosen = {user: models.choose(user).name for user in map(str, range(2000))}
        assert all(models.choose(user).name == name for user, name in chosen.items())
        assert 900 < Counter(chosen.values())["a"] < 1100

    def test_they_must_take_the_same_requests(self, paths, tmp_path):
        from http_service import rewrite

        other = shutil.copy(paths[1], tmp_path / "other.onnx")
        rewrite(other, lambda m: m["inputs"]["context"].append({"name": "age", "type": "numeric", "default": 0.0}))
        Models(settings(paths[0], models=several((paths[0], other), 1, 1)))
        rewrite(other, lambda m: m["inputs"]["context"][-1].update(default=None))
        with pytest.raises(QinZooError):
            Models(settings(paths[0], models=several((paths[0], other), 1, 1)))


class TestShadow:
    def test_it_is_never_shown_and_always_counted(self, paths, scorers):
        with Local(settings(paths[0], models=several(paths, 1, 0))) as client:
            asked = [request(number) for number in range(20)]
            for one in asked:
                answer = client.post("/score", json=one)
                assert answer.json()["model"]["name"] == "a"
                assert equals(answer, scorers["a"], one)
            while 'qin_zoo_shadow_requests_total{result="scored"} 20.0' not in (text := client.get("/metrics").text):
                assert "failed" not in text
            total = sum(float(scorers["b"].score(**one).sum()) for one in asked)
            (line,) = (line for line in text.splitlines() if line.startswith('qin_zoo_score_sum{model="b"}'))
            assert float(line.split()[-1]) == pytest.approx(total, rel=1e-5)
            assert "qin_zoo_candidates_total 100.0" in text  # of the shown one

    def test_its_faults_are_not_the_client_s(self, paths, monkeypatch):
        models = Models(settings(paths[0], models=several(paths, 1, 0)))
        monkeypatch.setattr(models.shadows[0].current, "answer", lambda *_: 1 // 0)
        with Local(settings(paths[0], models=several(paths, 1, 0)), models) as client:
            assert client.post("/score", json=request()).status_code == 200
            while 'qin_zoo_shadow_requests_total{result="failed"} 1.0' not in client.get("/metrics").text:
                pass


def test_the_histogram_of_scores(paths, scorers):
    """Against numpy's."""
    with Local(settings(paths[0])) as client:
        scores = []
        for number in range(30):
            asked = request(number, 10 * number)
            client.post("/score", json=asked)
            scores += scorers["a"].score(**asked).tolist()
        lines = client.get("/metrics").text.splitlines()
    assert tasks.SCORES[-1] == 1
    for bound in tasks.SCORES:
        want = np.count_nonzero(np.float32(scores) <= np.float32(bound))
        assert f'qin_zoo_score_bucket{{le="{bound}",model="QIN_sample"}} {want}.0' in lines
    (line,) = (line for line in lines if line.startswith("qin_zoo_score_sum"))
    assert float(line.split()[-1]) == pytest.approx(sum(scores), rel=1e-5)


class TestHistories:
    @pytest.fixture
    def file(self, tmp_path):
        users = Users(np.array(["7", "u"]), np.array([0, 3, 4]), {"": np.array([3, 17, 5, 9])})
        write_histories(tmp_path / "h.npz", users)
        return tmp_path / "h.npz"

    def test_looked_up_and_added_to(self, paths, scorers, file):
        chosen = settings(paths[0], histories=str(file))
        with Local(chosen, histories=FileHistories(file, 64)) as client:

            def score(user):
                return client.post("/score", json={"user_id": user, "candidates": [8, 9], "context": CONTEXT})

            for user, history in ((7, [3, 17, 5]), ("7", [3, 17, 5]), ("u", [9]), ("new", [])):
                asked = {"history": history, "candidates": [8, 9], "context": CONTEXT}
                assert equals(score(user), scorers["a"], asked)
            assert client.post("/events", json={"user_id": 7, "item": 44, "time": 1.5}).json() == {"kept": True}
            asked = {"history": [3, 17, 5, 44], "candidates": [8, 9], "context": CONTEXT}
            assert equals(score(7), scorers["a"], asked)
            top = client.post("/top", json={"user_id": 7, "k": 2, "context": CONTEXT}).json()
            assert top["items"] == scorers["a"].top(2, [3, 17, 5, 44], CONTEXT)[0]
            text = client.get("/metrics").text
            assert 'qin_zoo_users_total{known="yes"} 5.0' in text
            assert 'qin_zoo_users_total{known="no"} 1.0' in text
            assert "qin_zoo_events_total 1.0" in text

    @pytest.mark.parametrize(
        ("address", "asked", "message"),
        [
            ("/score", {"user_id": 7, "history": [], "candidates": []}, "expected user_id or history, found both"),
            ("/score", {"candidates": [8], "context": CONTEXT}, "expected user_id or history, found neither"),
            ("/score", {"user_id": [7], "candidates": [8]}, "user_id: expected a text or a whole number"),
            ("/events", {"user_id": 7}, "item is missing. Keys: user_id, item, time"),
            ("/events", {"user_id": 7, "item": "x"}, "expected whole numbers, found 'x'"),
            ("/events", {"user_id": 7, "item": -1}, "expected ids of 0 or more"),
            ("/events", {"user_id": 7, "item": 1, "time": "now"}, "time: expected a number"),
            ("/events", {"user": 7, "item": 1}, "unknown key 'user'"),
            ("/events", [1], "expected a mapping with user_id, item, time"),
        ],
    )
    def test_refused(self, address, asked, message, paths, file):
        chosen = settings(paths[0], histories=str(file))
        with Local(chosen, histories=FileHistories(file, 64)) as client:
            answer = client.post(address, json=asked)
            assert answer.status_code == 422
            assert message in answer.json()["detail"]
            assert len((file.parent / "h.npz.events").read_text().splitlines()) == 1

    def test_without_a_store(self, paths):
        with Local(settings(paths[0])) as client:
            assert client.post("/events", json={}).status_code == 404
            refused = client.post("/score", json={"user_id": 7, "candidates": []})
            assert "this service has no histories" in refused.json()["detail"]

    def test_events_of_all_workers_survive_a_restart(self, paths, scorers, file):
        options = ("--workers", 2, "--histories", file)
        history = [3, 17, 5]
        with Service(paths[0], *options) as running:
            for item in range(40, 60):
                event = {"user_id": "7", "item": item}
                assert httpx.post(f"{running.url}/events", json=event, timeout=20).status_code == 200
                history.append(item)
                found = httpx.post(
                    f"{running.url}/score", json={"user_id": "7", "candidates": [8], "context": CONTEXT}, timeout=20
                )  # any worker, and it knows
                assert equals(found, scorers["a"], {"history": history, "candidates": [8], "context": CONTEXT})
            running.process.kill()
        with Service(paths[0], *options) as running:
            found = running.score({"user_id": "7", "candidates": [8], "context": CONTEXT})
            assert equals(found, scorers["a"], {"history": history, "candidates": [8], "context": CONTEXT})

    def test_a_newer_file_is_watched(self, paths, scorers, file):
        """Workers take it by themselves, a bad one not; what came since stays."""
        asked = {"user_id": "7", "candidates": [8], "context": CONTEXT}
        with Service(paths[0], "--workers", 2, "--histories", file, "--watch", 0.2) as running:
            event = {"user_id": "7", "item": 44}
            assert httpx.post(f"{running.url}/events", json=event, timeout=20).status_code == 200
            users = Users(np.array(["7"]), np.array([0, 2]), {"": np.array([11, 12])}, until=0.0)
            write_histories(file, users)
            running.wait_for("histories reloaded", times=2)
            for _ in range(8):  # any worker
                found = httpx.post(f"{running.url}/score", json=asked, timeout=20)
                want = {"history": [11, 12, 44], "candidates": [8], "context": CONTEXT}
                assert equals(found, scorers["a"], want)
            file.write_bytes(b"no histories")
            running.wait_for("the old histories stay")
            assert equals(httpx.post(f"{running.url}/score", json=asked, timeout=20), scorers["a"], want)


def test_the_access_log(paths):
    with Service(paths[0], "--access-log") as running:
        running.score(request())
        running.client.get("/nothing")
        line = running.wait_for("path=/score")
        assert "INFO request client=127.0.0.1 method=POST path=/score status=200 ms=" in line
        assert "method=GET path=/nothing status=404" in running.wait_for("path=/nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected PATH, or --model NAME=FILE once or more, found none"),
        (["m.onnx", "--model", "a=m.onnx"], "found both"),
        (["--model", "m.onnx"], "--model m.onnx: expected NAME=FILE"),
        (["--model", "a=m.onnx:0"], "expected a share above 0"),
        (["--model", "a=m.onnx", "--shadow", "a=n.onnx"], "a is the name of several models"),
        (["--model", "a=none.onnx"], "none.onnx: No such file"),
    ],
)
def test_options(options, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["serve", *options, "--port", "0"])
    assert end.value.code == 1
    assert message in capsys.readouterr().err
