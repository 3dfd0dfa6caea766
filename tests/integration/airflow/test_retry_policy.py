"""What Airflow 3.3 does with our errors, and what a user may say to it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.client import protocol
from magichour_provider.operators._base import map_non_retryable
from magichour_provider.operators.download import DownloadVideoOperator
from magichour_provider.operators.image_to_video import ImageToVideoOperator
from magichour_provider.sensors.video_job import VideoJobSensor
from magichour_provider.version_compat import AIRFLOW_V_3_3_PLUS, AirflowFailException

pytestmark = pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="retry policies came with Airflow 3.3")

OPERATORS = [
    lambda **options: ImageToVideoOperator(task_id="t", image="a.png", end_seconds=5, **options),
    lambda **options: VideoJobSensor(task_id="t", project_id="cm1", **options),
    lambda **options: DownloadVideoOperator(task_id="t", project_id="cm1", path="/tmp/", **options),
]


def decide(error, policy=None):
    from magichour_provider.retry_policy import MagicHourRetryPolicy

    decision = (policy or MagicHourRetryPolicy()).evaluate(error, 1, 3)
    return decision.action.value, decision.retry_delay


def refusal(status, retry_after=None):
    return protocol.api_error(
        status=status, code=None, message="no", request="GET /x", retry_after=retry_after
    )


@pytest.mark.parametrize(
    "error",
    [
        *map(refusal, [400, 401, 402, 403, 404, 422]),
        errors.BudgetError("too dear"),
        errors.InvalidRequestError("no such length"),
        errors.ModerationError("refused", project_id="cm1", code="nsfw"),
        errors.SubmissionUnknownError("cut off"),
    ],
)
def test_non_retryable_error_fails(error):
    assert decide(error) == ("fail", None)


@pytest.mark.parametrize("status", [429, 503])
def test_the_servers_retry_after_is_the_delay(status):
    assert decide(refusal(status, retry_after=7.0)) == ("retry", timedelta(seconds=7))
    assert decide(refusal(status, retry_after=1e9)) == ("retry", timedelta(days=1))


def test_retryable_error_follows_retry_delay():
    assert decide(refusal(429)) == decide(errors.NetworkError("no")) == ("default", None)
    assert decide(errors.WaitTimeoutError("late", project_id="cm1")) == ("default", None)


def test_foreign_error_follows_retries():
    assert decide(RuntimeError("disk")) == ("default", None)


def test_a_users_own_rule_comes_first():
    from airflow.sdk import RetryAction, RetryRule

    from magichour_provider.retry_policy import MagicHourRetryPolicy

    rules = [
        RetryRule(errors.PaymentRequiredError, RetryAction.RETRY, timedelta(hours=1)),
        RetryRule(RuntimeError, RetryAction.FAIL),
    ]
    policy = MagicHourRetryPolicy(rules)
    assert decide(refusal(402), policy) == ("retry", timedelta(hours=1))
    assert decide(RuntimeError("disk"), policy) == ("fail", None)
    assert decide(refusal(401), policy) == ("fail", None)


@pytest.mark.parametrize("make", OPERATORS)
def test_every_operator_carries_the_policy_unless_the_user_has_another(make):
    from airflow.sdk import ExceptionRetryPolicy

    from magichour_provider.retry_policy import MagicHourRetryPolicy

    mine = ExceptionRetryPolicy(rules=[])
    assert isinstance(make().retry_policy, MagicHourRetryPolicy)
    assert make(retry_policy=mine).retry_policy is mine
    assert make(default_args={"retry_policy": mine}).retry_policy is mine


def test_a_create_of_unknown_outcome_is_left_to_no_policy():
    with pytest.raises(AirflowFailException), map_non_retryable(OPERATORS[0]()):
        raise errors.SubmissionUnknownError("cut off")
    with pytest.raises(errors.BudgetError), map_non_retryable(OPERATORS[0]()):
        raise errors.BudgetError("too dear")
