"""
Stand-in for OpenAI's API: `POST /v1/chat/completions` and `POST /v1/responses`, as in OpenAI's reference.

The answer names the stand-in and repeats the question. If the request has a JSON schema ("Structured
Outputs"), the answer fits the schema: of several choices, it takes the first that the question names.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pdkernel.egress.stand_ins.base import (
    ReceivedRequest,
    StandIn,
    StandInAnswer,
    derive_number,
    parse_json_body,
    shorten,
)

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_CREATED = 1_700_000_000


class OpenAIStandIn(StandIn):
    """Answers for api.openai.com."""

    hosts = ("api.openai.com",)

    def _respond(self, request: ReceivedRequest) -> StandInAnswer:
        acts = {"/v1/chat/completions": _chat, "/v1/responses": _respond}
        act = acts.get(request.path)
        if act is None:
            unknown = f"{request.method} {request.path} is not supported by the OpenAI stand-in"
            return _refusal(404, f"Invalid URL ({request.method} {request.path})", note=unknown)
        if request.method != "POST":
            return _refusal(405, f"Only POST requests are accepted, and this was {request.method}.")
        if request.token is None:
            return _refusal(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
                "auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        body = parse_json_body(request)
        if not isinstance(body, dict):
            return _refusal(400, "We could not parse the JSON body of your request.")
        if not isinstance(body.get("model"), str) or not body["model"]:
            return _refusal(400, "you must provide a model parameter")
        return act(body)


def _chat(body: dict[str, Any]) -> StandInAnswer:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return _refusal(400, "Missing required parameter: 'messages'.", param="messages")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            return _refusal(400, f"Invalid value for 'messages[{place}].role'.", param=f"messages[{place}].role")
    question = _text(messages[-1].get("content"))
    response_format = body.get("response_format")
    json_schema = (
        response_format.get("json_schema")
        if isinstance(response_format, dict) and response_format.get("type") == "json_schema"
        else None
    )
    reply = _build_text(question, json_schema)
    answer = {
        "id": f"chatcmpl-{derive_number(body['model'], question)}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": reply, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage("prompt", "completion", "".join(_text(m.get("content")) for m in messages), reply),
    }
    return StandInAnswer(200, answer, note=f'OpenAI {body["model"]} was asked: "{shorten(question)}"')


def _respond(body: dict[str, Any]) -> StandInAnswer:
    prompt = body.get("input")
    if not isinstance(prompt, str | list) or not prompt:
        return _refusal(400, "Missing required parameter: 'input'.", param="input")
    question = (
        prompt if isinstance(prompt, str) else _text(prompt[-1].get("content") if isinstance(prompt[-1], dict) else "")
    )
    text_format = body["text"].get("format") if isinstance(body.get("text"), dict) else None
    reply = _build_text(
        question, text_format if isinstance(text_format, dict) and text_format.get("type") == "json_schema" else None
    )
    number = derive_number(body["model"], question)
    content = {"type": "output_text", "text": reply, "annotations": []}
    output = {
        "type": "message",
        "id": f"msg_{number}",
        "status": "completed",
        "role": "assistant",
        "content": [content],
    }
    answer = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": _CREATED,
        "status": "completed",
        "error": None,
        "model": body["model"],
        "output": [output],
        "usage": _usage("input", "output", question, reply),
    }
    return StandInAnswer(200, answer, note=f'OpenAI {body["model"]} was asked: "{shorten(question)}"')


def _build_text(question: str, format_: Any) -> str:
    """Return the answer's text; *format_* contains a JSON schema, or is None for plain text."""
    schema = format_.get("schema") if isinstance(format_, dict) else None
    if isinstance(schema, dict):
        return json.dumps(_build_schema_value(schema, question), ensure_ascii=False)
    return f"(a stand-in for OpenAI answers) {shorten(question)}"


def _build_schema_value(schema: Any, question: str) -> Any:
    """Return a value that fits *schema*: the subset of JSON Schema in Structured Outputs, without `$ref`."""
    if not isinstance(schema, dict):
        return None
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices and isinstance(choices, list):
        words = re.findall(r"\w+", question.lower())
        return next((choice for choice in choices if str(choice).lower() in words), choices[0])
    alternatives = schema.get("anyOf")
    if alternatives and isinstance(alternatives, list):
        return _build_schema_value(alternatives[0], question)
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties = schema.get("properties")
            parts = properties.items() if isinstance(properties, dict) else ()
            return {name: _build_schema_value(part, question) for name, part in parts}
        case "array":
            return [_build_schema_value(schema.get("items"), question)]
        case "string":
            return shorten(question)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case _:
            return None


def _text(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return str(content or "")


def _usage(input_name: str, output_name: str, question: str, answer: str) -> dict[str, int]:
    # about four characters a token: stable, and never 0
    before, after = len(question) // 4 + 1, len(answer) // 4 + 1
    return {f"{input_name}_tokens": before, f"{output_name}_tokens": after, "total_tokens": before + after}


def _refusal(status: int, message: str, *, param: str | None = None, note: str | None = None) -> StandInAnswer:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return StandInAnswer(status, {"error": error}, note=note)
