"""The OpenAPI description of the service, with the inputs of the model in use."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from qin_zoo.feature_types import type_of
from qin_zoo.serving.fields import taken
from qin_zoo.serving.http.live import example, identity
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.scorer import ITEMS, Scorer

REQUEST = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ScoreRequest"}}},
    }
}
_LARGEST = 3.4028234e38  # of float32
_ID = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str = Field(description="What was expected, what came, and how to mend it.")


class ModelIdentity(BaseModel):
    """The model that scored."""

    name: str = Field(description="The experiment it was exported from.")
    fingerprint: str = Field(description="SHA-256 in the export's manifest.")


class ScoreAnswer(BaseModel):
    """Scores of one request."""

    scores: list[float] = Field(description="One for each candidate: float32, written out exactly.")
    unknown_items: int = Field(
        description="How often an item of the request was unknown and had no embeddings; of named fields, how many "
        "values were in no vocabulary."
    )
    model: ModelIdentity


class Health(BaseModel):
    """The service answers."""

    status: str = "ok"


def openapi(app: FastAPI, scorer: Scorer, settings: Settings) -> dict:
    """The description.

    Args:
        app: its routes.
        scorer: the model whose inputs are described.
        settings: limits, and whether a token is asked for.
    """
    model = identity(scorer)
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=f"{app.description} Now: {model['name']}, {model['fingerprint']}.",
        routes=app.routes,
    )
    components = found.setdefault("components", {})
    request = _request if scorer.fields is None else _fields_request
    components.setdefault("schemas", {})["ScoreRequest"] = request(scorer, settings)
    if settings.token is not None:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in ("/score", "/metrics"):
            for operation in found["paths"][path].values():
                operation["security"] = [{"token": []}]
    return found


def _request(scorer: Scorer, settings: Settings) -> dict:
    original = settings.ids == "original"
    item = {"anyOf": [{"type": "integer"}, {"type": "string"}]} if original else _ID
    required = [described["name"] for described in scorer.inputs if described["default"] is None]
    features = {
        described["name"]: {**_feature(described), "description": "One value for all candidates, or one for each."}
        for described in scorer.inputs
    }
    new = {described["name"]: _value(described) for described in scorer.manifest["inputs"]["new"]}
    history = {
        "type": "array",
        "items": item,
        "maxItems": settings.max_history,
        "description": "Items the user acted on, oldest first. The newest "
        f"{scorer.manifest['inputs']['history']['max_len']} are used.",
    }
    if scorer.beside:
        lists = {ITEMS: history} | {
            described["name"]: {
                "type": "array",
                "items": _value(described),
                "maxItems": settings.max_history,
                "description": "One value for each of these items.",
            }
            for described in scorer.beside
        }
        history = {"type": "object", "additionalProperties": False, "required": [*lists], "properties": lists}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["history", "candidates", *(["context"] if required else [])],
        "properties": {
            "history": history,
            "candidates": {
                "type": "array",
                "items": item,
                "maxItems": settings.max_candidates,
                "description": "Items to score.",
            },
            "context": {
                "type": "object",
                "additionalProperties": False,
                "required": required,
                "properties": features,
                "description": "Row features.",
            },
            "embeddings": {
                "type": "object",
                "maxProperties": settings.max_embeddings,
                **({} if original else {"propertyNames": {"pattern": "^(0|[1-9][0-9]{0,17})$"}}),
                "additionalProperties": {"type": "object", "additionalProperties": False, "properties": new},
                "description": "Features of items beyond the model's table, by item.",
            },
        },
        "example": example(scorer, settings.ids),
    }


def _fields_request(scorer: Scorer, settings: Settings) -> dict:
    """The same of named fields, whose values are raw."""
    history = taken(scorer.manifest["inputs"]["history"]["fields"])
    rows = {described["name"]: _raw_value(described) for described in taken(scorer.inputs)}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*(["history"] if history else []), "candidates"],
        "properties": {
            "history": {
                "type": "object",
                "additionalProperties": False,
                "required": [described["name"] for described in history],
                "properties": {
                    described["name"]: {**_raw_value(described, settings.max_history), "description": _used(described)}
                    for described in history
                },
                "description": "What the user acted on, oldest first, by field.",
            },
            "candidates": {
                "type": "array",
                "items": {"type": "object", "additionalProperties": False, "properties": rows},
                "maxItems": settings.max_candidates,
                "description": "What to score: the fields in which candidates differ.",
            },
            "context": {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: {"anyOf": [one, {"type": "array", "items": one}]} for name, one in rows.items()},
                "description": "All other fields: one value for all candidates, or one for each.",
            },
        },
        "example": example(scorer, settings.ids),
    }


def _used(described: dict) -> str:
    which = (described.get("raw") or {}).get("keep", "newest")
    return f"The {which} {described['max_len']} are used, as in training."


def _raw_value(described: dict, most: int | None = None) -> dict:
    """Of a named field; null is a missing value."""
    raw = described.get("raw")
    form = type_of(described).form
    if form == "vector":
        return _value(described)
    if form == "number":
        return {"type": ["number", "null"]}
    if raw:
        one = {"type": [{"int": "integer", "float": "number"}.get(raw["dtype"], "string"), "null"]}
        one |= {"description": described["expected"]} if described.get("expected") else {}
    else:
        one = {"type": "integer", "minimum": 0, "maximum": described["vocab_size"] - 1}
    if form == "id":
        return one
    kinds = ["array", *(["string"] if raw else []), *(["null"] if most is None else [])]
    return {"type": kinds, "items": one, **({} if most is None else {"maxItems": most})}


def _feature(described: dict) -> dict:
    """Of a row feature: one value, or a list with one for each candidate."""
    one = _value(described)
    return {"anyOf": [one, {"type": "array", "items": one}]}


def _value(described: dict) -> dict:
    kind = type_of(described)
    one = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
    if kind.ids:
        one = {"type": "integer", "minimum": 0, "maximum": described["vocab_size"] - 1}
    if not kind.width:
        return one
    wide = described[kind.width]
    return {"type": "array", "items": one, **({} if kind.ids else {"minItems": wide}), "maxItems": wide}
