"""Requests: in, wait, out."""

from services.gateway.scheduling.types import Place, Target
from tests.services.gateway.scheduling.stage import Stage, engine, failure


def test_a_request_for_a_loaded_engine_goes_in_at_once() -> None:
    stage = Stage(engine("fast"))
    stage.load("fast")
    assert stage.submit(1, "fast") == ["grant 1"]
    assert stage.finish(1) == []


def test_a_request_loads_its_engine_and_goes_in_when_it_is_ready() -> None:
    stage = Stage(engine("fast"))
    assert stage.submit(1, "fast") == ["load fast"]
    assert stage.loaded("fast") == ["grant 1"]


def test_requests_join_a_load_that_is_under_way_and_are_all_served_by_it() -> None:
    stage = Stage(engine("fast", concurrency=3))
    stage.submit(1, "fast")
    assert stage.submit(2, "fast") == []
    assert stage.submit(3, "fast") == []
    assert stage.loaded("fast") == ["grant 1", "grant 2", "grant 3"]


def test_no_more_requests_are_in_than_the_engine_takes_at_once() -> None:
    stage = Stage(engine("fast", concurrency=2))
    for id in (1, 2, 3):
        stage.submit(id, "fast")
    assert stage.loaded("fast") == ["grant 1", "grant 2"]
    assert stage.finish(2) == ["grant 3"]


def test_chat_goes_before_background_and_each_first_come_first_served() -> None:
    stage = Stage(engine("fast"))
    stage.submit(1, "fast", "background")
    stage.submit(2, "fast", "chat")
    stage.submit(3, "fast", "background")
    stage.submit(4, "fast", "chat")
    assert stage.loaded("fast") == ["grant 2"]
    assert stage.finish(2) == ["grant 4"]
    assert stage.finish(4) == ["grant 1"]
    assert stage.finish(1) == ["grant 3"]


def test_a_background_request_that_is_overdue_goes_before_younger_chat() -> None:
    stage = Stage(engine("fast"), max_wait_s=60)
    stage.load("fast")
    stage.submit(1, "fast")
    stage.submit(2, "fast", "background")
    stage.wait(60)
    stage.submit(3, "fast")
    assert stage.finish(1) == ["grant 2"]


def test_of_the_overdue_the_oldest_goes_first_whatever_it_is() -> None:
    stage = Stage(engine("fast"), max_wait_s=60)
    stage.load("fast")
    stage.submit(1, "fast")
    stage.submit(2, "fast", "background")
    stage.submit(3, "fast", "chat")
    stage.wait(60)
    assert stage.finish(1) == ["grant 2"]


def test_a_client_that_leaves_the_queue_is_never_granted() -> None:
    stage = Stage(engine("fast"))
    stage.submit(1, "fast")
    stage.submit(2, "fast")
    assert stage.finish(1) == []
    assert stage.loaded("fast") == ["grant 2"]


def test_the_end_of_an_unknown_request_is_ignored() -> None:
    assert Stage(engine("fast")).finish(7) == []


def test_an_unknown_engine_is_not_found() -> None:
    stage = Stage(engine("fast"))
    assert stage.submit(1, "slow") == ["refuse 1 404 model_not_found"]
    assert "'slow'" in stage.message(1)


def test_a_full_queue_refuses_with_429_and_says_when_to_come_again() -> None:
    stage = Stage(engine("fast"), queue=2)
    stage.submit(1, "fast")
    stage.submit(2, "fast")
    assert stage.submit(3, "fast") == ["refuse 3 429 queue_full"]
    assert stage.effects.refusals[3].retry_after_s == 2.0
    assert "GATEWAY_QUEUE" in stage.message(3)


def test_the_queue_bound_counts_each_engine_alone() -> None:
    stage = Stage(engine("fast"), engine("deep"), queue=1)
    stage.submit(1, "fast")
    assert stage.submit(2, "deep") == []


