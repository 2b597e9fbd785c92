"""The laws must catch bugs that were put in on purpose, each in a copy of the scheduler; and pass the copy without.

A bug is a piece of source and what replaces it. One that no longer applies fails: bring it up to date.
"""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scheduler_walk import walk

import engine.sched

SOURCE = Path(engine.sched.__file__).parent
SEEDS = range(300)


@dataclass(frozen=True)
class Bug:
    name: str
    file: str
    old: str
    new: str


BUGS = (
    # -- blocks: what a key stands for, who holds what
    Bug("hash_without_parent", "blocks.py", "blake2b(keys[index] + data,", "blake2b(data,"),
    Bug("salt_ignored", "blocks.py", "blake2b(salt,", 'blake2b(b"",'),
    Bug("block_0_handed_out", "blocks.py", "range(1, num_blocks)", "range(num_blocks)"),
    Bug(
        "full_hit_leaves_nothing", "blocks.py", "(len(tokens) - 1) // self.block_size", "len(tokens) // self.block_size"
    ),
    Bug("hit_stays_on_the_free_list", "blocks.py", "                del self.free[block]\n", "                pass\n"),
    Bug("second_publisher_wins", "blocks.py", "key not in self.published and block not", "block not"),
    Bug("evicted_block_stays_published", "blocks.py", "                del self.published[key]\n", ""),
    Bug("taken_without_a_reference", "blocks.py", "            self.refs[block] = 1\n", ""),
    # -- progress
    Bug("no_rollback", "scheduler.py", "len(chunk.tokens) - chunk.num_draft + accepted", "len(chunk.tokens)"),
    Bug("computed_beyond_the_end", "scheduler.py", "min(computed, len(request.tokens))", "computed"),
    Bug("sample_from_a_partial_prompt", "request.py", "sample=self.count == request.gap", "sample=True"),
    Bug(
        "draft_published",
        "scheduler.py",
        "                row.draft = draft\n",
        "                row.draft = draft\n"
        "                tokens, size = [*request.tokens, *draft], self.pool.block_size\n"
        "                first, last = request.computed // size, (len(tokens) - 1) // size\n"
        "                self.pool.publish(list(request.keys), tokens, request.blocks, first, last)\n",
    ),
    Bug("draft_beyond_the_limit", "scheduler.py", "request.remaining - 1)", "request.remaining)"),
    Bug(
        "rejected_draft_keeps_its_blocks",
        "scheduler.py",
        "        self.pool.release(request.blocks[needed:])\n        del request.blocks[needed:]\n",
        "",
    ),
    Bug(
        "end_token_inside_a_draft", "request.py", "            if self.reason is not None:\n                break\n", ""
    ),
    Bug(
        "end_token_before_length",
        "request.py",
        "if self.remaining == 0:",
        "if self.remaining == 0 and token not in self.stop_ids:",
    ),
    Bug("scores_not_cut", "scheduler.py", "logprobs=output.logprobs[:kept]", "logprobs=output.logprobs"),
    Bug("scored_prompt_from_the_cache", "scheduler.py", " and not request.scores_prompt:", ":"),
    # -- memory
    Bug(
        "leak_on_failed_admission",
        "scheduler.py",
        "        fresh = blocks_for(",
        "        pool.hold(shared[:1])\n        fresh = blocks_for(",
    ),
    Bug(
        "double_release_on_preemption",
        "scheduler.py",
        "        self._vacate(request)\n        del self.running[request.id]\n",
        "        self.pool.release(request.blocks[-1:])\n        self._vacate(request)\n"
        "        del self.running[request.id]\n",
    ),
    Bug(
        "preempted_keeps_its_blocks",
        "scheduler.py",
        "        self._vacate(request)\n        del self.running[request.id]\n",
        "        table = request.blocks\n        self._vacate(request)\n        request.blocks = table\n"
        "        del self.running[request.id]\n",
    ),
    Bug(
        "cancel_frees_in_flight",
        "scheduler.py",
        "        if self._plan is not None:\n            self._retired",
        "        if False:\n            self._retired",
    ),
    Bug("cancel_in_flight_leaks", "scheduler.py", "            self.pool.release(blocks)\n", "            pass\n"),
    Bug(
        "error_leaks_blocks",
        "scheduler.py",
        "    def _fail(self, request: Request, error: str) -> Update:\n",
        "    def _fail(self, request: Request, error: str) -> Update:\n        request.blocks = []\n",
    ),
    Bug("cancelled_is_folded", "scheduler.py", "if request.status is not Status.RUNNING:", "if False:"),
    # -- slots
    Bug(
        "slot_0_handed_out",
        "scheduler.py",
        "range(options.max_batch_size, 0, -1)",
        "range(options.max_batch_size - 1, -1, -1)",
    ),
    Bug("leave_not_told", "scheduler.py", "            self._left.add(request.slot)\n", ""),
    Bug("leave_told_for_ever", "scheduler.py", "        self._left.clear()\n", ""),
    Bug("slot_freed_twice", "scheduler.py", "            request.slot = 0\n", ""),
    Bug("aborted_leave_forgotten", "scheduler.py", "        self._left.update(self._plan.leave)\n", ""),
    # -- budget, order and gates
    Bug("drafts_are_free", "scheduler.py", "budget -= self._speculate(rows, budget)", "self._speculate(rows, budget)"),
    Bug("rows_behind_are_stalled", "budget.py", "return max(1, budget - behind)", "return budget"),
    Bug(
        "priority_inverted", "policy.py", "(request.priority, request.arrival)", "(-request.priority, request.arrival)"
    ),
    Bug(
        "fairness_inverted",
        "policy.py",
        "(served[request.tenant], request.arrival)",
        "(-served[request.tenant], request.arrival)",
    ),
    Bug(
        "idle_tenant_gains_credit", "policy.py", "max(level, self.served.get(tenant, 0))", "self.served.get(tenant, 0)"
    ),
    Bug("recomputation_is_charged", "scheduler.py", "if not request.admitted:", "if True:"),
    Bug("victim_is_the_next_in_line", "scheduler.py", "victim = queue.pop() if", "victim = queue.popleft() if"),
    Bug("last_come_first_served", "scheduler.py", "request = min(queue", "request = max(queue"),
    Bug("gate_always_open", "budget.py", "waiting >= ratio * running", "True"),
    Bug("waits_too_long", "scheduler.py", "request.waiting_since >= patience", "request.waiting_since > patience"),
    Bug("admits_after_a_preemption", "scheduler.py", " if self.preemptions == preemptions else []", ""),
    Bug("queue_one_too_long", "scheduler.py", "len(self.waiting) >= limit", "len(self.waiting) > limit"),
)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import copies from, which are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("scheduler_with_"):
            del sys.modules[name]


