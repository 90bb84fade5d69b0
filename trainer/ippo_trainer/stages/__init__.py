"""The stages of one iteration, and what runs them: `ippo-stage` (cli), its runtime, its output and its progress.

Each stage is a module named after it (`fit-q`: `fit_q`) with one function, `run(ctx: StageContext) -> StageResult`.
"""
