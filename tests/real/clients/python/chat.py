"""OpenAI's Python client with the echo model: whatever it can ask for, it understands the answer."""

import asyncio

from common import MESSAGES, TEXT, async_client, client, echo, eventually, is_quiet, slow


def a_chat_is_answered():
    answer = echo(client())
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer.object == "chat.completion" and answer.id and answer.created


def the_base_url_may_have_the_prefix():
    for path in ["/v1", "/v1/", "/api/v1"]:
        assert echo(client(path)).choices[0].message.content == TEXT
        assert "echo" in [model.id for model in client(path).models.list()]
        assert client(path).models.retrieve("echo").id == "echo"
        assert client(path).embeddings.create(model="echo", input="x").data


def headers_can_be_read():
    raw = client().chat.completions.with_raw_response.create(
        model="echo", messages=MESSAGES, extra_headers={"x-request-id": "my-own-id"}
    )
    assert raw.headers["x-llm-provider"] == "echo"
    assert raw.headers["x-request-id"] == "my-own-id"
    assert raw.parse()._request_id == "my-own-id"


def a_stream_repeats_every_word():
    chunks = list(echo(client(), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def a_stream_tells_usage_when_asked():
    chunks = list(echo(client(), stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(TEXT.split())
    assert all(chunk.usage is None for chunk in chunks[:-1])


def the_stream_helper_puts_an_answer_together():
    with client().chat.completions.stream(model="echo", messages=MESSAGES) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        answer = stream.get_final_completion()
    assert "".join(deltas) == answer.choices[0].message.content == TEXT


def legacy_completions_are_answered():
    answer = client().completions.create(model="echo", prompt=TEXT)
    assert answer.choices[0].text == TEXT and answer.object == "text_completion"
    stream = client().completions.create(model="echo", prompt=TEXT, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == TEXT


def embeddings_come_as_numbers():
    # Without being told, the client asks for base64 and decodes it.
    decoded = client().embeddings.create(model="echo", input=["a b", "c"])
    plain = client().embeddings.create(model="echo", input=["a b", "c"], encoding_format="float")
    for ours, theirs in zip(decoded.data, plain.data, strict=True):
        assert ours.index == theirs.index and len(ours.embedding) == len(theirs.embedding) > 1
        assert all(abs(one - other) < 1e-6 for one, other in zip(ours.embedding, theirs.embedding, strict=True))
    assert decoded.data[0].embedding != decoded.data[1].embedding
    assert decoded.usage.prompt_tokens == 3


def models_are_listed_and_found():
    listed = client().models.list()
    assert listed.object == "list"
    model = client().models.retrieve("echo")
    assert (model.id, model.object, model.owned_by) == ("echo", "model", "echo")
    assert model.created > 0 and model.id in [each.id for each in listed]


def a_stream_that_is_closed_early_ends_at_the_gateway():
    with client().chat.completions.create(**slow()) as stream:
        next(iter(stream))
        assert not is_quiet()
    eventually("the stream has ended at the gateway", is_quiet)


async def the_asynchronous_client_chats_and_streams():
    async with async_client() as asynchronous:
        answers = await asyncio.gather(*(echo(asynchronous) for _ in range(20)))
        assert all(answer.choices[0].message.content == TEXT for answer in answers)
        stream = await echo(asynchronous, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == TEXT
        assert "echo" in [model.id async for model in asynchronous.models.list()]
        assert (await asynchronous.embeddings.create(model="echo", input="x")).data


async def a_cancelled_task_ends_its_stream_at_the_gateway():
    async with async_client() as asynchronous:

        async def read():
            async for _ in await asynchronous.chat.completions.create(**slow()):
                begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), 10)
        assert not is_quiet()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        eventually("the stream has ended at the gateway", is_quiet)
