"""The generative model behind ``qin-zoo data sample``, with its exact click probabilities.

T topics; item i has a topic z_i, a quality q_i ~ N(0, 1) and an exposure weight. A user's interests S are k
topics, every k-subset equally likely. A history item is drawn iid: its topic from S with probability 1 − ε,
else from all T; the item within the topic by exposure weight. A target's topic is drawn from S with
probability ρ, else from all T. The click is Bernoulli(σ(a + b·1[z ∈ S] + c·q)).

Whoever knows every item's topic and quality and sees one row cannot do better than
m·σ(a + b + c·q) + (1 − m)·σ(a + c·q) with m = P(z ∈ S | history, z was shown): :func:`membership`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Rules:
    """The constants of the generative model.

    The defaults are chosen so that about 100,000 rows bring a model of QIN's kind within 0.01 of the best AUC:
    its attention sums a count of like items, so histories vary less in length and hold fewer strays than real
    ones, and labels are as sure as a best AUC of 0.92 to 0.94 allows.

    Attributes:
        topics: T.
        tag_vocabulary: number of tag ids, padding 0 included.
        interests: k, topics a user is interested in.
        stray: ε, share of history items drawn from all topics.
        exposure: ρ, share of targets drawn from the user's interests.
        intercept: a; solved for ``click_rate`` by :func:`make_world`.
        match_effect: b.
        quality_effect: c.
        click_rate: expected share of clicks.
        popularity_spread: standard deviation of the log of an item's exposure weight.
        shortest_history: histories have this many items at least, except those of newcomers.
        newcomers: share of users without a history.
        history_alpha, history_beta: Beta distribution of a history's length between the shortest and the
            longest; about 40 items of 100 on average.
        tag_slots: tags an item can have.
        tag_fidelity: probability that a tag is one of its item's topic.
        embedding_noise: standard deviation per coordinate around the topic's unit vector.
        level_noise: standard deviation of what ``likes_level`` and ``views_level`` add to the quality.
    """

    topics: int
    tag_vocabulary: int
    interests: int = 3
    stray: float = 0.05
    exposure: float = 0.3
    intercept: float = 0.0
    match_effect: float = 5.0
    quality_effect: float = 1.0
    click_rate: float = 0.25
    popularity_spread: float = 1.0
    shortest_history: int = 10
    newcomers: float = 0.002
    history_alpha: float = 2.7
    history_beta: float = 5.0
    tag_slots: int = 5
    tag_fidelity: float = 0.8
    embedding_noise: float = 0.08
    level_noise: float = 0.25

    @classmethod
    def for_items(cls, items: int) -> Rules:
        """The rules for a catalogue of ``items``: 20 topics at 2,000 items, 199 at 91,717."""
        return cls(
            topics=max(6, round(20 * (items / 2000) ** 0.6)),
            # the challenge's own ratio, which gives its vocabulary of 11,740 at its 91,717 items
            tag_vocabulary=max(61, min(11_740, round(items * 11_740 / 91_717))),
        )

    @property
    def shown_given_member(self) -> float:
        """P(z shown | z ∈ S) = ρ/k + (1 − ρ)/T."""
        return self.exposure / self.interests + self.shown_given_stranger

    @property
    def shown_given_stranger(self) -> float:
        """P(z shown | z ∉ S) = (1 − ρ)/T."""
        return (1 - self.exposure) / self.topics

    @property
    def history_ratio(self) -> float:
        """r, by how much likelier a history item of topic t is when t ∈ S: ((1−ε)/k + ε/T) / (ε/T)."""
        return 1 + (1 - self.stray) / self.interests * self.topics / self.stray


@dataclass(frozen=True)
class World:
    """A catalogue drawn by the rules. Index 0 is the padding item in every per-item array.

    Attributes:
        rules: the rules, intercept solved.
        topic: (M+1,) topic of each item, -1 at 0.
        quality: (M+1,) float64.
        tags: (M+1, tag_slots) int64, 0 where there is no tag, zeros last.
        embedding: (M+1, embedding_dim) float32.
        likes, views: (M+1,) int64 in 0…10.
        shelf: (M,) item ids, sorted by topic.
        ladder: (M,) cumulative exposure over ``shelf``; topic t occupies (t, t+1].
    """

    rules: Rules
    topic: IntArray
    quality: FloatArray
    tags: IntArray
    embedding: NDArray[np.float32]
    likes: IntArray
    views: IntArray
    shelf: IntArray
    ladder: FloatArray

    def draw_items(self, topics: IntArray, rng: np.random.Generator) -> IntArray:
        """One item id for each of ``topics`` (n,), by exposure weight within the topic."""
        rung = np.searchsorted(self.ladder, topics + rng.random(topics.size), side="right")
        # ladder ends at exactly t + 1 for each topic, so rounding up into it can leave the topic
        ends = np.searchsorted(self.ladder, np.arange(1, self.rules.topics + 1), side="right") - 1
        return self.shelf[np.minimum(rung, ends[topics])]

    def click_probability(self, member: NDArray, items: IntArray) -> FloatArray:
        """P(click) of ``items`` (n,) when each matches the interests with probability ``member`` (n,)."""
        rules = self.rules
        base = rules.intercept + rules.quality_effect * self.quality[items]
        return member * sigmoid(base + rules.match_effect) + (1 - member) * sigmoid(base)


def sigmoid(x: NDArray) -> FloatArray:
    """σ(x), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def make_world(items: int, rules: Rules, embedding_dim: int, rng: np.random.Generator) -> World:
    """Draws a catalogue of at least ``rules.topics`` items; the rules' intercept becomes that of their click rate."""
    topics = rules.topics
    # dealt like cards, so that no topic is empty
    topic = np.concatenate([[-1], rng.permutation(np.arange(items) % topics)])
    quality = np.concatenate([[0.0], rng.standard_normal(items)])
    weight = np.exp(rules.popularity_spread * rng.standard_normal(items))

    shelf = 1 + np.argsort(topic[1:], kind="stable")
    ladder = np.empty(items)
    for t in range(topics):
        here = topic[shelf] == t
        running = np.cumsum(weight[shelf[here] - 1])
        ladder[here] = t + running / running[-1]

    return World(
        rules=_solve_intercept(rules, quality[shelf], np.diff(ladder, prepend=0.0) / topics),
        topic=topic,
        quality=quality,
        tags=_draw_tags(topic, rules, rng),
        embedding=_draw_embedding(topic, topics, embedding_dim, rules.embedding_noise, rng),
        likes=_draw_level(quality, rules.level_noise, rng),
        views=_draw_level(quality, rules.level_noise, rng),
        shelf=shelf,
        ladder=ladder,
    )


