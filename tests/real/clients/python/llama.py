"""OpenAI's Python client with a real llama-server behind the gateway: tools, schemas, embeddings, leaving."""

import json
from typing import Literal

import openai
from common import client, eventually, is_quiet, raised
from pydantic import BaseModel
from schemas import faults_of

MESSAGES = [{"role": "user", "content": "What is the weather like?"}]
PARAMETERS = {
    "type": "object",
    "required": ["city", "days"],
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Łódź"]},
        "days": {"type": "integer", "enum": [1, 2, 3]},
    },
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]


class Pick(BaseModel):
    colour: Literal["red", "blue"]


def _chat(**options):
    options = {"model": "tiny", "messages": MESSAGES, **options}
    return client().chat.completions.create(**options)


def _is_good(arguments):
    arguments = json.loads(arguments)
    return arguments["city"] in ["Paris", "Łódź"] and arguments["days"] in [1, 2, 3]


def a_tool_is_called_and_its_result_returns():
    message = _chat(tools=TOOLS, tool_choice="required").choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "get_weather" and _is_good(call.function.arguments)

    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = _chat(messages=[*MESSAGES, message, result], tools=TOOLS)
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content.strip()


def a_streamed_tool_call_accumulates():
    with client().chat.completions.stream(
        model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice="required"
    ) as stream:
        kinds = {event.type for event in stream}
        (choice,) = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.delta" in kinds
    assert choice.finish_reason == "tool_calls" and _is_good(choice.message.tool_calls[0].function.arguments)


def a_schema_is_parsed_into_a_class():
    answer = client().chat.completions.parse(model="tiny", messages=MESSAGES, response_format=Pick)
    assert answer.choices[0].message.parsed.colour in ["red", "blue"]


def a_streamed_answer_ends_with_its_reason():
    chunks = list(_chat(stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).split()
    assert chunks[-1].choices[0].finish_reason == "stop"


def real_answers_are_as_the_document_says():
    for options in [{}, {"tools": TOOLS, "tool_choice": "required"}, {"logprobs": True}]:
        faults = faults_of("ChatCompletion", _chat(**options).to_dict(mode="json"))
        for chunk in _chat(stream=True, stream_options={"include_usage": True}, **options):
            faults += faults_of("ChatCompletionChunk", chunk.to_dict(mode="json"))
        assert not faults, faults


def likelihoods_can_be_read():
    answer = _chat(logprobs=True, top_logprobs=2, max_tokens=4, extra_body={"ignore_eos": True})
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def a_prompt_that_is_too_long_is_a_bad_request():
    for stream in [False, True]:
        long = [{"role": "user", "content": "x" * 100_000}]
        error = raised(openai.BadRequestError, lambda stream=stream, long=long: _chat(messages=long, stream=stream))
        assert error.code == "context_length_exceeded" and "32768" in error.message


def a_stream_that_is_closed_early_ends_at_the_gateway():
    with _chat(stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        assert not is_quiet()
    eventually("the stream has ended at the gateway", is_quiet)
