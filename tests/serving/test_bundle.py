"""What an export may hold: a graph that stands by itself, weights that are numbers, and a whole manifest."""

import os

import numpy as np
import pytest
from http_service import CONTEXT, export, rewrite

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
from onnx import TensorProto, helper, numpy_helper

from qin_zoo.errors import QinZooError
from qin_zoo.serving import Scorer, bundle
from qin_zoo.serving.graph import MESSAGES, fault


@pytest.fixture
def path(sample, tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(export(sample).read_bytes())
    return file


def refusal(path) -> str:
    with pytest.raises(QinZooError) as error:
        Scorer(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 500
    return str(error.value)


def changed(change):
    """A change of the graph's message, for ``rewrite``."""

    def graph(data: bytes) -> bytes:
        model = onnx.load_model_from_string(data)
        change(model)
        return model.SerializeToString()

    return graph


def weights(model) -> TensorProto:
    return max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))


def outside(tensor: TensorProto, file: str) -> TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=file)
    tensor.ClearField("raw_data")
    return tensor


class TestGraph:
    def test_weights_in_the_working_folder(self, path, tmp_path, monkeypatch):
        """ONNX Runtime would read them, whatever they are by then."""
        monkeypatch.chdir(tmp_path)

        def move(model):
            tensor = weights(model)
            (tmp_path / "w.bin").write_bytes(tensor.raw_data)
            outside(tensor, "w.bin")

        rewrite(path, graph=changed(move))
        assert "reads weights from another file, which its hash does not cover" in refusal(path)

    def test_wherever_they_stand(self):
        tensor = outside(numpy_helper.from_array(np.zeros(3, np.float32)), "w.bin")
        constant = helper.make_node("Constant", [], ["x"], value=tensor)
        output = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])]
        graph = helper.make_graph([constant], "g", [], output)
        branch = helper.make_node("If", ["c"], ["x"], then_branch=graph, else_branch=graph)
        sparse = onnx.SparseTensorProto(values=tensor, dims=[3])
        function = helper.make_function("f", "f", [], ["x"], [constant], [helper.make_opsetid("", 18)])
        default = onnx.FunctionProto(attribute_proto=[helper.make_attribute("a", tensor)])
        for model in (
            helper.make_model(graph),
            helper.make_model(helper.make_graph([branch], "g", [], output)),
            helper.make_model(helper.make_graph([], "g", [], output, initializer=[tensor])),
            helper.make_model(helper.make_graph([], "g", [], output, sparse_initializer=[sparse])),
            helper.make_model(helper.make_graph([], "g", [], output), functions=[function]),
            onnx.ModelProto(functions=[default]),
            onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=graph)]),
        ):
            assert "another file" in fault(memoryview(model.SerializeToString()))

    def test_onnx_keeps_tensors_nowhere_else(self):
        """Its own description of its messages, followed to every tensor."""

        held, open_ = {}, [onnx.ModelProto.DESCRIPTOR]
        while open_:
            message = open_.pop()
            if message.name not in held:
                held[message.name] = {f.number: f.message_type for f in message.fields if f.message_type is not None}
                open_ += held[message.name].values()
        leading = {"TensorProto"}
        for _ in held:  # more often than is needed
            leading |= {name for name, inner in held.items() if leading & {message.name for message in inner.values()}}
        found = {
            name.removesuffix("Proto"): {
                number: message.name.removesuffix("Proto")
                for number, message in held[name].items()
                if message.name in leading
            }
            for name in leading - {"TensorProto"}
        }
        assert found == MESSAGES

    @pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
    def test_weights_that_are_no_numbers(self, dtype):
        values = np.zeros(2_000_000, dtype)
        values[-1] = np.nan
        tensor = numpy_helper.from_array(values, "w")
        model = helper.make_model(helper.make_graph([], "g", [], [], initializer=[tensor]))
        assert fault(memoryview(model.SerializeToString())) == "has weights that are no numbers (NaN)"
        values[-1] = -np.inf  # masks hold it
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
        assert fault(memoryview(model.SerializeToString())) is None

    def test_one_item_that_no_first_request_asks_for(self, path):
        def spoil(model):
            tensor = next(t for t in model.graph.initializer if list(t.dims)[:1] == [101])
            values = numpy_helper.to_array(tensor).copy()
            values[50] = np.nan
            tensor.raw_data = values.tobytes()

        rewrite(path, graph=changed(spoil))
        assert "has weights that are no numbers (NaN)" in refusal(path)

    def test_the_manifest_of_another_graph(self, path):
        def narrower(manifest):
            manifest["inputs"]["new"][-1]["dim"] = 64

        rewrite(path, narrower)
        assert "does not describe the input 'new.item_emb_d128' of its graph" in refusal(path)

    def test_as_exported(self, path):
        rewrite(path)
        assert np.isfinite(Scorer(path).score([1], [2], CONTEXT)).all()


