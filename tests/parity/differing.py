"""Runs in which cache-dit and puredit part; `docs/differences.md` has a row for each."""

from tests.parity.cases import Case

BATCH = Case(name="batch", batch=2, threshold=0.3)
ALONE = tuple(Case(name=f"alone {row}", first=row, threshold=0.3) for row in (0, 1))
ACCUMULATED = Case(name="accumulated", threshold=0.5, max_accumulated=1.0)
STATIC_ZERO = Case(name="static zero", steps=6, mask="011011", policy="static")
OVERLAP = Case(name="overlap", steps=6, raw={"Fn_compute_blocks": 4, "Bn_compute_blocks": 4}, threshold=0.0)
WHOLE = Case(name="whole", steps=6, raw={"Fn_compute_blocks": 6, "Bn_compute_blocks": 0}, threshold=0.0)
SHORT = tuple(
    Case(name=f"short {policy}", steps=12, policy=policy, raw={"steps_computation_mask": [1, 1, 1, 0, 1, 0]})
    for policy in ("static", "dynamic")
)
LONG = Case(name="long", steps=6, threshold=0.5, raw={"steps_computation_mask": [1, 1, 0, 1, 0, 0, 1]})
POLICY = Case(name="policy", steps=12, mask="110100101001", raw={"steps_computation_policy": "sttic"})
INTERVAL = Case(name="interval", steps=6, raw={"warmup_interval": 0})
NO_FRONT = Case(name="no front", steps=6, raw={"Fn_compute_blocks": 0})
ZEROED = Case(name="zeroed", zeroed=True, warmup=2)
NEVER = Case(name="never", steps=6, max_cached=0)
INTERLEAVED = Case(name="interleaved", kind="interleaved", steps=12, threshold=1.0)
INTERRUPTED = Case(name="interrupted", kind="interrupted")
TWICE = Case(name="twice", kind="enabled_twice")
UNFLAGGED = Case(name="guided, not flagged", scale=2.0, threshold=0.4, raw={"enable_separate_cfg": None})
FLAGGED = Case(name="not guided, flagged", threshold=0.4, raw={"enable_separate_cfg": True})
HALF = Case(name="bfloat16", dtype="bfloat16", threshold=1e-6)
FIRST_BLOCK = Case(name="first block", kind="first_block_cache", warmup=0, threshold=0.4)
FIRST_BLOCK_ZEROED = Case(name="first block zeroed", kind="first_block_cache", warmup=0, threshold=0.4, zeroed=True)

DIFFERING = (
    BATCH,
    *ALONE,
    ACCUMULATED,
    STATIC_ZERO,
    OVERLAP,
    WHOLE,
    *SHORT,
    LONG,
    POLICY,
    INTERVAL,
    NO_FRONT,
    ZEROED,
    NEVER,
    INTERLEAVED,
    INTERRUPTED,
    TWICE,
    UNFLAGGED,
    FLAGGED,
    HALF,
    FIRST_BLOCK,
    FIRST_BLOCK_ZEROED,
)
