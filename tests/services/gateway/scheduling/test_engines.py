"""Engines: what is dropped, what fails, what dies, what is asked for."""

from services.gateway.scheduling.types import Target
from tests.services.gateway.scheduling.stage import Stage, engine, failure


def test_a_load_that_nobody_waits_for_any_more_is_given_up() -> None:
    stage = Stage(engine("fast"))
    stage.submit(1, "fast")
    assert stage.finish(1) == ["abort fast"]
    assert stage.load_failed("fast", failure("aborted")) == []
    assert stage.state("fast") == "stopped"
    assert stage.view("fast").failure is None


def test_a_load_that_was_asked_for_goes_on_without_requests() -> None:
    stage = Stage(engine("fast"))
    stage.ask_load("fast")
    stage.submit(1, "fast")
    assert stage.finish(1) == []
    assert stage.loaded("fast") == []
    assert stage.state("fast") == "ready"


def test_an_idle_engine_is_unloaded_after_its_time_to_live() -> None:
    stage = Stage(engine("fast", ttl_s=300))
    stage.load("fast")
    stage.wait(200)
    stage.submit(1, "fast")
    assert stage.wait(1000) == [], "in use it is not idle"
    stage.finish(1)
    assert stage.view("fast").unloads_at == stage.now + 300
    assert stage.wait(299) == []
    assert stage.wait(1) == ["idle fast"]


def test_a_pinned_engine_has_no_time_to_live_until_it_is_unpinned() -> None:
    stage = Stage(engine("fast", ttl_s=300, pinned=True))
    stage.load("fast")
    assert stage.wait(1000) == []
    assert stage.pin("fast", False) == ["idle fast"]


def test_without_a_time_to_live_an_engine_stays() -> None:
    stage = Stage(engine("a", 4), engine("b", 4, ttl_s=0))
    stage.load("a", "b")
    assert stage.wait(1e6) == []


def test_an_idle_engine_goes_to_sleep_where_it_can() -> None:
    sleeper = Target("sleeper", {"card0": 9}, asleep={"ram": 20}, ttl_s=60)
    stage = Stage(sleeper, budget={"card0": 10, "ram": 20})
    stage.load("sleeper")
    assert stage.wait(60) == ["idle sleeper asleep"]
    stage.unloaded("sleeper")
    assert stage.state("sleeper") == "asleep"
    assert stage.wait(1000) == []


def test_when_memory_runs_out_all_that_is_idle_on_its_devices_goes_and_it_is_tried_again() -> None:
    targets = [engine("idle", 2), engine("busy", 2), engine("kept", 1, pinned=True)]
    elsewhere = Target("elsewhere", {"card1": 2})
    stage = Stage(*targets, elsewhere, engine("new", 4), budget={"card0": 10, "card1": 10})
    stage.load("idle", "busy", "kept", "elsewhere")
    stage.submit(1, "busy")
    stage.submit(2, "new")
    assert stage.load_failed("new", failure("out_of_memory")) == ["memory idle"]
    assert stage.submit(3, "new") == [], "though it would fit, the memory is not free yet"
    assert stage.unloaded("idle") == ["load new attempt 2"]
    assert stage.loaded("new") == ["grant 2"]


def test_with_nothing_idle_the_second_attempt_begins_at_once() -> None:
    stage = Stage(engine("new"))
    stage.submit(1, "new")
    assert stage.load_failed("new", failure("out_of_memory")) == ["load new attempt 2"]


def test_when_memory_runs_out_twice_all_who_wait_are_refused() -> None:
    stage = Stage(engine("new"), retry_s=10)
    stage.submit(1, "new")
    stage.load_failed("new", failure("out_of_memory", "first"))
    told = stage.load_failed("new", failure("out_of_memory", "out_of_memory"))
    assert told == ["refuse 1 503 out_of_memory"]
    stage.wait(10)
    assert stage.submit(2, "new") == ["load new"], "the next time it begins anew"