def membership(counts: IntArray | None, target: IntArray, rules: Rules) -> FloatArray:
    """P(z ∈ S | history, z was shown), z the target's topic.

    Each history item of topic t multiplies the likelihood of every S that holds t by r, so with w_t = r^{n_t}
    P(S | history) ∝ Π_{t∈S} w_t, and the odds of z ∈ S are w_z·e_{k−1}(w₋z) : e_k(w₋z), where e_j is the
    elementary symmetric polynomial and w₋z leaves z out. Being shown multiplies the odds by
    ``shown_given_member / shown_given_stranger``. All in logarithms: r^n is far outside a float's range.

    Args:
        counts: (n, T) history items per topic, or None for an observer who does not see the history.
        target: (n,) the targets' topics.
        rules: the constants.

    Returns:
        (n,) float64.
    """
    n = target.size
    if counts is None:
        log_odds = np.full(n, np.log(rules.interests) - np.log(rules.topics - rules.interests))
    else:
        log_w = counts * np.log(rules.history_ratio)
        at = np.arange(n)
        log_wz = log_w[at, target]
        log_w[at, target] = -np.inf
        log_e = np.full((rules.interests + 1, n), -np.inf)
        log_e[0] = 0.0
        for t in range(rules.topics):
            for j in range(rules.interests, 0, -1):
                log_e[j] = np.logaddexp(log_e[j], log_w[:, t] + log_e[j - 1])
        log_odds = log_wz + log_e[-2] - log_e[-1]
    return sigmoid(log_odds + np.log(rules.shown_given_member) - np.log(rules.shown_given_stranger))


