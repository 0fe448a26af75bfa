"""Sharded iteration as plain values, and the rules between them. Pure: the time is given, nothing is read or written.

`state` has what is kept, `rows` its records, `ids` the task ids that follow from it, `decisions` what a rule answers.
The rules are in `planning`, `slices`, `items` and `operations`; `budget` and `progress` only calculate.

A rule takes rows as they were read and returns a `Decision`: changes for one `RecordStore.commit`, then commands in
their order. No commands: the worker goes on. Whoever drives the rules keeps to this order, and to nothing else:

Every task:    claim it in the ledger; its rule; commit; create tasks; finish it in the ledger; answer 2xx.
               A worker may die between any two of these: what it left undone is done by the next delivery.
Plan:          read the run. Not there: cut the queryset, `plan_run`, commit, and read what is there. Where the ledger
               has the finalize task of a run that has not ended as done, a former run was removed behind its end, and
               this one is removed as well. Else `repeat_plan`.
               A later task whose run is not there is refused for good: somebody has removed it.
Slice, start:  read run and shard, `claim_shard`, commit. On a conflict read and decide again. Without an answer stop:
               a claim that may have been made is nobody's, and its lease ends by itself.
Slice, work:   ask the budget; read a page of `page_size(shard)` rows behind the cursor. Before each row ask the budget
               and `judge_item`, and write `announce_item` where `is_careful(shard)`; call; on an exception `fail_item`.
               After a page, and every `CHECKPOINT_INTERVAL`, write `checkpoint`; then read the run, and end
               the slice where `is_stopping(run)`.
Slice, end:    no rows left: `finish_shard`. Budget used, or the run is stopping: `end_slice`.
Every write of a slice: on a conflict, or without an answer, read the rows. `is_made`: go on. Else `keep_lease`, which
               raises LeaseLostError where the fencing number has moved on, and decide and commit once more. After a few
               times, or once the lease is lost: stop.
Stop:          give the ledger's lease back and answer as for a lost lease. Never 2xx: another worker may depend on this
               very task.
Reissue:       release the ledger's lease until then, create the same sealed call as a new task for then, answer 2xx.
Finalize:      read the run, `start_finalize`, call, `finish_finalize`, commit; on a conflict read and decide again.
Operations:    read, rule, commit, create; on a conflict read and decide again. After `resume_run` was committed,
               `wake_shard` for each of `open_shard_keys`, one commit each.

Spec: docs/reference/iteration.md.
"""
