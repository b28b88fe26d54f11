"""The OpenAPI description of the service, with the inputs of the model in use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qin_zoo import __version__
from qin_zoo.feature_types import type_of
from qin_zoo.serving.http.loading import model_facts
from qin_zoo.serving.http.settings import Settings
from qin_zoo.serving.items import ITEMS
from qin_zoo.serving.scorer import Scorer
from qin_zoo.serving.values import is_required

_LARGEST = 3.4028234e38  # of float32
_TEXT, _WHOLE = {"type": "string"}, {"type": "integer"}
_ID = {**_WHOLE, "minimum": 0, "maximum": 2**63 - 1}
_USER = {"anyOf": [{**_TEXT, "minLength": 1}, _WHOLE]}
_SCHEMAS = {
    "Problem": {
        "description": "Why a request was not answered.",
        "properties": {"detail": {**_TEXT, "description": "What was expected, what came, and how to mend it."}},
    },
    "ModelIdentity": {
        "description": "The model that scored.",
        "properties": {
            "name": {**_TEXT, "description": "The experiment it was exported from."},
            "fingerprint": {**_TEXT, "description": "SHA-256 in the export's manifest."},
        },
    },
    "ScoreAnswer": {
        "description": "Scores of one request.",
        "properties": {
            "scores": {
                "type": "array",
                "items": {"type": "number"},
                "description": "One for each candidate: the shortest text that float32 reads as the very score.",
            },
            "unknown_items": {
                **_WHOLE,
                "description": "How often an item of the request was unknown and had no embeddings; of named fields, "
                "how many values were in no vocabulary.",
            },
            "model": {"$ref": "#/components/schemas/ModelIdentity"},
        },
    },
    "TopAnswer": {
        "description": "The best items of the catalogue, the best first.",
        "properties": {
            "items": {"type": "array", "description": "As requests name them."},
            "scores": {"type": "array", "items": {"type": "number"}},
            "scored": {**_WHOLE, "description": "How many items there were to choose from."},
            "model": {"$ref": "#/components/schemas/ModelIdentity"},
        },
    },
    "Kept": {"description": "The event counts from now on.", "properties": {"kept": {"const": True}}},
    "Health": {"description": "The service answers.", "properties": {"status": {"const": "ok"}}},
}
_PROBLEMS = {
    400: "No JSON.",
    401: "No token, or not the service's.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "Not sent as application/json, or compressed.",
    422: "JSON that is no request to this model.",
    503: "Too much to do; Retry-After says when to try again.",
}


def openapi(scorer: Scorer, settings: Settings, models: Sequence[str] = (), paths: Sequence[str] = ()) -> dict:
    """The description of ``paths``, with the inputs of a model; requests may choose among the names of ``models``."""
    model = model_facts(scorer)
    request = (_request if scorer.fields is None else _fields_request)(scorer, settings)
    _add_common(request, scorer, settings, models)
    schemas = {name: {"type": "object", "required": [*s["properties"]], **s} for name, s in _SCHEMAS.items()}
    schemas["ScoreRequest"] = request
    components: dict = {"schemas": schemas}
    security = {}
    if settings.token is not None:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        security = {"security": [{"token": []}]}
    text = {"text/plain": {"schema": _TEXT}}
    described = {
        "/score": _posting("Scores of candidates", "The scores, in the order of the candidates.", "Score"),
        "/healthz": {"get": _operation("Whether the service answers", "It does.", _json("Health"))},
        "/metrics": {"get": _operation("Figures for Prometheus", "Prometheus text.", text)},
    }
    described["/metrics"]["get"]["responses"] |= _problems(401, 503)
    if scorer.catalogue is not None and "/top" in paths:
        schemas["TopRequest"] = _top_request(request, scorer, settings)
        described["/top"] = _posting("The best of the catalogue", "Items and scores.", "Top")
    if "/events" in paths:
        schemas["KeptRequest"] = _event_request(request)
        described["/events"] = _posting("Adds to a user's history", "It is kept.", "Kept")
        schemas["KeptAnswer"] = schemas.pop("Kept")
    for path, operations in described.items():
        for operation in operations.values() if path != "/healthz" else ():
            operation |= security
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qin-zoo serve",
            "version": __version__,
            "description": "Scores candidates for one user with an exported model. "
            f"Now: {model['name']}, {model['fingerprint']}.",
        },
        "paths": described,
        "components": components,
    }


def _add_common(request: dict, scorer: Scorer, settings: Settings, models: Sequence[str]) -> None:
    """What requests for scores may hold besides: a user in the place of a history, and a model's name."""
    if settings.histories is not None:
        request["properties"]["user_id"] = {**_USER, "description": "Whose history is looked up; in place of history."}
        if "history" in request["required"]:
            request["required"].remove("history")
            request["oneOf"] = [{"required": ["history"]}, {"required": ["user_id"]}]
            _take_from_users(request, scorer)
    if len(models) > 1:
        request["properties"]["model"] = {"enum": [*models], "description": "Which of them scores. Default: by share."}


