"""What is trained: the U-Net and the autoencoder, and the parts that they share.

Begin with `layers`, the parts, and `unet`, which puts them together in a page. `features` is a network that judges
pictures, trained elsewhere, and `detector` one that finds the things in scenes; `interop` takes weights to diffusers
and transformers and back, `foreign` reads their configurations, `hub` published files.
"""
