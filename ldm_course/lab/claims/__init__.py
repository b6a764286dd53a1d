"""The claims under test, one file per chapter, and the ledger of verdicts.

Begin with `verdicts`, the rules that all judges share; `ledger` has the claims in order.
"""