def test_what_had_memory_for_less_only_is_not_tried_with_all_again_for_a_while() -> None:
    stage = Stage(engine("short"), engine("other"))
    stage.submit(1, "short")
    stage.load_failed("short", failure("out_of_memory"))
    stage.loaded("short", {"card0": 6})
    assert stage.view("short").reserved == {"card0": 6}
    stage.finish(1)
    stage.submit(2, "other")
    assert stage.unloaded("short") == ["load other"]
    stage.load_failed("other", failure())
    assert stage.submit(3, "short") == ["load short attempt 2"]
    assert stage.view("short").reserved == {"card0": 10}, "less was seen, of less"
    stage.loaded("short", {"card0": 6})
    stage.finish(3)
    stage.ask_unload("short")
    stage.unloaded("short")
    stage.wait(600)
    assert stage.submit(4, "short") == ["load short"]


def test_what_was_short_and_has_no_memory_even_for_less_is_tried_a_second_time() -> None:
    stage = Stage(engine("short"))
    stage.submit(1, "short")
    stage.load_failed("short", failure("out_of_memory"))
    stage.loaded("short")
    stage.finish(1)
    stage.ask_unload("short")
    stage.unloaded("short")
    assert stage.submit(2, "short") == ["load short attempt 2"]
    assert stage.load_failed("short", failure("out_of_memory")) == ["load short attempt 2"]
    assert stage.load_failed("short", failure("out_of_memory")) == ["refuse 2 503 engine_failed"]


def test_the_second_attempt_is_forgotten_when_nobody_waits_for_it() -> None:
    stage = Stage(engine("idle", 5), engine("new", 5))
    stage.load("idle")
    stage.submit(1, "new")
    stage.load_failed("new", failure("out_of_memory"))
    stage.finish(1)
    stage.unloaded("idle")
    assert stage.submit(2, "new") == ["load new"]


def test_an_engine_that_dies_is_loaded_again_for_those_who_wait() -> None:
    stage = Stage(engine("fast"))
    stage.submit(1, "fast")
    stage.submit(2, "fast")
    stage.loaded("fast")
    assert stage.died("fast") == ["load fast"]
    assert stage.loaded("fast") == ["grant 2"], "1 was cut, and does not count any more"
    assert stage.finish(1) == []
    assert stage.view("fast").in_flight == 1


def test_an_engine_that_dies_unused_stays_away() -> None:
    stage = Stage(engine("fast"))
    stage.load("fast")
    assert stage.died("fast") == []
    assert stage.state("fast") == "stopped"
    assert stage.view("fast").failure == failure(code="engine_died")


def test_an_engine_that_is_kept_comes_back_when_it_dies() -> None:
    stage = Stage(engine("a", 5, preload=True), engine("b", 5, pinned=True))
    stage.load("a", "b")
    assert stage.died("a") == ["load a"]
    assert stage.died("b") == ["load b"]


def test_an_engine_that_died_three_times_within_a_minute_has_failed() -> None:
    stage = Stage(engine("fast"), retry_s=10)
    for id in (1, 2, 3, 4):
        stage.submit(id, "fast")
    for id in (1, 2):
        stage.loaded("fast")
        stage.wait(10)
        assert stage.died("fast") == ["load fast"]
        assert stage.finish(id) == [], "that it was cut is no answer"
    stage.loaded("fast")
    assert stage.died("fast") == ["refuse 4 503 engine_died"]
    assert stage.submit(5, "fast") == ["refuse 5 503 engine_died"]


def test_deaths_with_an_answer_in_between_or_a_minute_apart_do_not_add_up() -> None:
    stage = Stage(engine("fast"))
    for id in range(1, 20):
        stage.submit(id, "fast")
    for _ in range(4):
        stage.loaded("fast")
        stage.wait(31)
        assert stage.died("fast") == ["load fast"]
    for id in (5, 6, 7, 8):
        assert stage.loaded("fast") == [f"grant {2 * id - 5}"]
        stage.finish(2 * id - 5)
        stage.wait(2)
        assert stage.died("fast") == ["load fast"]


