"""What Q promises of a policy, less what Q's error may have added (Theorem 2 of arXiv 2511.21638, by state)."""

import math


def least_gain(lift_low: float, kl: float, q_error: float) -> float:
    """Least gain per state of a policy that was chosen by an estimate of Q, over the policy whose Q it is.

    E_pi'[Q] - E_pi[Q] differs from the same with the estimate by at most 2 TV(pi', pi) max |estimate - Q|, and TV is at
    most sqrt(KL / 2) (Pinsker) and at most 1. Of states with different KL the mean obeys the same bound (Jensen). With
    the largest error of Q in place of `q_error` this is a bound. No data show the largest error: with the root mean
    square error it is an estimate of that bound, and is called no guarantee.

    Args:
        lift_low: lower end of the interval of E_pi'[estimate] - E_pi[estimate], per state.
        kl: mean KL(pi' || pi), nats per state.
        q_error: of the estimate, in units of Q.
    """
    apart = min(1.0, math.sqrt(max(0.0, kl) / 2.0))
    return lift_low - 2.0 * apart * q_error
