"""The service's page: how to ask this model, without a script and without a request to elsewhere."""

from __future__ import annotations

import json
import shlex
from html import escape
from string import Template

from qin_zoo.serving.http.connection import Answer
from qin_zoo.serving.http.loading import model_facts
from qin_zoo.serving.scorer import Scorer

_HEADERS = (("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),)
_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$name · qin-zoo serve</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #8882; padding: 1rem; overflow-x: auto } code { overflow-wrap: anywhere }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #8886 }
</style></head><body>
<h1>$name</h1>
<p>$summary</p>
<p>$holds, fingerprint <code>$fingerprint</code></p>
<h2>Ask</h2>
<pre>$curl</pre>
<h2>Row features</h2>
<p>In <code>context</code>: one value for all candidates, or a list with one for each$elsewhere.</p>
<table><tr><th>feature</th><th>type</th><th>values</th></tr>$features</table>
<h2>Answers of /score</h2>
<table><tr><th>status</th><th></th></tr>$answers</table>
<p><a href="openapi.json">OpenAPI</a> · <a href="metrics">metrics</a> · <a href="healthz">health</a></p>
</body></html>
""")


def page(description: dict, scorer: Scorer, url: str, token: bool) -> Answer:
    """The page of a service that was reached at ``url``, made of its OpenAPI description."""
    manifest = scorer.manifest
    example = json.dumps(description["components"]["schemas"]["ScoreRequest"]["example"])
    bearer = " \\\n  -H 'Authorization: Bearer TOKEN'" if token else ""
    curl = f"curl {url}score -H 'Content-Type: application/json'{bearer} \\\n  -d {shlex.quote(example)}"
    answers = description["paths"]["/score"]["post"]["responses"]
    values = {
        **model_facts(scorer),
        "summary": manifest.get("model_card", {}).get("summary", ""),
        "holds": f"{scorer.items - 1:,} items" if scorer.fields is None else "Named fields, raw values",
        "elsewhere": "" if scorer.fields is None else "; or in every candidate. Sequences of the history in history",
        "curl": curl,
    }
    if length := manifest["inputs"]["history"]["max_len"]:
        values["holds"] += f", histories of up to {length}"
    features = scorer.inputs
    if scorer.fields is not None:
        features = [*scorer.fields.row_columns, *scorer.fields.history_columns]
    rows = {
        "features": _rows((d["name"], d["type"], _values(scorer, d)) for d in features),
        "answers": _rows((status, answer["description"]) for status, answer in answers.items()),
    }
    text = _PAGE.substitute({k: escape(str(v)) for k, v in values.items()} | rows)
    return Answer(200, text.encode(), "text/html; charset=utf-8", _HEADERS)


def _values(scorer: Scorer, described: dict) -> str:
    raw = described.get("raw", {})
    kind = {"int": "whole numbers", "float": "numbers"}.get(raw.get("dtype"), "texts")
    texts = []
    if "expected" in described:
        texts.append(described["expected"] or kind)
    elif "vocabulary" in raw:
        texts.append(f"{kind}, {len(scorer.manifest['vocabularies'][raw['vocabulary']]):,} of them known")
    elif "buckets" in raw or "boundaries" in raw:
        texts.append(kind if "buckets" in raw else "numbers")
    elif "vocab_size" in described:
        texts.append(f"0 to {described['vocab_size'] - 1}")
    if "max_len" in described:
        texts.append(f"up to {described['max_len']} of them")
    if "dim" in described:
        texts.append(f"{described['dim']} numbers")
    return ", ".join(texts) or "a number"


def _rows(rows) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