def test_an_engine_that_is_busy_until_it_dies_has_answered() -> None:
    stage = Stage(engine("fast"))
    for id in range(10, 60, 10):
        stage.submit(id, "fast")
        stage.loaded("fast")
        stage.wait(2)
        stage.finish(id)
        stage.submit(id + 1, "fast")
        stage.wait(2)
        stage.finish(id + 1)
        assert stage.died("fast") == []
    assert stage.submit(60, "fast") == ["load fast"]


def test_a_request_that_was_cut_by_a_death_was_no_answer_though_its_end_is_told_first() -> None:
    stage = Stage(engine("fast"))
    for id in (1, 2):
        stage.submit(id, "fast")
        stage.loaded("fast")
        stage.wait(10)
        stage.finish(id)
        assert stage.died("fast") == []
    for id in (3, 4, 5):
        stage.submit(id, "fast")
    stage.loaded("fast")
    stage.finish(3)
    assert stage.died("fast") == ["refuse 5 503 engine_died"]


def test_a_hung_engine_is_ended_though_requests_are_in_flight() -> None:
    stage = Stage(engine("fast"))
    stage.load("fast")
    stage.submit(1, "fast")
    stage.submit(2, "fast")
    assert stage.hung("fast") == ["hung fast"]
    assert stage.view("fast").in_flight == 0
    assert stage.finish(1) == []
    assert stage.unloaded("fast") == ["load fast"]
    assert stage.loaded("fast") == ["grant 2"]


def test_a_hung_engine_that_nobody_needs_is_ended_and_stays_away() -> None:
    stage = Stage(engine("fast"))
    stage.load("fast")
    assert stage.hung("fast") == ["hung fast"]
    assert stage.unloaded("fast") == []


def test_an_engine_that_was_found_running_serves_without_a_load() -> None:
    stage = Stage(engine("fast"))
    assert stage.adopt("fast") == []
    assert stage.view("fast").reserved == {"card0": 10}
    assert stage.submit(1, "fast") == ["grant 1"]


def test_asking_for_an_engine_that_is_loaded_or_unknown() -> None:
    stage = Stage(engine("fast"))
    stage.load("fast")
    assert stage.ask_load("fast") == []
    assert stage.ask_load("slow") == ["404 model_not_found"]


def test_asking_for_an_engine_makes_room_as_a_request_does() -> None:
    stage = Stage(engine("fast"), engine("deep"))
    stage.load("fast")
    assert stage.ask_load("deep") == ["evicted fast"]
    assert stage.unloaded("fast") == ["load deep"]


def test_an_unload_that_is_asked_for_waits_for_the_streams() -> None:
    stage = Stage(engine("fast"))
    stage.load("fast")
    stage.submit(1, "fast")
    assert stage.ask_unload("fast") == []
    assert stage.state("fast") == "draining"
    assert stage.submit(2, "fast") == []
    assert stage.finish(1) == ["asked fast"]
    assert stage.unloaded("fast") == ["load fast"]
    assert stage.loaded("fast") == ["grant 2"]


def test_an_unload_that_is_asked_for_ends_sleep_and_a_load_that_only_was_asked_for() -> None:
    sleeper = Target("sleeper", {"card0": 9}, asleep={"ram": 20}, ttl_s=60)
    stage = Stage(sleeper, budget={"card0": 10, "ram": 20})
    stage.ask_load("sleeper")
    assert stage.ask_unload("sleeper") == ["abort sleeper"]
    assert stage.loaded("sleeper") == ["asked sleeper"]
    stage.unloaded("sleeper")
    stage.load("sleeper")
    stage.wait(60)
    stage.unloaded("sleeper")
    assert stage.ask_unload("sleeper") == ["asked sleeper"]
    assert stage.ask_unload("slow") == ["404 model_not_found"]


