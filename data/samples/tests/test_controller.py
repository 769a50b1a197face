from boost_control.controller import DUTY_MAX, BoostController


def test_on_target_the_base_duty_is_used():
    assert BoostController().update(180, 180, 40, 0.01) == 40


def test_low_boost_raises_the_duty():
    assert BoostController().update(180, 160, 40, 0.01) > 40


def test_duty_never_exceeds_its_limit():
    assert BoostController().update(300, 100, 80, 0.01) == DUTY_MAX


def test_the_integral_part_is_limited():
    controller = BoostController()
    for _ in range(10_000):
        controller.update(200, 150, 40, 0.01)
    assert controller.update(200, 200, 40, 0.01) == 40 + controller.limit


def test_a_gear_change_forgets_the_integral_part():
    controller = BoostController()
    controller.update(200, 150, 40, 0.5)
    controller.reset()
    assert controller.update(180, 180, 40, 0.01) == 40
