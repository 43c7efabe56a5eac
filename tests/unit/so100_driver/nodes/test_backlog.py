from so100_driver.nodes.backlog import Backlog


def test_records_come_out_in_order_and_what_did_not_fit_is_counted():
    backlog = Backlog(size=3)
    for number in range(5):
        backlog.push(number)
    assert backlog.dropped == 2
    assert [backlog.pop() for _ in range(4)] == [2, 3, 4, None]
    backlog.push(5)
    assert (backlog.pop(), backlog.dropped) == (5, 2)


def test_waiting_ends_at_once_when_something_was_pushed_or_somebody_wakes_it():
    backlog = Backlog()
    backlog.push(1)
    backlog.wait(60)
    backlog.wake()
    backlog.wait(60)
