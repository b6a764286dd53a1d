"""What each reference stage does, one file per experiment; `lab.reference` runs them and keeps their records.

Begin with `base`, which says what a stage is and what it is given.
"""
