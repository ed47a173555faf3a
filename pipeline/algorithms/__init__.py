NAMES = ("agrpo", "coupled_grpo", "dam", "dam_analytic", "diffu_grpo", "drakes", "dtm", "raft", "svdd")
