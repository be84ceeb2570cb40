from artifusion.diffusion.reuse import EverySecondStep


def steps(recall, may_recall):
    """What three calls in each step give; a computation gives the number of its step and of the call."""
    given = []
    for step, may in enumerate(may_recall):
        recall.begin_step(may)
        given.append([recall(lambda step=step, call=call: (step, call)) for call in range(3)])
    return given


def test_every_second_step_recalls_the_one_before_call_by_call():
    assert steps(EverySecondStep(), [True] * 4) == [[(n, call) for call in range(3)] for n in (0, 0, 2, 2)]


def test_a_step_that_may_not_recall_computes_anew_and_is_recalled_by_the_next():
    assert steps(EverySecondStep(), [True, False, True]) == [[(n, call) for call in range(3)] for n in (0, 1, 1)]
