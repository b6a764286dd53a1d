"""The laboratory behind the recorded numbers: profiles, records, the comparison, the stages, the claims.

Begin with `profiles`, how large everything is on which machine, and `records`, what a stored run says of itself. Then
`compare`, the experiment that the course is about; `reference`, which runs the stages; and the claims, which are judged
by what the stages recorded.
"""
