from cluster.roster import Roster, Verdict


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def new_roster(min_to_start: int = 2, min_to_go_on: int = 1) -> tuple[Roster, Clock]:
    clock = Clock()
    return Roster(3, min_to_start, min_to_go_on, start_timeout_s=8.0, regrow_timeout_s=60.0, clock=clock), clock


def test_the_run_begins_with_the_fewest_and_is_refused_when_they_do_not_come():
    roster, clock = new_roster()
    roster.place()
    clock.now += 7.9
    assert roster.verdict() is Verdict.WAIT and not roster.has_begun and roster.num_needed == 2
    clock.now += 0.1
    assert roster.verdict() is Verdict.GIVE_UP and roster.short_s == 8.0
    roster.place()
    assert roster.verdict() is Verdict.COMPUTE and roster.has_begun and roster.short_s == 0.0


def test_a_begun_run_goes_on_with_fewer_than_it_began_with():
    roster, clock = new_roster()
    roster.place()
    roster.place()
    roster.lose()
    clock.now += 1000
    assert roster.verdict() is Verdict.COMPUTE and roster.num_needed == 1


def test_a_begun_run_with_too_few_waits_its_own_time_and_forgets_it_when_they_return():
    roster, clock = new_roster()
    roster.place()
    roster.place()
    roster.lose()
    clock.now += 1000
    roster.lose()
    clock.now += 59
    assert roster.verdict() is Verdict.WAIT
    roster.place()
    clock.now += 59
    roster.lose()
    clock.now += 59
    assert roster.verdict() is Verdict.WAIT
    clock.now += 1
    assert roster.verdict() is Verdict.GIVE_UP


def test_deaths_without_a_step_between_them_are_not_replaced_for_ever():
    roster, _ = new_roster()
    roster.place()
    for _ in range(9):
        assert roster.is_worth_replacing
        roster.lose()
        roster.place()
    roster.step(is_new=True)
    for _ in range(9):
        roster.lose_server()
    assert roster.is_worth_replacing
    roster.lose_server()
    assert not roster.is_worth_replacing


def test_a_run_that_only_repeats_meta_steps_may_die_more_often_but_not_for_ever():
    roster, _ = new_roster()
    for _ in range(30 * 3):
        roster.lose_server()
        assert roster.is_worth_replacing
        roster.step(is_new=False)
    roster.lose_server()
    assert not roster.is_worth_replacing and "91 deaths came with no new meta-step" in roster.complaint
    roster.step(is_new=True)
    assert roster.is_worth_replacing
