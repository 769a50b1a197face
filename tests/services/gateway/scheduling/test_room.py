"""Memory: who fits, who goes, who comes first."""

from services.gateway.scheduling.types import Target
from tests.services.gateway.scheduling.stage import Stage, engine


def test_engines_that_fit_beside_each_other_are_loaded_at_the_same_time() -> None:
    stage = Stage(engine("fast", 4), engine("deep", 6))
    assert stage.submit(1, "fast") == ["load fast"]
    assert stage.submit(2, "deep") == ["load deep"]


def test_an_idle_engine_goes_for_one_that_is_asked_for_and_memory_is_free_only_when_told() -> None:
    stage = Stage(engine("fast"), engine("deep"))
    stage.load("fast")
    assert stage.submit(1, "deep") == ["evicted fast"]
    assert stage.wait(30) == []
    assert stage.unloaded("fast") == ["load deep"]


def test_the_least_recently_used_goes_first() -> None:
    stage = Stage(engine("a", 5), engine("b", 5), engine("c", 5))
    stage.load("a", "b")
    stage.wait(1)
    stage.submit(1, "a")
    stage.finish(1)
    assert stage.submit(2, "c") == ["evicted b"]


def test_no_more_engines_go_than_needed() -> None:
    stage = Stage(engine("small", 2), engine("large", 8), engine("new", 8))
    stage.load("small")
    stage.wait(1)
    stage.load("large")
    assert stage.submit(1, "new") == ["evicted large"]


def test_an_engine_on_another_card_is_left_alone() -> None:
    left, right = Target("left", {"card0": 8}), Target("right", {"card1": 8})
    stage = Stage(left, right, Target("new", {"card1": 8}), budget={"card0": 10, "card1": 10})
    stage.load("left", "right")
    assert stage.submit(1, "new") == ["evicted right"]


def test_an_engine_over_both_cards_needs_room_on_each() -> None:
    targets = Target("a", {"card0": 8}), Target("b", {"card1": 8}), Target("c", {"ram": 3})
    both = Target("both", {"card0": 9, "card1": 9, "ram": 5})
    stage = Stage(*targets, both, budget={"card0": 10, "card1": 10, "ram": 10})
    stage.load("a", "b", "c")
    assert stage.submit(1, "both") == ["evicted a", "evicted b"]
    assert stage.unloaded("a") == []
    assert stage.unloaded("b") == ["load both"]


def test_main_memory_is_budgeted_too() -> None:
    moe, other = Target("moe", {"card0": 4, "ram": 60}), Target("other", {"card0": 4, "ram": 10})
    stage = Stage(moe, other, budget={"card0": 10, "ram": 64})
    stage.load("moe")
    assert stage.submit(1, "other") == ["evicted moe"]


def test_a_busy_engine_is_drained_and_its_streams_are_not_cut() -> None:
    stage = Stage(engine("fast", concurrency=2), engine("deep"))
    stage.load("fast")
    stage.submit(1, "fast")
    assert stage.submit(2, "deep") == []
    assert stage.state("fast") == "draining"
    assert stage.submit(3, "fast") == [], "it takes no new ones"
    assert stage.finish(1) == ["evicted fast"]
    assert stage.unloaded("fast") == ["load deep"]


def test_a_fresh_engine_is_spared_until_it_was_warm_long_enough() -> None:
    stage = Stage(engine("fast", min_warm_s=15), engine("deep"), max_wait_s=120)
    stage.load("fast")
    stage.wait(5)
    assert stage.submit(1, "deep") == []
    assert stage.wait(9) == []
    assert stage.wait(1) == ["evicted fast"]


def test_a_fresh_busy_engine_goes_on_serving_until_it_was_warm_long_enough() -> None:
    stage = Stage(engine("fast", min_warm_s=15), engine("deep"))
    stage.load("fast")
    stage.submit(1, "fast")
    stage.submit(2, "deep")
    stage.finish(1)
    stage.wait(14)
    assert stage.submit(3, "fast") == ["grant 3"]
    stage.wait(1)
    assert stage.state("fast") == "draining"


def test_an_overdue_request_does_not_wait_for_the_warm_time() -> None:
    stage = Stage(engine("fast", min_warm_s=500), engine("deep"), max_wait_s=60)
    stage.load("fast")
    stage.submit(1, "deep")
    assert stage.wait(59) == []
    assert stage.wait(1) == ["evicted fast"]


def test_when_everybody_is_overdue_an_engine_serves_them_as_long_as_it_has_to_be_warm() -> None:
    stage = Stage(engine("a"), engine("b", min_warm_s=15), max_wait_s=60)
    for id, name in enumerate(("b", "a", "b", "b"), 1):
        stage.submit(id, name)
    stage.wait(60)
    assert stage.loaded("b") == ["grant 1"]
    stage.wait(5)
    assert stage.finish(1) == ["grant 3"], "2 is older, but a swap for each would serve fewer"
    stage.wait(10)
    assert stage.finish(3) == ["evicted b"]


