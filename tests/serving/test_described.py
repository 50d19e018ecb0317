"""The server's own description of itself, tried at random: nothing that it says may be asked breaks it."""

import hypothesis
import pytest
import schemathesis
from listeners import service_of

from kedge.serving.guard.audit import AuditLog
from kedge.serving.guard.guard import Guard
from kedge.serving.guard.rules import Rules
from kedge.serving.http.app import create_app
from kedge.serving.http.service import Limits
from kedge.serving.people.store import Store
from kedge.serving.people.tables import open_database

OPERATIONS = [
    "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/score", "POST /v1/feedback", "GET /v1/models",
    "GET /v1/models/{name}", "GET /health", "GET /ready", "GET /metrics", "GET /admin/versions", "POST /admin/deploy",
    "POST /admin/rollback", "POST /admin/promote", "DELETE /admin/people/{person}", "GET /admin/audit",
    "GET /admin/quality",
    "GET /admin/review", "POST /admin/review/{id}/{index}",
]  # fmt: skip

MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def operations(tiny_lm, tmp_path_factory):
    """``{"POST /v1/score": ...}``, of a server of a tiny model."""
    store = Store(open_database(tmp_path_factory.mktemp("store") / "feedback.db"))
    rules = [{"name": "r", "pattern": "[a-f]x", "do": "block"}, {"name": "s", "words": ["the"], "do": "replace"}]
    guard = Guard(Rules(rule=rules), AuditLog(tmp_path_factory.mktemp("audit") / "audit.jsonl"))
    service = service_of(tiny_lm("llama"), store=store, guard=guard, limits=Limits(waiting=2, seconds=60))
    close, service.close = service.close, lambda: None  # each operation would begin and end the app anew
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(service, admin_keys=["admin"]))
    found = [result.ok() for result in schema.get_all_operations()]
    yield {f"{operation.method.upper()} {operation.path}": operation for operation in found}
    close()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("examples", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_no_request_breaks_it(operations, name, examples):
    """Valid ones and invalid ones; none is answered with a 5xx."""
    headers, operation = {"Authorization": "Bearer admin"} if "/admin" in name else {}, operations[name]
    health = list(hypothesis.HealthCheck)

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=health,
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(case=hypothesis.strategies.one_of(*(operation.as_strategy(generation_mode=m) for m in MODES)))
    def tried(case):
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"  # any other one is not there, and nothing else would be looked at
        answer = case.call(headers=headers)
        assert answer.status_code < 500, (answer.status_code, answer.text, case.as_curl_command())

    tried()


def test_all_of_it_is_tried(operations):
    assert sorted(operations) == sorted(OPERATIONS)