def draw_interests(users: int, rules: Rules, rng: np.random.Generator) -> IntArray:
    """(users, k) distinct topics, every k-subset equally likely (Floyd's algorithm)."""
    chosen = np.empty((users, rules.interests), dtype=np.int64)
    for j in range(rules.interests):
        last = rules.topics - rules.interests + j
        pick = rng.integers(last + 1, size=users)
        taken = (chosen[:, :j] == pick[:, None]).any(axis=1)
        chosen[:, j] = np.where(taken, last, pick)
    return chosen


def draw_topics(interests: IntArray, share: float, topics: int, rng: np.random.Generator) -> IntArray:
    """(n,) topics: one of ``interests`` (n, k) with probability ``share``, else one of all ``topics``."""
    n, k = interests.shape
    own = interests[np.arange(n), rng.integers(k, size=n)]
    return np.where(rng.random(n) < share, own, rng.integers(topics, size=n))


def _solve_intercept(rules: Rules, quality: FloatArray, shown: FloatArray) -> Rules:
    """``rules`` with the intercept at which the expected share of clicks is ``rules.click_rate``.

    Items of ``quality`` (M,) are targets with the probability ``shown`` (M,), by symmetry whether or not z ∈ S.
    """
    member = rules.shown_given_member * rules.interests
    low, high = -50.0, 50.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        base = middle + rules.quality_effect * quality
        rate = shown @ (member * sigmoid(base + rules.match_effect) + (1 - member) * sigmoid(base))
        low, high = (middle, high) if rate < rules.click_rate else (low, middle)
    return replace(rules, intercept=low)


def _draw_tags(topic: IntArray, rules: Rules, rng: np.random.Generator) -> IntArray:
    """(M+1, slots): 1…slots tags an item, mostly its topic's own, none twice, zeros last."""
    shape = (topic.size, rules.tag_slots)
    deck = 1 + rng.permutation(rules.tag_vocabulary - 1)  # tag ids in an order in which topics own stretches
    edges = np.linspace(0, deck.size, rules.topics + 1).astype(np.int64)
    own_topic = np.maximum(topic, 0)[:, None]  # the padding item has none; its row is zeroed below
    start, size = edges[own_topic], np.diff(edges)[own_topic]
    own = start + (rng.random(shape) * size).astype(np.int64)
    place = np.where(rng.random(shape) < rules.tag_fidelity, own, rng.integers(deck.size, size=shape))
    tags = deck[place]
    tags[np.arange(rules.tag_slots) >= rng.integers(1, rules.tag_slots + 1, size=(topic.size, 1))] = 0
    for slot in range(1, rules.tag_slots):
        tags[(tags[:, :slot] == tags[:, slot : slot + 1]).any(axis=1), slot] = 0
    tags[0] = 0
    return np.take_along_axis(tags, np.argsort(tags == 0, axis=1, kind="stable"), axis=1)


def _draw_embedding(
    topic: IntArray, topics: int, dim: int, noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(M+1, dim): the topic's unit vector plus noise; row 0 zero."""
    centre = rng.standard_normal((topics, dim), dtype=np.float32)
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    embedding = rng.standard_normal((topic.size, dim), dtype=np.float32)
    embedding *= np.float32(noise)
    embedding += centre[topic]
    embedding[0] = 0.0
    return embedding


def _draw_level(quality: FloatArray, noise: float, rng: np.random.Generator) -> IntArray:
    """(M+1,) the quality seen through noise, in 11 steps of half a standard deviation."""
    seen = quality + noise * rng.standard_normal(quality.size)
    return np.clip(np.rint(5 + 2 * seen), 0, 10).astype(np.int64)