def test_without_a_warm_time_the_oldest_goes_first_when_everybody_is_overdue() -> None:
    stage = Stage(engine("a"), engine("b"), max_wait_s=60)
    for id, name in enumerate(("b", "a", "b", "b"), 1):
        stage.submit(id, name)
    stage.wait(60)
    assert stage.loaded("b") == ["grant 1"]
    assert stage.finish(1) == ["evicted b"]


def test_background_does_not_evict_what_serves_chat_until_it_is_overdue() -> None:
    stage = Stage(engine("chat"), engine("index"), max_wait_s=60)
    stage.load("chat")
    stage.submit(1, "chat")
    stage.submit(2, "index", "background")
    stage.wait(59)
    assert stage.state("chat") == "ready"
    stage.wait(1)
    assert stage.state("chat") == "draining"


def test_background_may_have_an_engine_drained_that_serves_only_background() -> None:
    stage = Stage(engine("a"), engine("b"))
    stage.load("a")
    stage.submit(1, "a", "background")
    stage.submit(2, "b", "background")
    assert stage.state("a") == "draining"
    assert stage.submit(3, "a", "chat") == []
    assert stage.state("a") == "ready", "now that it is wanted for chat, it stays"


def test_chat_may_have_an_engine_drained_that_serves_background() -> None:
    stage = Stage(engine("a"), engine("b"))
    stage.load("a")
    stage.submit(1, "a", "background")
    stage.submit(2, "b", "chat")
    assert stage.state("a") == "draining"


def test_those_who_came_earlier_are_served_before_their_engine_is_drained_for_another() -> None:
    stage = Stage(engine("a"), engine("b"))
    stage.load("a")
    for id, name in enumerate(("a", "a", "b", "a"), 1):
        stage.submit(id, name)
    assert stage.state("a") == "ready"
    assert stage.finish(1) == ["grant 2"]
    assert stage.state("a") == "draining"
    assert stage.finish(2) == ["evicted a"]


def test_overdue_comes_before_chat_and_chat_before_age() -> None:
    stage = Stage(engine("busy"), engine("a"), engine("b"), engine("c"), max_wait_s=60)
    stage.load("busy")
    stage.pin("busy")
    stage.pin("busy", False)
    stage.submit(1, "busy")
    stage.submit(2, "a", "background")
    stage.wait(60)
    stage.submit(3, "b", "background")
    stage.submit(4, "c", "chat")
    stage.finish(1)
    assert stage.unloaded("busy") == ["load a"]
    stage.loaded("a")
    stage.finish(2)
    assert stage.unloaded("a") == ["load c"]


def test_small_ones_do_not_take_the_room_that_a_large_one_waits_for() -> None:
    stage = Stage(engine("busy", 5), engine("large", 8), engine("small", 4))
    stage.load("busy")
    stage.submit(1, "busy")
    stage.submit(2, "large")
    assert stage.submit(3, "small") == [], "it would fit now, and then the large one would not"
    assert stage.finish(1) == ["evicted busy"]
    assert stage.unloaded("busy") == ["load large"]


def test_what_fits_beside_the_reserved_room_is_loaded_meanwhile() -> None:
    stage = Stage(engine("busy", 5), engine("large", 8), engine("small", 2))
    stage.load("busy")
    stage.submit(1, "busy")
    stage.submit(2, "large")
    assert stage.submit(3, "small") == ["load small"]


def test_an_idle_engine_goes_on_another_card_while_the_first_in_line_waits() -> None:
    targets = [Target(f"{n}{c}", {f"card{c}": 9}) for n in "ab" for c in (0, 1)]
    stage = Stage(*targets, budget={"card0": 10, "card1": 10})
    stage.load("a0", "a1")
    stage.submit(1, "a0")
    stage.submit(2, "b0")
    assert stage.submit(3, "b1") == ["evicted a1"]


def test_a_victim_that_can_sleep_sleeps_where_that_fits() -> None:
    sleeper = Target("sleeper", {"card0": 9, "ram": 1}, asleep={"card0": 1, "ram": 20})
    stage = Stage(sleeper, engine("other", 9), budget={"card0": 10, "ram": 20})
    stage.load("sleeper")
    assert stage.submit(1, "other") == ["evicted sleeper asleep"]
    assert stage.view("sleeper").reserved == {"card0": 9, "ram": 20}
    assert stage.unloaded("sleeper") == ["load other"]
    assert stage.view("sleeper").reserved == {"card0": 1, "ram": 20}


