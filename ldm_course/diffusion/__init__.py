"""Noise and its way back: schedules, samplers, and what a denoiser is trained on.

Begin with `schedules`, where `add_noise` is the forward process in one line; then `samplers.sample`, the only sampling
loop, and `objectives.DenoisingObjective`, the loss.
"""
