"""The generative model: its exact probabilities against enumeration, its draws against its rules."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from qin_zoo.data.sample_world import Rules, draw_interests, draw_topics, make_world, membership, sigmoid

ITEMS = 300


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def world():
    return make_world(ITEMS, Rules.for_items(ITEMS), 16, rng())


def enumerated_membership(counts, target, rules):
    """P(z ∈ S | counts, z shown), written straight from the model: a sum over all k-subsets."""
    own, stray = (1 - rules.stray) / rules.interests, rules.stray / rules.topics
    weight_in = weight_all = 0.0
    for subset in combinations(range(rules.topics), rules.interests):
        topic_in_history = np.full(rules.topics, stray)
        topic_in_history[list(subset)] += own
        shown = (1 - rules.exposure) / rules.topics + (target in subset) * rules.exposure / rules.interests
        weight = np.prod(topic_in_history**counts) * shown
        weight_all += weight
        weight_in += weight * (target in subset)
    return weight_in / weight_all


@pytest.mark.parametrize(("topics", "interests"), [(6, 3), (7, 2), (5, 1), (6, 5)])
def test_membership_is_the_enumerated_posterior(topics, interests):
    rules = replace(Rules.for_items(50), topics=topics, interests=interests)
    counts = rng().integers(0, 5, size=(40, topics))
    counts[0] = 0
    target = rng(1).integers(topics, size=40)
    expected = [enumerated_membership(c, t, rules) for c, t in zip(counts, target)]
    np.testing.assert_allclose(membership(counts, target, rules), expected, rtol=1e-9)


def test_membership_without_history_is_that_of_an_empty_one():
    rules = Rules.for_items(2000)
    target = np.arange(rules.topics)
    blind = membership(None, target, rules)
    np.testing.assert_allclose(blind, membership(np.zeros((rules.topics, rules.topics), int), target, rules))
    np.testing.assert_allclose(blind, rules.interests * rules.shown_given_member)  # Bayes, z uniform


def test_membership_stands_long_histories():
    rules = Rules.for_items(91_717)
    counts = np.zeros((3, rules.topics), dtype=np.int64)
    counts[:, 0] = 5000
    counts[1:, 1:3] = 1
    m = membership(counts, np.array([0, 1, 9]), rules)
    assert np.isfinite(m).all()
    assert m[0] > 0.999999
    assert m[1] > m[2]
    assert m[2] < 0.05


def test_membership_leaves_the_counts_alone():
    rules = Rules.for_items(50)
    counts = np.ones((2, rules.topics), dtype=np.int64)
    membership(counts, np.array([0, 1]), rules)
    assert (counts == 1).all()


def test_interests_are_uniform_subsets():
    rules = replace(Rules.for_items(50), topics=5)
    drawn = np.sort(draw_interests(20_000, rules, rng()), axis=1)
    subsets, times = np.unique(drawn, axis=0, return_counts=True)
    assert [tuple(s) for s in subsets] == list(combinations(range(5), 3))
    assert abs(times / 2000 - 1).max() < 0.1


def test_topics_come_from_the_interests_or_from_all():
    interests = np.tile([2, 5], (50_000, 1))
    share = np.bincount(draw_topics(interests, 0.6, 10, rng()), minlength=10) / 50_000
    expected = np.full(10, 0.04)
    expected[[2, 5]] += 0.3
    np.testing.assert_allclose(share, expected, atol=0.01)


def test_items_are_drawn_within_the_topic_by_weight(world):
    topics = np.repeat(np.arange(world.rules.topics), 5000)
    drawn = world.draw_items(topics, rng())
    assert (world.topic[drawn] == topics).all()
    weight = np.diff(world.ladder, prepend=0.0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=ITEMS + 1)[world.shelf] / 5000, weight, atol=0.03)


def test_a_draw_that_rounds_up_stays_in_its_topic(world):
    class Edge:
        def random(self, n):
            return np.full(n, 1 - 2.0**-53)

    topics = np.arange(world.rules.topics)
    assert (world.topic[world.draw_items(topics, Edge())] == topics).all()


def test_catalogue(world):
    rules = world.rules
    assert world.topic.shape == world.quality.shape == world.likes.shape == (ITEMS + 1,)
    assert set(world.topic[1:]) == set(range(rules.topics))
    assert world.embedding.dtype == np.float32
    assert np.isfinite(world.embedding).all()
    assert not world.embedding[0].any()
    assert not world.tags[0].any()
    for row in world.tags[1:]:
        used = row[row > 0]
        assert used.size >= 1
        assert used.size == np.unique(used).size
        assert (row[: used.size] > 0).all()
    assert world.tags.max() < rules.tag_vocabulary
    for level in (world.likes, world.views):
        assert 0 <= level.min() < level.max() <= 10
        assert np.corrcoef(level[1:], world.quality[1:])[0, 1] > 0.9
    assert (world.likes != world.views).any()


def test_embeddings_and_tags_tell_the_topic():
    world = make_world(2000, Rules.for_items(2000), 128, rng())
    topic = world.topic[1:]
    one_hot = np.eye(world.rules.topics)[topic]
    tags = np.zeros((2000, world.rules.tag_vocabulary))
    np.put_along_axis(tags, world.tags[1:], 1.0, axis=1)
    tags[:, 0] = 0
    for features, least in ((world.embedding[1:], 0.9), (tags, 0.7)):
        half = slice(0, 1000)
        linear = np.linalg.lstsq(features[half], one_hot[half], rcond=1e-6)[0]
        assert ((features[1000:] @ linear).argmax(1) == topic[1000:]).mean() > least


def test_intercept_gives_the_click_rate(world):
    n = 200_000
    interests = draw_interests(n, world.rules, rng())
    topics = draw_topics(interests, world.rules.exposure, world.rules.topics, rng(1))
    items = world.draw_items(topics, rng(2))
    member = (interests == topics[:, None]).any(axis=1)
    assert abs(world.click_probability(member, items).mean() - 0.25) < 0.003


def test_challenge_size():
    rules = Rules.for_items(91_717)
    assert rules.tag_vocabulary == 11_740
    assert 150 <= rules.topics <= 200


def test_sigmoid_does_not_overflow():
    np.testing.assert_array_equal(sigmoid(np.array([-1e9, 0.0, 1e9])), [0.0, 0.5, 1.0])
