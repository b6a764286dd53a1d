"""The one training loop, and the few lines that put data, network and objective together.

Begin with `recipes`: every training of the course starts at `denoiser_trainer` or `autoencoder_trainer`. The loop is
`Trainer.run`.
"""
