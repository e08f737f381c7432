"""The archive: extents move between pools, a segment at a time, each step durable before the next.

    plan      which bytes make up the next segment, and where each of them goes
    write     its fragments, stripe by stripe, in sequence; `verify` reads them back
    shift     the machine: PLAN, WRITE, SYNC, VERIFY, SWITCH, SNAPSHOT, RETIRE

Works on an open volume, in its thread; what has to wait is yielded as a job.
"""
