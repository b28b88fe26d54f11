"""An export behind LitServe: a peer of ``qin-zoo serve``, in a file of its own, as its processes import its class.

``python -m qin_zoo.bench.lit --port N --workers N`` serves it, the file's name being in the variable ``QIN_ZOO_PEER``.
"""

import argparse

import litserve

from qin_zoo.bench.peers import scoring


class Scores(litserve.LitAPI):
    """Scores of ``/score`` by ONNX Runtime."""

    def setup(self, device):
        self.score = scoring()

    def predict(self, x):
        return {"scores": self.score(**x).tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for option in ("--port", "--workers"):
        parser.add_argument(option, type=int)
    asked = parser.parse_args()
    server = litserve.LitServer(Scores(api_path="/score"), accelerator="cpu", workers_per_device=asked.workers)
    server.run("127.0.0.1", asked.port, num_api_servers=asked.workers, log_level="error", generate_client_file=False)
