"""Orders and reports that cross: each of these has hung or broken a gateway before."""

from services.gateway.scheduling.types import Target
from tests.services.gateway.scheduling.stage import Stage, engine, failure


def test_two_requests_that_wait_for_one_eviction_are_both_served() -> None:
    stage = Stage(engine("old"), engine("new", concurrency=2))
    stage.load("old")
    assert stage.submit(1, "new") == ["evicted old"]
    assert stage.submit(2, "new") == []
    assert stage.unloaded("old") == ["load new"]
    assert stage.loaded("new") == ["grant 1", "grant 2"]


def test_two_engines_that_wait_for_one_eviction_both_get_their_room() -> None:
    stage = Stage(engine("old"), engine("a", 5), engine("b", 5))
    stage.load("old")
    assert stage.submit(1, "a") == ["evicted old"]
    assert stage.submit(2, "b") == []
    assert stage.unloaded("old") == ["load a", "load b"]


def test_a_fresh_engine_serves_those_it_was_loaded_for_before_it_is_evicted() -> None:
    stage = Stage(engine("a", concurrency=2), engine("b"), max_wait_s=10)
    stage.submit(1, "a")
    stage.submit(2, "b")
    stage.submit(3, "a")
    stage.wait(100)
    assert stage.loaded("a") == ["grant 1", "grant 3"]
    assert stage.state("a") == "draining"


def test_a_request_during_an_idle_unload_waits_for_it_and_is_served() -> None:
    stage = Stage(engine("fast", ttl_s=60))
    stage.load("fast")
    assert stage.wait(60) == ["idle fast"]
    assert stage.submit(1, "fast") == []
    assert stage.unloaded("fast") == ["load fast"]
    assert stage.loaded("fast") == ["grant 1"]


def test_a_request_just_before_the_idle_unload_prevents_it() -> None:
    stage = Stage(engine("fast", ttl_s=60))
    stage.load("fast")
    stage.now = 60.0
    assert stage.submit(1, "fast") == ["grant 1"]
    assert stage.wait(0) == []


def test_nothing_is_loaded_under_a_name_that_is_still_in_use() -> None:
    stage = Stage(engine("a", 3), engine("b", 8))
    stage.load("a")
    stage.submit(1, "b")
    assert stage.submit(2, "a") == [], "it would fit, but the old one is not gone"
    stage.finish(1)
    assert stage.state("a") == "unloading"
    assert stage.unloaded("a") == ["load a"]


def test_the_room_of_an_engine_that_has_to_come_back_is_not_given_to_a_later_one() -> None:
    stage = Stage(engine("a", ttl_s=60), engine("b"))
    stage.load("a")
    stage.wait(60)
    stage.submit(1, "a")
    stage.submit(2, "b")
    assert stage.unloaded("a") == ["load a"]


def test_an_abort_that_comes_too_late_leaves_a_ready_engine() -> None:
    stage = Stage(engine("fast"))
    stage.submit(1, "fast")
    assert stage.finish(1) == ["abort fast"]
    assert stage.loaded("fast") == []
    assert stage.submit(2, "fast") == ["grant 2"]


def test_a_request_that_comes_during_an_abort_gets_a_load_of_its_own() -> None:
    stage = Stage(engine("fast"))
    stage.submit(1, "fast")
    stage.finish(1)
    assert stage.submit(2, "fast") == []
    assert stage.load_failed("fast", failure("aborted")) == ["load fast"]
    assert stage.loaded("fast") == ["grant 2"]


def test_a_crash_while_a_load_is_given_up_is_no_failure_for_who_came_since() -> None:
    stage = Stage(engine("fast"))
    stage.submit(1, "fast")
    stage.finish(1)
    stage.submit(2, "fast")
    assert stage.load_failed("fast", failure("crashed")) == ["load fast"]


def test_the_room_of_a_load_that_is_given_up_needs_no_victim() -> None:
    stage = Stage(engine("idle", 5), engine("a", 5), engine("b", 5))
    stage.load("idle")
    stage.submit(1, "a")
    assert stage.finish(1) == ["abort a"]
    assert stage.submit(2, "b") == []
    assert stage.load_failed("a", failure("aborted")) == ["load b"]


def test_an_engine_serves_again_when_the_one_that_it_drains_for_has_left() -> None:
    stage = Stage(engine("fast", concurrency=2), engine("deep"))
    stage.load("fast")
    stage.submit(1, "fast")
    stage.submit(2, "deep")
    stage.submit(3, "fast")
    assert stage.state("fast") == "draining"
    assert stage.finish(2) == ["grant 3"]
    assert stage.state("fast") == "ready"


