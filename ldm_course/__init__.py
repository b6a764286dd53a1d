"""Why image generation moved from pixels to latents: the course's companion package.

One U-Net, one trainer, one sampler and one evaluator serve both spaces; what differs between the spaces is visible
where it is chosen (`spaces`). Each module is one idea, to be read beside the chapter that its docstring names.

The core, in reading order, some 3,800 lines (drawings, scenes, editing and what meets diffusers are read when needed):

1. `diffusion`: `schedules`, `samplers`, `objectives` - noise, its way back, and what a network is trained on;
   `editing`, `consistency`
2. `networks`: `layers`, `unet`, `autoencoder`, `text` - what is trained; `features` judges pictures, `interop` meets
   diffusers
3. `spaces`, `denoiser`, `checkpoints` - pixels and latents side by side; what draws (`Denoiser.generate`), and its file
4. `training`: `trainer`, `recipes`, `reconstruction` - the one loop, and the few lines that put its parts together
5. `data`: `pictures`, `loaders`, `latents`, `emoji`, `scenes` - what is learnt from

Beside it stand the instruments (`measure`), what a page shows (`page`), the laboratory behind the recorded numbers
(`lab`: profiles, records, the comparison, the reference stages, the claims) and the command line (`cli`). Imports run
one way, which a test holds: `networks`, `data`, `diffusion`, `spaces`, `denoiser`, `checkpoints`, `training`; then
`measure` and `page`, `lab`, `cli`. A module knows those that come before it, never those that come after.

The names in PUBLIC can be had from here, `from ldm_course import pretrained`; each is loaded when first asked for.
"""

import importlib
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # by tqdm: progress bars are text here

__version__ = "0.1.0"

PUBLIC = {
    "config": ("UNetConfig", "AutoencoderConfig", "TrainConfig"),
    "device": ("default_device",),
    "diffusion.schedules": ("make_schedule", "add_noise"),
    "diffusion.samplers": ("sample",),
    "networks.unet": ("UNet",),
    "networks.autoencoder": ("Autoencoder",),
    "data.pictures": ("Pictures", "to_float", "to_uint8"),
    "data.loaders": ("load_data",),
    "data.latents": ("encode_pictures",),
    "spaces": ("PixelSpace", "LatentSpace"),
    "denoiser": ("Denoiser",),
    "checkpoints": ("load_denoiser", "load_model", "pretrained"),
    "training.trainer": ("Trainer",),
    "training.recipes": ("autoencoder_trainer", "denoiser_trainer", "finished_autoencoder", "denoiser_of"),
    "measure.distances": ("evaluate",),
    "lab.profiles": ("profile",),
}
_WHERE = {name: module for module, names in PUBLIC.items() for name in names}
__all__ = ["PUBLIC", "__version__", *sorted(_WHERE)]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'ldm_course' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