def put(value, *place):
    def change(manifest):
        for step in place[:-1]:
            manifest = manifest[step]
        manifest[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("inputs"), "inputs: expected an object, found None"),
        (lambda manifest: manifest.pop("name"), "name: expected a text, found None"),
        (lambda manifest: manifest.pop("items"), "items: expected an object"),
        (put([], "inputs"), "inputs: expected an object, found []"),
        (put(-5, "items", "count"), "items.count: expected a whole number from 0 to 2147483648, found -5"),
        (put(10**30, "items", "count"), "items.count: expected a whole number"),
        (put(True, "items", "count"), "found True"),
        (put(1.5, "inputs", "history", "max_len"), "inputs.history.max_len: expected a whole number"),
        (put(-1, "inputs", "history", "max_len"), "inputs.history.max_len: expected a whole number"),
        (put(None, "inputs", "history", "padded"), "inputs.history.padded: expected true or false"),
        (put({}, "inputs", "context"), "inputs.context: expected a list"),
        (put("x", "inputs", "context", 0), "inputs.context[0]: expected an object, found 'x'"),
        (put([], "inputs", "context", 0, "type"), "inputs.context[0].type: expected one of categorical"),
        (put("image", "inputs", "new", 0, "type"), "inputs.new[0].type: expected one of categorical"),
        (put(-1, "inputs", "context", 1, "vocab_size"), "inputs.context[1].vocab_size: expected a whole number"),
        (put("likes_level", "inputs", "context", 1, "name"), "inputs.context: expected each name once"),
        (lambda manifest: manifest["inputs"]["context"][0].pop("default"), "likes_level: expected a default, or null"),
        (put(10**12, "inputs", "new", -1, "dim"), "dim: expected a whole number from 1 to 1048576"),
        (put([1, 2], "items", "original_ids"), "items.original_ids: expected 101 of them, found 2"),
        (put([[]] * 101, "items", "original_ids"), "items.original_ids: expected numbers, texts and null"),
        (put("platt", "calibration"), "Expected a calibration step"),
    ],
)
def test_manifests(change, message, path):
    rewrite(path, change)
    with pytest.raises(QinZooError) as error:
        Scorer(path)
    assert message in str(error.value)


@pytest.mark.parametrize("depth", [100, 300, 500, 900, 990, 5000, 100_000])
def test_a_manifest_of_lists_within_lists(depth, path):
    """Whatever the depth, a refusal or a model, and no RecursionError."""
    data, _ = bundle.read(path)
    begin, _ = bundle._last_field(data, path)
    text = b'{"format": 1, "sha256": "", "name": ' + b"[" * depth + b"]" * depth + b"}"
    entry = bundle._field(1, b"qin_zoo") + bundle._field(2, text)
    path.write_bytes(data[:begin] + bundle._field(14, entry))
    assert "was changed" in refusal(path) if depth < 800 else refusal(path)


def test_nested_messages_without_end():
    """A graph in an attribute in a node in a graph, a thousand times."""
    message = b""
    for _ in range(1000):
        message = bundle._field(1, bundle._field(5, bundle._field(6, message)))
    assert fault(memoryview(bundle._field(7, message))) is None


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_what_is_no_file(kind, tmp_path):
    path = tmp_path / "m.onnx"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 2**40)
    expected = {"folder": "Is a directory", "huge": "an ONNX file holds at most"}
    assert expected.get(kind, "is no regular file") in refusal(path)
