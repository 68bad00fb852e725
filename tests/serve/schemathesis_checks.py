"""A check of its own for schemathesis: data that fits the schema is refused only for what no schema can say."""

import schemathesis


@schemathesis.check
def refused_for_what_no_schema_can_say(ctx, response, case):
    """That a text becomes too many tokens, that one number is above another, that a model has no such token."""
    if response.status_code == 400 and case.meta and case.meta.generation.mode.value == "positive":
        error, body = response.json()["error"], case.body
        assert error["code"] == "context_length_exceeded" or unordered(body).get(error["param"]) \
            or "has no token id" in error["message"], error


def unordered(body: dict) -> dict[str, bool]:
    """By field: whether it stands on the wrong side of another."""
    given = {"n": 1, "num_beams": 1, "best_of": 1024, "min_tokens": 0, "max_tokens": None if "messages" in body else 16}
    given |= {name: value for name, value in body.items() if value is not None}
    most = given.get("max_completion_tokens") or given["max_tokens"]
    return {"best_of": given["best_of"] < given["n"], "n": given["num_beams"] < given["n"],
            "min_tokens": most is not None and most < given["min_tokens"]}
