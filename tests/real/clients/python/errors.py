"""OpenAI's Python client and everything that can go wrong: the right exception, and the right number of attempts.

The model `poor` is at a provider whose quota is used up.
"""

import time

import openai
from common import MESSAGES, client, echo, eventually, figure, raised, requests_with


def an_unknown_model_is_not_found():
    call = lambda: client().chat.completions.create(model="no-such-model", messages=MESSAGES)  # noqa: E731
    error = raised(openai.NotFoundError, call)
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    assert error.type == "not_found_error" and "no-such-model" in error.message
    assert error.request_id
    error = raised(openai.NotFoundError, lambda: client().models.retrieve("no-such-model"))
    assert error.code == "model_not_found"


def an_unknown_path_is_not_found():
    error = raised(openai.NotFoundError, lambda: client("/v2").chat.completions.create(model="x", messages=MESSAGES))
    assert error.code == "unknown_path"


def a_bad_request_names_its_place():
    error = raised(openai.BadRequestError, lambda: echo(client(), temperature=3))
    assert (error.code, error.param, error.type) == ("invalid_value", "temperature", "invalid_request_error")
    call = lambda: client().chat.completions.create(model="echo", messages=[{"role": "boss", "content": "x"}])  # noqa: E731
    assert raised(openai.BadRequestError, call).param == "messages[0].role"
    call = lambda: client().chat.completions.create(model="echo", messages=[])  # noqa: E731
    assert raised(openai.BadRequestError, call).param == "messages"


def a_refusal_of_the_provider_keeps_its_status():
    for status, kind in [
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
    ]:
        error = raised(kind, lambda status=status: echo(client(), {"status": status}))
        assert error.status_code == status and error.message


def a_rate_limit_is_a_rate_limit():
    error = raised(openai.RateLimitError, lambda: echo(client(), {"status": 429, "retry_after": 7}))
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert error.response.headers["retry-after"] == "7"


def a_failing_provider_is_a_server_error():
    error = raised(openai.InternalServerError, lambda: echo(client(), {"status": 503}))
    assert error.status_code == 502 and error.type == "upstream_error"


def a_rejected_provider_key_is_no_authentication_error():
    error = raised(openai.InternalServerError, lambda: echo(client(), {"status": 401}))
    assert (error.status_code, error.code) == (502, "upstream_credentials")


def an_error_within_a_stream_is_raised():
    for trouble in [{"error_after": 2}, {"cut_after": 2}]:
        words = []

        def read(trouble=trouble, words=words):
            for chunk in echo(client(), trouble, stream=True):
                words.append(chunk.choices[0].delta.content)

        error = raised(openai.APIError, read)
        assert words and error.type == "upstream_error" and error.message


def an_error_before_a_stream_is_a_plain_one():
    error = raised(openai.RateLimitError, lambda: echo(client(), {"status": 429}, stream=True))
    assert error.code == "rate_limit_exceeded"


def a_hanging_answer_times_out_and_is_cancelled():
    raised(openai.APITimeoutError, lambda: echo(client(timeout=0.3), {"hang": True}))
    eventually("the gateway has noticed", lambda: figure("llm_proxy_cancelled_total") == 1)


def a_rate_limited_request_is_tried_again_after_the_time_told():
    started = time.monotonic()
    raised(openai.RateLimitError, lambda: echo(client(max_retries=1), {"status": 429, "retry_after": 2}))
    took = time.monotonic() - started
    # Left alone, the client would have waited for half a second.
    assert 2 <= took < 8, took
    assert requests_with(429) == 2


def a_failing_provider_is_tried_again():
    raised(openai.InternalServerError, lambda: echo(client(max_retries=1), {"status": 500}))
    assert requests_with(502) == 2


def a_bad_request_is_not_tried_again():
    raised(openai.BadRequestError, lambda: echo(client(max_retries=3), temperature=3))
    assert requests_with(400) == 1


def a_used_up_quota_is_not_tried_again():
    call = lambda: client(max_retries=3).chat.completions.create(model="poor", messages=MESSAGES)  # noqa: E731
    error = raised(openai.RateLimitError, call)
    assert error.code == "insufficient_quota"
    assert error.response.headers["x-should-retry"] == "false"
    assert requests_with(429) == 1