def test_an_unload_is_refused_while_pinned_locked_or_waited_for() -> None:
    stage = Stage(engine("fast"))
    stage.load("fast")
    stage.pin("fast")
    assert stage.ask_unload("fast") == ["409 model_in_use"]
    stage.pin("fast", False)
    stage.lock("fast")
    assert stage.ask_unload("fast") == ["409 model_in_use"]
    stage.lock(None)
    stage.submit(1, "fast")
    stage.submit(2, "fast")
    assert stage.ask_unload("fast") == ["409 model_in_use"]
    stage.finish(2)
    assert stage.ask_unload("fast") == []


def test_a_pinned_engine_is_nobodys_victim_and_who_cannot_fit_beside_it_is_told_so() -> None:
    stage = Stage(engine("kept", 6), engine("large", 6), engine("small", 4))
    stage.load("kept")
    stage.pin("kept")
    assert stage.submit(1, "large") == ["refuse 1 409 model_pinned"]
    assert "kept" in stage.message(1)
    assert "Unpin kept" in stage.effects.refusals[1].error.remedy
    assert stage.submit(2, "small") == ["load small"]


def test_an_engine_that_is_pinned_while_it_drains_stays() -> None:
    stage = Stage(engine("kept"), engine("other"))
    stage.load("kept")
    stage.submit(1, "kept")
    stage.submit(2, "other")
    assert stage.pin("kept") == ["refuse 2 409 model_pinned"]
    assert stage.state("kept") == "ready"
    stage.finish(1)
    stage.ask_unload("kept")
    assert stage.state("kept") == "ready"


def test_of_two_idle_engines_the_pinned_one_stays() -> None:
    stage = Stage(engine("kept", 5, pinned=True), engine("other", 5), engine("new", 5))
    stage.load("kept")
    stage.wait(1)
    stage.load("other")
    assert stage.submit(1, "new") == ["evicted other"]


def test_a_pin_that_is_no_engine_in_the_way_refuses_nobody() -> None:
    stage = Stage(engine("kept", pinned=True), engine("other"))
    assert stage.submit(1, "other") == ["load other"]


def test_while_locked_only_what_is_loaded_serves() -> None:
    stage = Stage(engine("a", 4), engine("b", 4), engine("c", 2))
    stage.load("a", "b")
    stage.lock("a")
    assert stage.scheduler.locked == "a"
    assert stage.submit(1, "b") == ["grant 1"]
    assert stage.submit(2, "c") == ["refuse 2 409 model_locked"]
    assert stage.ask_load("c") == ["409 model_locked"]
    assert "Unlock a" in stage.effects.refusals[2].error.remedy
    stage.lock(None)
    assert stage.submit(3, "c") == ["load c"]


def test_a_lock_refuses_those_who_wait_for_a_swap_and_keeps_what_is_loaded() -> None:
    stage = Stage(engine("a", ttl_s=60), engine("b"))
    stage.load("a")
    stage.submit(1, "a")
    stage.submit(2, "b")
    assert stage.lock("a") == ["refuse 2 409 model_locked"]
    assert stage.state("a") == "ready"
    stage.finish(1)
    assert stage.wait(100) == []
    assert stage.lock(None) == ["idle a"]


def test_a_locked_engine_itself_may_be_loaded_and_comes_back_when_it_dies() -> None:
    stage = Stage(engine("a"), engine("b"))
    stage.load("b")
    stage.lock("a")
    assert stage.submit(1, "a") == ["evicted b"]
    assert stage.unloaded("b") == ["load a"]
    stage.loaded("a")
    stage.submit(2, "a")
    assert stage.died("a") == ["load a"]


def test_what_is_told_of_an_engine_in_another_state_is_ignored() -> None:
    stage = Stage(engine("fast"))
    for tell in (stage.loaded, stage.unloaded, stage.died, stage.hung):
        assert tell("fast") == []
        assert tell("slow") == []
    assert stage.load_failed("fast", failure()) == []
    assert stage.state("fast") == "stopped"