def test_an_engine_serves_again_when_an_idle_one_can_go_instead() -> None:
    stage = Stage(engine("a", 5), engine("b", 5), engine("new", 5))
    stage.load("a", "b")
    stage.submit(1, "a")
    stage.wait(1)
    stage.submit(2, "b")
    stage.submit(3, "new")
    assert stage.state("a") == "draining"
    assert stage.finish(2) == ["evicted b"]
    assert stage.state("a") == "ready"


def test_an_engine_that_dies_while_it_drains_makes_its_room_free() -> None:
    stage = Stage(engine("fast"), engine("deep"))
    stage.load("fast")
    stage.submit(1, "fast")
    stage.submit(2, "deep")
    assert stage.died("fast") == ["load deep"]
    assert stage.finish(1) == []
    assert stage.loaded("deep") == ["grant 2"]


def test_an_engine_that_dies_while_it_is_unloaded_is_gone_when_that_is_told() -> None:
    stage = Stage(engine("fast"), engine("deep"))
    stage.load("fast")
    stage.submit(1, "deep")
    assert stage.died("fast") == []
    assert stage.unloaded("fast") == ["load deep"]


def test_a_changed_engine_finishes_its_streams_and_comes_back_for_those_who_wait() -> None:
    stage = Stage(engine("a", 5), engine("b", 5))
    stage.load("a", "b")
    stage.submit(1, "a")
    stage.submit(2, "b")
    stage.submit(3, "a")
    assert stage.reconfigure(engine("a", 4), engine("b", 5)) == []
    assert stage.state("a") == "draining"
    assert stage.state("b") == "ready"
    assert stage.finish(1) == ["reload a"]
    assert stage.view("a").reserved == {"card0": 5}, "until it is gone it holds what it held"
    assert stage.unloaded("a") == ["load a"]
    assert stage.view("a").reserved == {"card0": 4}
    assert stage.loaded("a") == ["grant 3"]


def test_an_engine_that_is_changed_while_it_loads_is_loaded_anew() -> None:
    stage = Stage(engine("a", 5))
    stage.submit(1, "a")
    assert stage.reconfigure(engine("a", 6)) == ["abort a"]
    assert stage.load_failed("a", failure("aborted")) == ["load a"]
    assert stage.loaded("a") == ["grant 1"]


def test_an_engine_of_the_old_configuration_that_got_ready_all_the_same_serves_nobody() -> None:
    stage = Stage(engine("a", 5))
    stage.submit(1, "a")
    stage.reconfigure(engine("a", 6))
    assert stage.loaded("a", {"card0": 5}) == ["reload a"]
    assert stage.unloaded("a") == ["load a"]
    assert stage.view("a").reserved == {"card0": 6}
    assert stage.loaded("a") == ["grant 1"]


def test_a_removed_engine_refuses_who_waits_and_goes_when_its_streams_end() -> None:
    stage = Stage(engine("a", 5), engine("b", 5))
    stage.load("a")
    stage.submit(1, "a")
    stage.submit(2, "a")
    assert stage.reconfigure(engine("b", 5)) == ["refuse 2 404 model_not_found"]
    assert stage.submit(3, "a") == ["refuse 3 404 model_not_found"]
    assert stage.ask_load("a") == ["404 model_not_found"]
    assert stage.finish(1) == ["reload a"]
    assert stage.unloaded("a") == []
    assert [view.target.name for view in stage.scheduler.views()] == ["b"]


def test_an_engine_that_is_removed_and_added_again_meanwhile_is_the_new_one() -> None:
    stage = Stage(engine("a", 5, preload=True))
    stage.load("a")
    stage.submit(1, "a")
    stage.reconfigure()
    stage.reconfigure(engine("a", 5, preload=True))
    assert stage.finish(1) == ["reload a"]
    assert stage.unloaded("a") == ["load a"]
    assert stage.loaded("a") == []
    assert stage.submit(2, "a") == ["grant 2"]


def test_what_does_not_change_how_it_is_started_restarts_no_engine() -> None:
    before = Target("a", {"card0": 5}, fingerprint="one", ttl_s=None)
    stage = Stage(before)
    stage.load("a")
    after = Target("a", {"card0": 6}, fingerprint="one", ttl_s=60, pinned=True)
    assert stage.reconfigure(after) == []
    assert stage.view("a").target.pinned
    assert stage.reconfigure(Target("a", {"card0": 6}, fingerprint="two")) == ["reload a"]


