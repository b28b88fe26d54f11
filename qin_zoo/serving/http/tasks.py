"""What a request asks for: scores, the best of a catalogue, or that an event is kept. Its body read, and its answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import orjson

from qin_zoo.errors import RequestError
from qin_zoo.serving.histories import Histories, StoreError, user_key
from qin_zoo.serving.http.body import NoJSON, parse, parse_strictly
from qin_zoo.serving.http.connection import Answer, Request, problem
from qin_zoo.serving.http.log import event
from qin_zoo.serving.http.metrics import SCORES, Metrics
from qin_zoo.serving.http.models import LiveModel, Models
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.scorer import Scorer
from qin_zoo.serving.values import check_keys, shown, width

LONG = 2048  # candidates of a request that would keep others waiting too long
_TOP = ("k", "history", "context", "candidates", "where", "exclude")
_EVENT = ("user_id", "item", "time")
_BOUNDS = np.array(SCORES, np.float32)


@dataclass(slots=True)
class Outcome:
    """A request's answer, and what is counted of it.

    Attributes:
        answer: what the client gets.
        model: whose scores they are.
        scores: for the model's histogram.
        candidates: that were scored.
        unknown: items that the model does not know.
        user: whether the user was known; None where none was named.
        events: that were kept.
        shadow: scores the request once more with each of the shadows.
    """

    answer: Answer
    model: str = ""
    scores: np.ndarray | None = None
    candidates: int = 0
    unknown: int = 0
    user: bool | None = None
    events: int = 0
    shadow: Callable[[], list[Outcome]] | None = None


def count(outcomes: list[Outcome], metrics: Metrics) -> None:
    """Adds outcomes to the metrics, on the event loop: ten of them at once in not much more time than one."""
    scores: dict[str, list[np.ndarray]] = {}
    for outcome in outcomes:
        if outcome.scores is not None:
            scores.setdefault(outcome.model, []).append(outcome.scores)
        if outcome.unknown:
            metrics.unknown.add(outcome.unknown)
        if outcome.user is not None:
            metrics.users.add(1, "yes" if outcome.user else "no")
        if outcome.events:
            metrics.events.add(outcome.events)
    if candidates := sum([outcome.candidates for outcome in outcomes]):
        metrics.candidates.add(candidates)
    for model, parts in scores.items():
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        total = float(np.add.reduce(values, dtype=np.float64))
        metrics.scores.add(np.bincount(_BOUNDS.searchsorted(values)).tolist(), total, model)


class Tasks:
    """Reads requests and answers them."""

    def __init__(self, settings: Settings, models: Models, histories: Histories | None) -> None:
        self._settings, self._models, self._histories = settings, models, histories
        self._top_keys = _TOP if histories is None else (*_TOP, "user_id")

    def read(self, request: Request) -> tuple[Callable[[], Outcome], bool]:
        """What answers a request, from any thread, and whether others should not wait for it.

        Raises:
            NoJSON: its body is none.
            RequestError: it asks for nothing that there is.
        """
        body, path = request.body, request.path
        if self._settings.ids == "table":  # original ids may have brackets in them
            check_size(body, self._models.first.current, self._settings)
        asked = parse(body)
        remote = self._histories is not None and self._histories.remote
        answer, long = self._event, remote
        if path == "/score":
            candidates = asked.get("candidates") if isinstance(asked, dict) else None
            many = isinstance(candidates, list) and len(candidates) > LONG
            answer, long = self._score, many or (remote and "user_id" in asked)
        elif path == "/top":
            answer, long = partial(self._top, request), True
        return partial(self._exactly, answer, asked, body), long

    def _exactly(self, answer: Callable[[object], Outcome], asked: object, body: bytes) -> Outcome:
        """The outcome; a refusal is told of numbers as they were written."""
        try:
            try:
                return answer(asked)
            except RequestError:
                return answer(parse_strictly(body))
        except Exception as error:
            return refused(error)

    # ---- what there is

    def _score(self, asked: object) -> Outcome:
        model, user, asked = self._look_up(asked)
        given = asked.get("embeddings") if isinstance(asked, dict) and self._settings.ids == "table" else None
        if isinstance(given, dict) and len(given) <= self._settings.max_embeddings:  # JSON has texts as keys
            asked = {**asked, "embeddings": {_number(key): value for key, value in given.items()}}
        outcome = self._scored(model, asked)
        outcome.user = user
        if self._models.shadows:
            outcome.shadow = partial(self._shadow, asked)
        return outcome

    def _scored(self, model: LiveModel, asked: object) -> Outcome:
        scorer = model.current
        scores, unknown = scorer.answer(asked)
        text = orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)
        if b"n" in text:  # orjson writes null for what is no finite number
            raise RequestError("expected values that give finite scores; those in context or embeddings are too large.")
        body = b'{"scores":%b,"unknown_items":%d,"model":%b}' % (text, unknown, model.told(scorer))
        return Outcome(Answer(200, body), model.name, scores, len(scores), unknown)

    def _shadow(self, asked: object) -> list[Outcome]:
        outcomes = []
        for model in self._models.shadows:
            try:
                outcomes.append(replace(self._scored(model, asked), candidates=0, unknown=0))
            except Exception as error:
                outcomes.append(refused(error))
        return outcomes

    def _top(self, request: Request, asked: object) -> Outcome:
        model, user, asked = self._look_up(asked)
        check_keys(asked, self._top_keys, ("k", "history"))
        scorer = model.current
        items, scores, scored = scorer.top(**asked, going=lambda: not request.gone)
        found = {"items": items, "scores": scores, "scored": scored, "model": orjson.Fragment(model.told(scorer))}
        answer = Answer(200, orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))
        return Outcome(answer, candidates=scored, user=user)

    def _event(self, asked: object) -> Outcome:
        check_keys(asked, _EVENT, ("user_id", "item"))
        user, time = user_key(asked["user_id"]), asked.get("time")
        if time is not None and (isinstance(time, bool) or not isinstance(time, (int, float))):
            raise RequestError(f"time: expected a number, found {shown(time)}.")
        item, names = asked["item"], self._models.first.current.requests.no_history
        if isinstance(names, dict) and len(names) > 1 and (not isinstance(item, dict) or item.keys() != names.keys()):
            raise RequestError(f"item: expected a value of each by name, {', '.join(names)}, found {shown(item)}.")
        history = {name: [value] for name, value in item.items()} if isinstance(item, dict) else [item]
        self._models.first.current.requests.read_history(history)
        self._histories.append(user, item, time)
        return Outcome(Answer(200, b'{"kept":true}'), events=1)

    # ---- what they have in common

    def _look_up(self, asked: object) -> tuple[LiveModel, bool | None, object]:
        """The model of a request, whether its user is known, and the rest of it with a history."""
        if self._histories is not None and isinstance(asked, dict) and not asked.keys() & {"user_id", "history"}:
            raise RequestError("expected user_id or history, found neither.")
        if not isinstance(asked, dict) or not ("user_id" in asked or "model" in asked):
            return self._models.choose(), None, asked
        asked, user, known = dict(asked), None, None
        name = asked.pop("model", None)
        if "user_id" in asked:
            if self._histories is None:
                raise RequestError("user_id: this service has no histories (--histories). Give history instead.")
            if "history" in asked:
                raise RequestError("history: expected user_id or history, found both.")
            user = user_key(asked.pop("user_id"))
            stored = self._histories.get(user)
            known, scorer = stored.history is not None, self._models.first.current
            asked["history"] = stored.history if known else scorer.requests.no_history
            context = asked.get("context")
            if scorer.of_user and (context is None or isinstance(context, dict)):
                of_user = {key: value for key, value in stored.features.items() if key in scorer.of_user}
                asked["context"] = {**scorer.of_user, **of_user, **(context or {})}
        return self._models.choose(user, name), known, asked


def check_size(body: bytes, scorer: Scorer, settings: Settings) -> None:
    """Whether a request may hold so many lists and objects, before they are built: half a second for a million.

    Raises:
        RequestError: it may not.
    """
    found = body.count(b"[") + body.count(b"{")
    if found <= 5:
        return
    lists = sum(width(described) is not None for described in scorer.inputs)
    features = 1 + len(scorer.manifest["inputs"]["new"])
    most = 5 + lists * (settings.max_candidates + 1) + features * settings.max_embeddings
    if scorer.fields is not None:  # a candidate is an object; a context may be a list of them for each field
        most += settings.max_candidates + len(scorer.fields.rows) + len(scorer.fields.history)
    if found > most:
        raise RequestError(f"body: expected at most {most:,} lists and objects, found {found:,}. Split the request.")


def _number(key: str) -> int | str:
    # Only as JSON writes numbers, so that no two keys become one.
    return int(key) if key.isascii() and key.isdigit() and len(key) < 20 and (key == "0" or key[0] != "0") else key


def refused(error: Exception) -> Outcome:
    """Of a request that cannot be answered."""
    if isinstance(error, NoJSON):
        return Outcome(problem(400, str(error)))
    if isinstance(error, RequestError):
        return Outcome(problem(422, str(error)))
    if isinstance(error, StoreError):
        event(logging.ERROR, "the histories' store does not answer", error=error)
        return Outcome(problem(503, "the store of histories does not answer. Try again later.", ("Retry-After", "1")))
    return Outcome(failed(error))


def failed(error: Exception) -> Answer:
    """The answer where the fault is ours."""
    event(logging.ERROR, "a request failed", error=repr(error))
    return problem(500, "the service failed on this request; its log says why.")
