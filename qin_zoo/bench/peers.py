"""What one would write instead of ``qin-zoo serve``: an export behind FastAPI, and behind nothing but ASGI and orjson.

Both take the requests of ``/score`` of a model with an item table and row features of one number each, as does
:mod:`qin_zoo.bench.lit`. They check nothing and count nothing. ``uvicorn qin_zoo.bench.peers:with_fastapi --factory``
serves the first one, the file's name being in the variable ``QIN_ZOO_PEER``.
"""

from __future__ import annotations

import os

import numpy as np

FILE = "QIN_ZOO_PEER"


def scoring():
    """Scores of a request, (N,): ONNX Runtime called directly."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(os.environ[FILE], options, providers=["CPUExecutionProvider"])
    types = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    inputs = {i.name: (types[i.type], [d if isinstance(d, int) else 1 for d in i.shape]) for i in session.get_inputs()}
    new = {name: np.zeros(shape, dtype) for name, (dtype, shape) in inputs.items() if name.startswith("new.")}

    def score(history: list, candidates: list, context: dict) -> np.ndarray:
        feed = {"history": np.array(history, np.int64), "candidates": np.array(candidates, np.int64), **new}
        for name, value in context.items():
            feed["context." + name] = np.full(len(candidates), value, inputs["context." + name][0])
        return session.run(None, feed)[0]

    return score


def with_fastapi():
    """Thirty lines of FastAPI."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Request(BaseModel):
        history: list[int]
        candidates: list[int]
        context: dict[str, float]

    class Answer(BaseModel):
        scores: list[float]

    app, score = FastAPI(), scoring()
    Request.model_rebuild(_types_namespace={})

    async def ask(request):
        return Answer(scores=score(request.history, request.candidates, request.context).tolist())

    ask.__annotations__ = {"request": Request, "return": Answer}  # annotations are texts here, and these names local
    app.post("/score")(ask)
    return app


def bare():
    """Twenty-five lines of ASGI with orjson."""
    import orjson

    score = scoring()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        scores = score(**orjson.loads(body))
        text = orjson.dumps({"scores": scores}, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return app
