NAMES = (
    "agrpo",
    "best_of",
    "coupled_grpo",
    "dam",
    "dam_analytic",
    "diffu_grpo",
    "dmpo",
    "drakes",
    "dtm",
    "raft",
    "rwr",
    "svdd",
)