def _take_from_users(request: dict, scorer: Scorer) -> None:
    """Row features that a user_id tells are asked for beside a history alone."""
    context = request["properties"].get("context", {})
    required = context.get("required", [])
    told = [name for name in required if name in scorer.of_user]
    if told:
        left = [name for name in required if name not in told]
        request["properties"]["context"] = {**context, "required": left}
        request["oneOf"][0] = {"required": ["history", "context"], "properties": {"context": {"required": told}}}
        if not left:
            request["required"].remove("context")


def _top_request(request: dict, scorer: Scorer, settings: Settings) -> dict:
    """The same as for scores, of the catalogue or a part of it; row features are one value each."""
    properties = {name: value for name, value in request["properties"].items() if name != "embeddings"}
    values = {described["name"]: _value(described) for described in scorer.inputs}
    context = {"description": "Row features, one value each.", "properties": values}
    items = {key: properties["candidates"][key] for key in ("type", "items", "maxItems")}
    filters = dict.fromkeys(scorer.catalogue.features, _or_list({"type": ["integer", "string"]}))
    properties |= {
        "context": properties["context"] | context,
        "k": {**_WHOLE, "minimum": 1, "maximum": settings.max_candidates, "description": "How many."},
        "candidates": {**items, "description": "Among which to choose. Default: the whole catalogue."},
        "exclude": {**items, "description": "Items to leave out."},
        "where": _object(filters, description="What the items have: a value for a feature, or several of which one."),
    }
    required = ["k", *(name for name in request["required"] if name != "candidates")]
    example = {key: value for key, value in request["example"].items() if key != "candidates"} | {"k": 3}
    return {**request, "required": required, "properties": properties, "example": example}


def _event_request(request: dict) -> dict:
    history = request["properties"].get("history", {})
    item = history.get("items", {})
    if history.get("type") == "object":
        lists = {name: values["items"] for name, values in history["properties"].items()}
        item = _object(lists, lists)
    item = {**item, "description": "What the user acted on."}
    properties = {"user_id": _USER, "item": item, "time": {"type": "number", "description": "Kept, not used."}}
    return _object(properties, ["user_id", "item"])


def _posting(summary: str, answer: str, name: str) -> dict:
    operation = _operation(summary, answer, _json(f"{name}Answer"))
    operation["responses"] |= _problems(*_PROBLEMS)
    return {"post": operation | {"requestBody": {"required": True, "content": _json(f"{name}Request")}}}


def _json(schema: str) -> dict:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _operation(summary: str, answer: str, content: dict) -> dict:
    return {"summary": summary, "responses": {"200": {"description": answer, "content": content}}}


def _problems(*statuses: int) -> dict:
    return {str(s): {"description": _PROBLEMS[s], "content": _json("Problem")} for s in statuses}