def copy(folder: Path, name: str, bug: Bug | None = None) -> str:
    """Write a copy of the scheduler, with a bug, as a package of its own; return its name."""
    package = f"scheduler_with_{name}"
    (folder / package).mkdir()
    for path in SOURCE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if bug is not None and path.name == bug.file:
            assert text.count(bug.old) == 1, f"the bug '{bug.name}' no longer applies to {bug.file}"
            text = text.replace(bug.old, bug.new)
        renamed = text.replace("engine.sched", package)
        (folder / package / path.name).write_text(renamed, encoding="utf-8")
    importlib.invalidate_caches()
    importlib.import_module(f"{package}.scheduler")  # a bug must not be caught as a slip of the pen
    return package


def test_a_copy_without_a_bug_passes(workshop: Path) -> None:
    package = copy(workshop, "no_bug")
    for seed in SEEDS:
        walk(seed, package)
    assert Path(sys.modules[f"{package}.scheduler"].__file__ or "").is_relative_to(workshop)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_laws_catch(bug: Bug, workshop: Path) -> None:
    package = copy(workshop, bug.name, bug)
    for seed in SEEDS:
        try:
            walk(seed, package)
        except (AssertionError, pytest.fail.Exception):
            return  # a law is broken
        except (IndexError, KeyError):
            return  # the scheduler fell over its own bug
    pytest.fail(f"{len(SEEDS)} walks did not notice: {bug.name}")


def test_names_are_unique() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)
