"""Exported scores beside the trained model's: rounding passes, another model does not, however rare clicks are."""

import numpy as np
import pytest
import torch
from exporting import make

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from qin_zoo.errors import QinZooError
from qin_zoo.export import export as export_module
from qin_zoo.export.compare import compare
from qin_zoo.export.export import export_model
from qin_zoo.serving import Scorer


def sigmoid(z: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-z.astype(np.float64)))).astype(np.float32)


@pytest.mark.parametrize("offset", [0, -5, -11.5, -16, -40, 5, 12])
@pytest.mark.parametrize("spread", [1e-3, 0.1, 1, 3])
class TestProbabilities:
    @pytest.fixture
    def logits(self, offset, spread):
        return np.random.default_rng(0).normal(offset, spread, 300)

    def test_rounding(self, logits):
        noisy = logits.astype(np.float32) * (1 + 2e-7 * np.random.default_rng(1).normal(size=300))
        assert compare(sigmoid(logits), sigmoid(noisy), "binary_classification", "M")[1]

    def test_another_order(self, logits, offset, spread):
        """The sign of what the model learnt is turned, its mean kept."""
        if spread * np.exp(-max(offset, 0)) < 1e-6:
            pytest.skip("float32 tells no such probabilities apart")
        assert not compare(sigmoid(logits), sigmoid(2 * offset - logits), "binary_classification", "M")[1]

    def test_another_sign(self, logits, offset):
        if offset:
            assert not compare(sigmoid(logits), sigmoid(-logits), "binary_classification", "M")[1]


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_values(scale):
    values = np.float32(scale * np.random.default_rng(0).normal(size=300))
    assert compare(values, values * np.float32(1 + 2e-7), "regression", "M")[1]
    assert not compare(values, -values, "regression", "M")[1]
    assert not compare(values, values + np.float32(0.01 * scale), "regression", "M")[1]


def test_no_numbers():
    with pytest.raises(QinZooError, match="M gives scores that are no numbers"):
        compare(np.float32([0.5, np.nan]), np.float32([0.5, 0.5]), "binary_classification", "M")
    assert not compare(np.float32([0.5]), np.float32([np.nan]), "binary_classification", "M")[1]


class TestRareClicks:
    """A model whose clicks are one in 100,000, and rarer."""

    def made(self, sample, logit):
        made = make("MLP", sample)
        with torch.no_grad():
            last = [m for m in made[2].modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1][-1]
            last.bias += logit
        return made

    def export(self, made, out):
        made[2].save_weights(str(out.with_suffix(".model")))
        return export_model(*made, out.with_suffix(".model"), out, echo=lambda line: None)

    @pytest.mark.parametrize("logit", [-11.5, -30.0])
    def test_scores_are_right_to_float32(self, logit, sample, tmp_path):
        """Beside torch's own sigmoid."""
        found, expected = [], []
        compared = export_module.compare

        def keep(trained, exported, *rest):
            expected.append(trained)
            found.append(exported)
            return compared(trained, exported, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export_module, "compare", keep)
            self.export(self.made(sample, logit), tmp_path / "m.onnx")
        assert expected[0].max() < 1e-3
        np.testing.assert_allclose(found[0], expected[0], rtol=2e-5)

    def test_a_model_of_the_opposite_order_is_refused(self, sample, tmp_path, monkeypatch):
        score = Scorer.score

        def opposite(self, *args):
            scores = score(self, *args).astype(np.float64)
            return (np.exp(2 * np.log(3e-6)) / scores).astype(np.float32)

        monkeypatch.setattr(Scorer, "score", opposite)
        with pytest.raises(QinZooError, match="exported scores are not those of the model"):
            self.export(self.made(sample, -16.0), tmp_path / "m.onnx")
        assert not (tmp_path / "m.onnx").exists()