def _request(scorer: Scorer, settings: Settings) -> dict:
    inputs, original = scorer.manifest["inputs"], settings.ids == "original"
    item = {"anyOf": [_WHOLE, _TEXT]} if original else _ID
    required = [described["name"] for described in scorer.inputs if is_required(described)]
    each = {"description": "One value for all candidates, or one for each."}
    context = {described["name"]: _or_list(_value(described)) | each for described in scorer.inputs}
    new = {described["name"]: _value(described) for described in inputs["new"]}
    newest = f"Items the user acted on, oldest first. The newest {inputs['history']['max_len']} are used."
    history = _list(item, settings.max_history, newest)
    if scorer.beside:
        lists = {ITEMS: history}
        for described in scorer.beside:
            told = "One value for each of these items."
            lists[described["name"]] = _list(_value(described), settings.max_history, told)
        history = _object(lists, lists)
    return _object(
        {
            "history": history,
            "candidates": _list(item, settings.max_candidates, "Items to score."),
            "context": _object(context, required, description="Row features."),
            "embeddings": {
                "type": "object",
                "maxProperties": settings.max_embeddings,
                **({} if original else {"propertyNames": {"pattern": "^(0|[1-9][0-9]{0,17})$"}}),
                "additionalProperties": _object(new),
                "description": "Features of items beyond the model's table, by item.",
            },
        },
        ["history", "candidates", *(["context"] if required else [])],
        example=scorer.requests.example(3),
    )


def _fields_request(scorer: Scorer, settings: Settings) -> dict:
    """The same of named fields, whose values are raw."""
    rows = {described["name"]: _raw_value(described) for described in scorer.fields.row_columns}
    history = {}
    for described in scorer.fields.history_columns:
        which = described.get("raw", {}).get("keep", "newest")
        used = f"The {which} {described['max_len']} are used, as in training."
        history[described["name"]] = {**_raw_value(described, settings.max_history), "description": used}
    different = "What to score: the fields in which candidates differ."
    others = "All other fields: one value for all candidates, or one for each."
    return _object(
        {
            "history": _object(history, history, description="What the user acted on, oldest first, by field."),
            "candidates": _list(_object(rows), settings.max_candidates, different),
            "context": _object({name: _or_list(one) for name, one in rows.items()}, description=others),
        },
        [*(["history"] if history else []), "candidates"],
        example=scorer.requests.example(3),
    )


def _object(properties: dict, required: Iterable[str] = (), **more: object) -> dict:
    """Of these keys and no others."""
    needed = {"required": [*required]} if required else {}
    return {"type": "object", "additionalProperties": False, **needed, "properties": properties, **more}


def _list(items: dict, most: int, description: str) -> dict:
    return {"type": "array", "items": items, "maxItems": most, "description": description}


def _or_list(one: dict) -> dict:
    """One value, or a list of such."""
    return {"anyOf": [one, {"type": "array", "items": one}]}


def _raw_value(described: dict, most: int | None = None) -> dict:
    """Of a named field; null is a missing value."""
    raw = described.get("raw")
    form = type_of(described).form
    boolean = ["boolean"] if raw and raw.get("boolean") else []
    if form == "vector":
        return {"anyOf": [_value(described), {"type": "null"}]} if raw and raw.get("missing") else _value(described)
    if form == "number":
        return {"type": ["number", *boolean, "null"]}
    if raw:
        one = {"type": [{"int": "integer", "float": "number"}.get(raw["dtype"], "string"), *boolean, "null"]}
        one |= {"description": described["expected"]} if described.get("expected") else {}
    else:
        one = {**_ID, "maximum": described["vocab_size"] - 1}
    if form == "id":
        return one
    kinds = ["array", *(["string"] if raw else []), *(["null"] if most is None else [])]
    return {"type": kinds, "items": one, **({} if most is None else {"maxItems": most})}


def _value(described: dict) -> dict:
    kind = type_of(described)
    one = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
    if kind.ids:
        one = {**_ID, "maximum": described["vocab_size"] - 1}
    if described.get("words"):
        one = {"anyOf": [one, _TEXT], "description": "A code, or a word as the dataset has it."}
    if not kind.width:
        return one
    wide = described[kind.width]
    return {"type": "array", "items": one, **({} if kind.ids else {"minItems": wide}), "maxItems": wide}
