"""The command line, `ldm-course`: one file per command.

Begin with `main`, which lists the commands.
"""