def test_the_time_that_a_full_queue_names_follows_the_answers_so_far() -> None:
    stage = Stage(engine("fast"), queue=1)
    stage.load("fast")
    for id in range(1, 30):
        stage.submit(id, "fast")
        stage.wait(30)
        stage.finish(id)
    stage.submit(50, "fast")
    stage.submit(51, "fast")
    stage.submit(52, "fast")
    told = stage.effects.refusals[52].retry_after_s
    assert told is not None
    assert 50 < told <= 60


def test_who_waited_too_long_is_refused_with_503_and_may_come_again() -> None:
    stage = Stage(engine("fast"), queue_timeout_s=100)
    stage.submit(1, "fast")
    stage.wait(50)
    stage.submit(2, "fast")
    assert stage.wait(50) == ["refuse 1 503 queue_timeout"]
    retry = stage.effects.refusals[1].retry_after_s
    assert retry is not None
    assert retry >= 1
    assert stage.loaded("fast") == ["grant 2"]


def test_what_can_never_fit_is_refused_at_once_with_needed_and_available_memory() -> None:
    huge = Target("huge", {"card0": 14_000, "ram": 900})
    stage = Stage(huge, budget={"card0": 11_500, "ram": 64_000})
    assert stage.submit(1, "huge") == ["refuse 1 503 insufficient_memory"]
    assert stage.effects.refusals[1].retry_after_s is None
    assert "needs card0 14000 MiB, ram 900 MiB" in stage.message(1)
    assert "available are card0 11500 MiB, ram 64000 MiB" in stage.message(1)


def test_a_device_that_is_not_there_has_no_memory() -> None:
    stage = Stage(Target("pair", {"card0": 5, "card1": 5}))
    assert stage.submit(1, "pair") == ["refuse 1 503 insufficient_memory"]
    assert "card1 0 MiB" in stage.message(1)


def test_a_waiting_request_can_ask_where_it_stands() -> None:
    stage = Stage(engine("fast"), engine("deep"))
    stage.load("fast")
    stage.submit(1, "fast")
    stage.submit(2, "deep")
    stage.submit(3, "deep")
    assert stage.scheduler.place(1) is None
    assert stage.scheduler.place(3) == Place("draining", 2)
    stage.finish(1)
    stage.unloaded("fast")
    assert stage.scheduler.place(2) == Place("loading", 1)
    stage.submit(4, "fast")
    assert stage.scheduler.place(4) == Place("queued", 1)
    assert stage.scheduler.place(9) is None


def test_a_failed_load_refuses_all_who_wait_with_its_own_error() -> None:
    stage = Stage(engine("fast"), retry_s=10)
    stage.submit(1, "fast")
    stage.submit(2, "fast")
    told = stage.load_failed("fast", failure(code="weights_missing"))
    assert told == ["refuse 1 503 weights_missing", "refuse 2 503 weights_missing"]
    assert stage.effects.refusals[1].retry_after_s == 10
    assert stage.view("fast").failure == failure(code="weights_missing")


def test_a_failed_engine_is_not_tried_again_for_a_while() -> None:
    stage = Stage(engine("fast"), retry_s=10)
    stage.submit(1, "fast")
    stage.load_failed("fast", failure(code="weights_missing"))
    stage.wait(4)
    assert stage.submit(2, "fast") == ["refuse 2 503 weights_missing"]
    assert stage.effects.refusals[2].retry_after_s == 6
    assert stage.ask_load("fast") == ["503 weights_missing"]
    stage.wait(6)
    assert stage.submit(3, "fast") == ["load fast"]


def test_a_load_that_succeeds_forgets_the_failure() -> None:
    stage = Stage(engine("fast"), retry_s=10)
    stage.submit(1, "fast")
    stage.load_failed("fast", failure())
    stage.wait(10)
    stage.submit(2, "fast")
    stage.loaded("fast")
    assert stage.view("fast").failure is None
