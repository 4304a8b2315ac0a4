"""False alerts and detection time of the alert on the share of flagged transactions: docs/monitoring-alerts.md.

The simulation has hourly traffic with one peak per day, a fraud rate that is three times as high at night, and a rate
that differs between days (gamma distribution with the given coefficient of variation). The rule compares the last 24
hours with mean and deviation of the scored days before: 2 sigma, for a number of hours, at least 1,000 answers.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
RATE = 0.006
SIGMAS = 2.0
MIN_ANSWERS = 1_000
HISTORY_DAYS = 28
WAIT_HOURS = 24


def world(
    rng: np.random.Generator, days: int, per_day: int, spread: float, shift: float = 1.0
) -> tuple[Counts, Counts]:
    """Answers and flagged answers, int64[days * 24]. From day HISTORY_DAYS + 4, the rate is multiplied by `shift`."""
    hours = np.arange(24)
    traffic = np.exp(np.cos((hours - 15) / 24 * 2 * np.pi))
    traffic /= traffic.sum()
    night = np.where(hours < 6, 3.0, 1.0)
    night /= (night * traffic).sum()
    day = rng.gamma(1 / spread**2, spread**2, days) if spread else np.ones(days)
    rate = RATE * np.repeat(day, 24) * np.tile(night, days)
    rate[(HISTORY_DAYS + 4) * 24 :] *= shift
    answers = rng.poisson(per_day * np.tile(traffic, days))
    return answers, rng.binomial(answers, np.minimum(rate, 1.0))


def beyond(answers: Counts, flagged: Counts, window: int, baseline_days: int) -> NDArray[np.bool_]:
    """For each hour, whether the window differs by more than 2 sigma."""
    n_sum, k_sum = np.concatenate([[0], np.cumsum(answers)]), np.concatenate([[0], np.cumsum(flagged)])
    day_n, day_k = answers.reshape(-1, 24).sum(1), flagged.reshape(-1, 24).sum(1)
    found = np.zeros(len(answers), bool)
    for hour in range(HISTORY_DAYS * 24, len(answers)):
        days = slice(hour // 24 - baseline_days, hour // 24)
        ratio = day_k[days].sum() / day_n[days].sum()
        sigma_days = (day_k[days] / day_n[days]).std(ddof=1)
        n = n_sum[hour + 1] - n_sum[hour + 1 - window]
        if n >= MIN_ANSWERS or window < 24:
            seen = (k_sum[hour + 1] - k_sum[hour + 1 - window]) / max(n, 1)
            found[hour] = abs(seen - ratio) > SIGMAS * np.sqrt(sigma_days**2 + ratio * (1 - ratio) / max(n, 1))
    return found


def alerts(hours: NDArray[np.bool_], wait: int) -> list[int]:
    """Hours at which an alert with a duration of `wait` hours starts to fire."""
    starts, streak = [], 0
    for hour, is_beyond in enumerate(hours):
        streak = streak + 1 if is_beyond else 0
        if streak == wait + 1:
            starts.append(hour)
    return starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=100)
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    print("alerts in 100 days without a change\nanswers/day  spread  baseline  window   for 0  6 h  12 h  18 h  24 h")
    for per_day in (2_000, 20_000):
        for spread in (0.0, 0.25):
            answers, flagged = world(rng, given.days, per_day, spread)
            for window, baseline in ((1, 28), (24, 28), (24, 7)):
                hours = beyond(answers, flagged, window, baseline)
                rates = [100 * len(alerts(hours, wait)) / (given.days - HISTORY_DAYS) for wait in (0, 6, 12, 18, 24)]
                print(f"{per_day:11,}  {spread:6}  {baseline:8}  {window:4} h", *(f"{rate:6.2f}" for rate in rates))
    print("\nhours to detect (median) and share detected within 48 h, window 24 h, for 24 h, baseline 28 days")
    for shift in (0.33, 0.5, 1.5, 2.0, 3.0, 5.0):
        for per_day in (2_000, 20_000):
            starts = (HISTORY_DAYS + 4) * 24
            delays = []
            for _ in range(given.repeats):
                answers, flagged = world(rng, HISTORY_DAYS + 8, per_day, 0.25, shift)
                hours = beyond(answers, flagged, 24, 28)
                hours[:starts] = False
                found = alerts(hours, WAIT_HOURS)
                delays.append(found[0] - starts if found else np.inf)
            print(f"x {shift:4}  {per_day:7,}/day  {np.median(delays):6.0f} h  {np.mean(np.array(delays) <= 48):5.0%}")


if __name__ == "__main__":
    main()
