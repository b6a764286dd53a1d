"""Why image generation moved from pixels to latents: the course's companion package.

One U-Net, one trainer, one sampler and one evaluator serve both spaces; what differs between the spaces is
visible where it is chosen. Each module is one idea, to be read beside the chapter that its docstring names.
"""

__version__ = "0.1.0"
