"""A seeded random walk over the laws: no shrinking, but thousands of runs a minute."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from rolling_hash import VOCAB, Draft
from scheduler_laws import Laws

from engine.config import SchedulerOptions
from engine.types import GenerateRequest, SamplingParams


def random_laws(r: Random, package: str) -> Laws:
    """A small machine, so that blocks, slots and budget run out all the time."""
    options = SchedulerOptions(
        max_batch_prefill_tokens=r.choice([1, 2, 4, 8, 16, 40, 40]),
        max_batch_size=r.choice([1, 2, 3, 4, 6]),
        max_total_tokens=r.choice([None, None, None, 12]),
        max_waiting_requests=r.choice([None, None, None, 3]),
        waiting_served_ratio=r.choice([None, None, None, 0.5, 1.2, 4.0]),
        max_waiting_tokens=r.choice([None, 0, 2, 5]),
        policy=r.choice(["fcfs", "priority", "fair"]),
    )
    return Laws(
        options,
        num_blocks=r.randint(3, 14),
        block_size=r.choice([1, 1, 2, 3]),
        prefix_caching=r.random() < 0.9,
        package=package,
    )


def random_request(r: Random) -> GenerateRequest:
    """From two tokens, so that prefixes are often shared."""
    length = r.randint(1, r.choice([3, 12]))
    prompt = tuple(r.choice([(1,) * length, (1, 2) * length, tuple(r.randint(1, 2) for _ in range(length))])[:length])
    params = SamplingParams(
        max_new_tokens=r.randint(1, 12),
        ignore_eos=r.random() < 0.7,
        stop_token_ids=r.choice([(), (), (), (3,)]),
        prompt_logprobs=r.random() < 0.15,
    )
    salt = r.choice([b"", b"", b"a", b"b"])
    return GenerateRequest(prompt=prompt, params=params, priority=r.randint(0, 2), tenant=r.randint(0, 2), salt=salt)


def random_draft(r: Random, laws: Laws) -> Draft:
    """For each row, some tokens that are right, then some that are anything."""

    def draft(request_id: int, tokens: Sequence[int]) -> tuple[int, ...]:
        record = laws.live.get(request_id)
        if record is None or r.random() < 0.4:
            return ()
        truth = record.expected.tokens[len(tokens) - len(record.request.prompt) :]
        noise = [r.randrange(VOCAB) for _ in range(r.randint(0, 3))]
        return (*truth[: r.randint(0, 5)], *noise)

    return draft


def walk(seed: int, package: str = "engine.sched", moves: int = 60) -> Laws:
    """One walk, to the end of every request; raises AssertionError where a law is broken."""
    r = Random(seed)
    laws = random_laws(r, package)
    draft = random_draft(r, laws)
    for _ in range(moves):
        roll = r.random()
        if roll < 0.22:
            laws.add(random_request(r))
        elif roll < 0.26:
            laws.cancel(r.randrange(laws.added + 1))  # one that lives, one that ended, or one not added yet
        elif laws.plan is None:
            laws.schedule()
        elif roll < 0.28:
            laws.abort(before_seating=r.random() < 0.5)
        else:
            faulty = r.random() < 0.05
            laws.commit(draft, faults=[r.choice(laws.plan.chunks).request_id] if faulty else ())
        laws.check()
    laws.drain(draft)
    return laws


def tally(laws: Laws) -> Counter[str]:
    """What happened on a walk, and how often."""
    return laws.ended + Counter(
        preemptions=laws.preemptions,
        cached=laws.cached_tokens,
        drafted=laws.drafted,
        accepted=laws.accepted,
    )