def test_a_victim_is_stopped_where_its_sleep_does_not_fit() -> None:
    sleeper = Target("sleeper", {"card0": 9}, asleep={"card0": 2})
    stage = Stage(sleeper, engine("other", 9))
    stage.load("sleeper")
    assert stage.submit(1, "other") == ["evicted sleeper"]


def test_a_victim_is_stopped_where_the_room_for_its_sleep_is_not_free_yet() -> None:
    sleeper = Target("sleeper", {"card0": 5}, asleep={"ram": 15})
    stage = Stage(
        sleeper,
        Target("other", {"card0": 5, "ram": 10}),
        Target("new", {"card0": 10}),
        budget={"card0": 10, "ram": 20},
    )
    stage.load("sleeper")
    stage.wait(1)
    stage.load("other")
    assert stage.submit(1, "new") == ["evicted sleeper", "evicted other"]


def test_what_a_victim_will_hold_asleep_is_not_given_away_at_the_same_moment() -> None:
    sleeper = Target("sleeper", {"card0": 9}, asleep={"ram": 8}, min_warm_s=15)
    idle, gone = Target("idle", {"card1": 9}), Target("gone", {"ram": 5})
    first, second = Target("first", {"card0": 9}), Target("second", {"card1": 9, "ram": 4})
    budget = {"card0": 10, "card1": 10, "ram": 15}
    stage = Stage(sleeper, idle, gone, first, second, budget=budget)
    stage.load("sleeper", "idle", "gone")
    assert stage.submit(1, "first") == []
    assert stage.submit(2, "second") == ["evicted idle"]
    assert stage.ask_unload("gone") == ["asked gone"]
    stage.now = 15.0
    assert stage.unloaded("idle") == ["evicted sleeper asleep"]
    assert stage.unloaded("gone") == ["load second"]


def test_a_victim_that_could_not_sleep_after_all_holds_nothing() -> None:
    sleeper = Target("sleeper", {"card0": 9}, asleep={"ram": 20})
    stage = Stage(sleeper, engine("other", 9), budget={"card0": 10, "ram": 20})
    stage.load("sleeper")
    assert stage.submit(1, "other") == ["evicted sleeper asleep"]
    stage.scheduler.unloaded("sleeper", stage.now, "stopped")
    assert stage.told() == ["load other"]
    assert stage.view("sleeper").state == "stopped"
    assert stage.view("sleeper").reserved == {}


def test_a_sleeper_is_woken_by_a_load() -> None:
    sleeper = Target("sleeper", {"card0": 9}, asleep={"ram": 20})
    stage = Stage(sleeper, engine("other", 9), budget={"card0": 10, "ram": 20})
    stage.load("sleeper")
    stage.submit(1, "other")
    stage.unloaded("sleeper")
    stage.loaded("other")
    stage.finish(1)
    assert stage.submit(2, "sleeper") == ["evicted other"]
    assert stage.unloaded("other") == ["load sleeper"]
    assert stage.view("sleeper").reserved == {"card0": 9, "ram": 20}
    assert stage.loaded("sleeper") == ["grant 2"]
    assert stage.view("sleeper").reserved == {"card0": 9}


def test_sleepers_are_stopped_when_their_room_is_needed_least_recently_used_first() -> None:
    sleepers = [Target(n, {"card0": 9}, asleep={"ram": 8}) for n in ("one", "two")]
    last = Target("last", {"card0": 1, "ram": 10})
    stage = Stage(*sleepers, engine("third", 9), last, budget={"card0": 10, "ram": 20})
    stage.load("one")
    stage.wait(1)
    for id, (name, victim) in enumerate((("two", "one"), ("third", "two")), 1):
        assert stage.submit(id, name) == [f"evicted {victim} asleep"]
        stage.unloaded(victim)
        stage.loaded(name)
        stage.wait(1)
        stage.finish(id)
    assert stage.submit(3, "last") == ["evicted one"]
    assert stage.unloaded("one") == ["load last"]
    assert stage.state("two") == "asleep"


def test_what_an_engine_was_seen_to_take_replaces_the_estimate() -> None:
    stage = Stage(engine("a", 8), engine("b", 4))
    stage.ask_load("a")
    stage.loaded("a", {"card0": 6})
    assert stage.view("a").reserved == {"card0": 6}
    assert stage.submit(1, "b") == ["load b"]


def test_an_engine_that_took_more_than_the_budget_is_still_loaded_again() -> None:
    stage = Stage(engine("a", 9), engine("b", 9))
    stage.ask_load("a")
    stage.loaded("a", {"card0": 11})
    stage.submit(1, "b")
    stage.unloaded("a")
    stage.loaded("b")
    stage.finish(1)
    assert stage.submit(2, "a") == ["evicted b"]
