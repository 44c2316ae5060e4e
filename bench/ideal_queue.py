"""An ideal queue: first come, first served, the next free worker takes the head at once, and nothing costs anything but the work.

What a server adds to it under the same arrivals, with the same service times, is the server's own doing.
"""

import heapq
import random


def quantile(values, share):
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def latencies(services, workers, rate, count, seed=0):
    """Latencies of `count` Poisson arrivals at `rate` a second; service times are drawn from `services`, all in seconds."""
    chance = random.Random(seed)
    free = [0.0] * workers
    heapq.heapify(free)
    now, found = 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        end = max(now, heapq.heappop(free)) + chance.choice(services)
        heapq.heappush(free, end)
        found.append(end - now)
    return found