def test_a_pin_of_the_hour_outlives_a_new_configuration_that_does_not_speak_of_it() -> None:
    stage = Stage(engine("a", 5))
    stage.load("a")
    stage.pin("a")
    stage.reconfigure(engine("a", 5, ttl_s=5))
    assert stage.view("a").target.pinned


def test_new_and_changed_engines_that_are_preloaded_are_loaded() -> None:
    stage = Stage(engine("a", 4))
    assert stage.reconfigure(engine("a", 4), engine("b", 4, preload=True)) == ["load b"]
    stage.loaded("b")
    assert stage.reconfigure(engine("a", 4), engine("b", 5, preload=True)) == ["reload b"]
    assert stage.unloaded("b") == ["load b"]


def test_a_smaller_budget_refuses_what_does_not_fit_any_more() -> None:
    stage = Stage(engine("a", 8), engine("b", 4))
    stage.load("b")
    stage.submit(1, "b")
    stage.submit(2, "a")
    told = stage.reconfigure(engine("a", 8), engine("b", 4), budget={"card0": 6})
    assert told == ["refuse 2 503 insufficient_memory"]
    assert stage.scheduler.budget == {"card0": 6}
    assert stage.state("b") == "ready"


def test_a_lock_ends_with_the_engine_that_held_it() -> None:
    stage = Stage(engine("a", 4), engine("b", 4))
    stage.lock("a")
    assert stage.reconfigure(engine("b", 4)) == []
    assert stage.scheduler.locked is None


def test_a_sleeper_of_the_old_configuration_is_stopped() -> None:
    sleeper = Target("s", {"card0": 9}, asleep={"ram": 9}, ttl_s=60, fingerprint="one")
    stage = Stage(sleeper, budget={"card0": 10, "ram": 10})
    stage.load("s")
    stage.wait(60)
    other = Target("s", {"card0": 8}, asleep={"ram": 9}, fingerprint="two")
    assert stage.reconfigure(other) == []
    assert stage.unloaded("s") == ["reload s"]
    stage.submit(1, "s")
    assert stage.unloaded("s") == ["load s"]


def test_an_engine_that_goes_to_sleep_holds_what_it_was_told_then() -> None:
    sleeper = Target("s", {"card0": 9}, asleep={"ram": 9})
    smaller = Target("s", {"card0": 9}, asleep={"ram": 2})
    stage = Stage(sleeper, engine("other"), budget={"card0": 10, "ram": 10})
    stage.load("s")
    assert stage.submit(1, "other") == ["evicted s asleep"]
    stage.reconfigure(smaller, engine("other"))
    assert stage.unloaded("s") == ["reload s", "load other"]
    assert stage.view("s").reserved == {"ram": 9}


def test_others_do_not_wait_for_a_long_drain_when_an_idle_engine_can_go() -> None:
    stage = Stage(engine("a", 5), engine("b", 5), engine("c", 5))
    stage.load("a", "b")
    stage.submit(1, "a")
    stage.ask_unload("a")
    assert stage.submit(2, "c") == ["evicted b"]


def test_what_is_told_to_leave_is_counted_on_by_who_needs_more_than_that() -> None:
    stage = Stage(engine("a", 5), engine("b", 5), engine("new", 10))
    stage.load("a", "b")
    stage.submit(1, "a")
    stage.ask_unload("a")
    assert stage.submit(2, "new") == ["evicted b"]


def test_an_engine_that_was_asked_for_while_it_drained_is_not_asked_for_once_it_stays() -> None:
    stage = Stage(engine("a"), engine("b"))
    stage.load("a")
    stage.submit(1, "a")
    stage.submit(2, "b")
    stage.ask_load("a")
    stage.finish(2)
    assert stage.state("a") == "ready"
    stage.finish(1)
    assert stage.submit(3, "b") == ["evicted a"]
    assert stage.unloaded("a") == ["load b"]
    assert stage.loaded("b") == ["grant 3"]
    assert stage.finish(3) == []


def test_an_engine_that_another_drains_for_does_not_lose_its_room_to_a_third() -> None:
    stage = Stage(engine("a", 5), engine("b", 5), engine("c", 5), engine("d", 5))
    stage.load("a", "b")
    stage.submit(1, "a")
    stage.submit(2, "b")
    stage.submit(3, "c")
    stage.submit(4, "d")
    assert (stage.state("a"), stage.state("b")) == ("draining", "draining")
    assert stage.finish(2) == ["evicted b"]
    assert stage.unloaded("b") == ["load c"]
    assert stage.finish(1) == ["evicted a"]
    assert stage.unloaded("a") == ["load d"]
