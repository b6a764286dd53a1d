"""What is learnt from: pictures in memory, where they come from, and latents.

Begin with `pictures`, which says what a set of pictures is; `load_data` finds one by its name, and `encode_pictures`
makes latents of it.
"""
