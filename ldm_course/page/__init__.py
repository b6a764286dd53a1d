"""What a page shows: figures, tables, numbers, interactive pictures.

Begin with `plotting.show`, which puts a figure on the page, with its caption and the stamp of its record. `widgets` is
for what the reader may turn, and for tables.
"""
