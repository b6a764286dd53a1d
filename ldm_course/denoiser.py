"""A trained denoiser as one object: it knows all that drawing needs, and draws (chapters 0, 2 and 8).

Which schedule, which prediction, which space, which conditions: whoever trains decides that, and a wrong choice later
draws rubbish without a word. So nobody has to choose again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .checks import Count, Number, Several, check, describe, numbered, shaped
from .data.pictures import to_float, to_uint8
from .device import check_room, native_precision, out_of_memory
from .diffusion import editing
from .diffusion.consistency import ConsistencyModel, multistep
from .diffusion.samplers import sample, x0_predictor
from .diffusion.schedules import Schedule, check_invertible
from .networks.dit import DiT
from .networks.text import TextUNet
from .networks.unet import UNet
from .spaces import LatentSpace, PixelSpace

Label = str | int | Tensor | None
Prompt = str | Sequence[str] | None
_READS_NOT = "this model was trained without texts; leave the prompt out"


@dataclass(frozen=True)
class Condition:
    """What some pictures are asked to show: `asked`, and what stands for nothing asked, `nothing`, shaped like it.

    Classes int64 (count,), or encoded texts (count, L, D). A slice of it is the condition of those pictures.
    """

    asked: Tensor
    nothing: Tensor

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, part: slice) -> Condition:
        return Condition(self.asked[part], self.nothing[part])


@dataclass(frozen=True)
class Denoiser:
    """A network, the space it works in, its schedule and what it predicts; `meta` is what its file says beside that.

    In all methods, what is asked for. `label`: for each picture a class, int64 (count,); or one class for all, by name
    or number; or None, for no class in particular. `prompt`, for a network that reads texts: a text for each picture,
    or one for all, or None, the empty text; `negative_prompt`, likewise, is what guidance leads away from, in place of
    the empty text. `guidance_scale` s: x̂₀ is what the network says without the condition, plus s times what the
    condition changes; 1 is no guidance (the papers' w is s - 1).
    ValueError: schedule and prediction do not go together there (`schedules.check_invertible`), or network and space.
    """

    model: UNet | TextUNet | DiT
    space: PixelSpace | LatentSpace
    schedule: Schedule
    prediction: str
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        check_invertible(self.schedule, self.prediction, self.space.clip_x0)
        config = getattr(self.model, "config", None)  # which a network of one's own need not have
        if c := getattr(config, "unet", config):
            one = torch.empty(1, *self.space.shape[-3:], device="meta")
            shaped(one, f"{self.space.name} samples", "float", 1, c.out_channels, "H", "W", multiple=c.multiple)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def num_classes(self) -> int | None:
        """How many classes it knows; None: it was trained without."""
        return None if self.reads else self.model.config.num_classes

    @property
    def reads(self) -> bool:
        """Whether it takes prompts."""
        return isinstance(self.model, TextUNet)

    @property
    def classes(self) -> list[str]:
        """Their names, where its file has them."""
        return list(self.meta.get("classes") or [])

    def condition(
        self, count: int, *, label: Label = None, prompt: Prompt = None, negative_prompt: Prompt = None
    ) -> Condition | None:
        """What `count` pictures are asked to show; None: nothing, of a network that knows no text.

        ValueError: what this network does not take, or not one for each picture.
        """
        if not self.reads:
            if prompt is not None or negative_prompt is not None:
                raise ValueError(_READS_NOT)
            labels = self.labels(label, count)
            return None if labels is None else Condition(labels, torch.full_like(labels, self.num_classes))
        if label is not None:
            raise ValueError("this model was trained with texts, not with classes; give a prompt in place of a label")
        return Condition(*(self._encoded(_texts(text, count)) for text in (prompt, negative_prompt)))

    @torch.no_grad()
    def _encoded(self, texts: list[str]) -> Tensor:
        """(count, L, D); the same text once."""
        distinct = list(dict.fromkeys(texts))
        context = self.model.encode(self.model.tokenizer(distinct).to(self.device))
        return context[[distinct.index(text) for text in texts]]

    def notes(self, prompt: str) -> list[str]:
        """What the reader of a prompt should know: words that this network does not know, words left out for length."""
        if not self.reads:
            raise ValueError(_READS_NOT)
        tokenizer, said = self.model.tokenizer, []
        if unknown := list(dict.fromkeys(tokenizer.unknown(prompt))):
            more = f", and {len(unknown) - 12} more" if len(unknown) > 12 else ""
            said.append(f"not in its vocabulary, so passed over: {', '.join(unknown[:12])}{more}")
            if torch.equal(tokenizer([prompt]), tokenizer([""])):
                said.append("no word of it is known, so it draws as if nothing were asked")
        if cut := tokenizer.cut(prompt):
            said.append(f"it reads {tokenizer.length - 2} words; the last {len(cut)} were left out")
        return said

    def labels(self, label: Label, count: int) -> Tensor | None:
        """Classes as int64 (count,) on the network's device. ValueError: there is no such class, or there are not
        `count` numbers. (The numbers in a GPU's tensor are not looked at, since it would wait.)"""
        if label is None:
            return None
        if self.num_classes is None:
            raise ValueError("this model was trained without classes; leave the label out")
        if isinstance(label, (list, tuple)):
            label = torch.tensor([self._number(one) for one in label], dtype=torch.int64)
        label = torch.full((count,), self._number(label)) if isinstance(label, (str, int)) else torch.as_tensor(label)
        shaped(label, "labels, one for each picture", "int64", count)
        if label.device.type == "cpu":
            numbered(label, "labels", count, self.num_classes)
        return label.to(self.device)

    def classes_in_turn(self, count: int) -> Tensor | None:
        """All classes one after another, int64 (count,); None: it was trained without."""
        return None if self.num_classes is None else torch.arange(count) % self.num_classes

    def _number(self, label: str | int) -> int:
        names = {str(i): i for i in range(self.num_classes)}
        if isinstance(label, str):  # of classes that are called 1, 2 and 10, "2" is the second and 2 the third
            names |= {name: i for i, name in enumerate(self.classes)}
        if str(label) not in names:
            known = f", or one of {', '.join(self.classes)}" if self.classes else ""
            raise ValueError(f"no class {str(label)!r}; expected 0 to {self.num_classes - 1}{known}")
        return names[str(label)]

    def predictor(
        self,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[int, int] | None = None,
    ) -> Callable[[Tensor, int], Tensor]:
        """predict_x0(xt, t), which `samplers.sample` calls at each step; see `samplers.x0_predictor`."""
        return x0_predictor(
            self.model,
            self.schedule,
            prediction=self.prediction,
            clip_x0=self.space.clip_x0,
            condition=condition and condition.asked,
            no_condition=condition and condition.nothing,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
        )

    def sample(
        self,
        noise: Tensor,
        *,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: Prompt = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[int, int] | None = None,
        **sampler,
    ) -> Tensor:
        """From noise (B, *space.shape) to samples like it, in the denoiser's space; `sampler` are the options of
        `samplers.sample`: steps, method, eta, generator, callback."""
        noise = noise.to(self.device).float()
        condition = self.condition(len(noise), label=label, prompt=prompt, negative_prompt=negative_prompt)
        return sample(self.predictor(condition, guidance_scale, guidance_interval), noise, self.schedule, **sampler)

    def generate(
        self,
        count: int,
        *,
        steps: int = 50,
        method: str = "ddim",
        eta: float = 0.0,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: Prompt = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[int, int] | None = None,
        seed: int = 0,
        batch_size: int = 64,
        show: bool = False,
        draw: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """`count` new pictures, uint8 (count, 3, H, W), on the CPU: noise, the sampler's steps, the way to pictures.

        The same seed gives the same noise for every method and number of steps. The network computes in bf16 where the
        hardware does; the sampler's own arithmetic and the decoder stay in float32. `show` draws a progress bar.
        `draw(predict_x0, noise, rows, **sampler)` is another way from a batch's noise to its samples than `sample`,
        and `rows` says which of the `count` they are: `redraw`, `inpaint` and `translate` are such ways.
        ValueError: no picture is asked for, what `condition` or `samplers.sample` refuse, or samples that are not
        finite.
        """
        for name, kind, value in (("count", Several, count), ("batch_size", Count, batch_size), ("seed", int, seed)):
            check(kind, value, name)
        check(Number, guidance_scale, "guidance_scale")
        check_room(f"{count:,} pictures", 6 * count * self.space.size**2, "ask for fewer at a time")
        self.model.eval()
        condition = self.condition(count, label=label, prompt=prompt, negative_prompt=negative_prompt)
        device, pictures = self.device, []
        for first in range(0, count, batch_size):
            n = min(batch_size, count - first)
            # One generator a batch, on the CPU: the pictures do not depend on the device. It takes 32 bits of a seed,
            # and training counts up in them (`BatchRandom`), so here they are counted down.
            rng = torch.Generator().manual_seed(~(seed * 1_000_003 + first) % 2**32)
            noise = torch.randn(n, *self.space.shape, generator=rng).to(device)
            # for the sampler's own noise; its seed is drawn, so that it is not the next batch's
            chance = torch.Generator(device).manual_seed(torch.randint(2**62, (), generator=rng).item())
            options = {"steps": steps, "method": method, "eta": eta, "generator": chance, "progress": show}
            rows = slice(first, first + n)
            predict_x0 = self.predictor(condition and condition[rows], guidance_scale, guidance_interval)
            with self._native_precision():
                try:
                    if draw is None:
                        x0 = sample(predict_x0, noise, self.schedule, **options)
                    else:
                        x0 = draw(predict_x0, noise, rows, **options)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    raise ValueError(
                        f"out of memory with {n} pictures at once; take a batch_size, or a count, of {max(1, n // 2)}"
                    ) from error
            if not bool(x0.isfinite().all()):
                raise ValueError(
                    "the samples are NaN or infinite, so these weights have failed; train them again, in an empty "
                    "folder and with a lower lr"
                )
            pictures.append(self.space.to_pictures(x0).cpu())
        return torch.cat(pictures)

    def jump(self, count: int, *, steps: int = 1, **options) -> Tensor:
        """`count` new pictures by a consistency model, in few steps (`consistency.multistep`). `options` are those of
        `generate`, less the sampler's; with one step so is the result. ValueError also for any other denoiser."""
        if not isinstance(self.model, ConsistencyModel):
            raise ValueError(f"a {type(self.model).__name__} is no consistency model, and does not jump; use generate")
        if taken := sorted({"method", "eta", "show", "draw"} & options.keys()):
            raise ValueError(f"{', '.join(taken)}: a consistency model has one way to sample; leave it out")

        def draw(predict_x0, noise, rows, *, steps, generator, **others):
            return multistep(predict_x0, noise, self.schedule, steps=steps, generator=generator)

        return self.generate(count, steps=steps, draw=draw, **options)

    def _native_precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=native_precision(self.device) == "bf16")

    def redraw(self, pictures: Tensor, strength: float, **options) -> Tensor:
        """Image to image: uint8 pictures (count, 3, H, W), each drawn anew from as much noise as `strength` in (0, 1]
        says (`editing.redraw`). `options` are those of `generate`, and with strength 1 so is the result. ValueError
        also for pictures of another size, and for more steps than `strength` leaves noise levels."""
        x0 = self._samples(pictures)

        def draw(predict_x0, noise, rows, **sampler):
            return editing.redraw(predict_x0, x0[rows], noise, self.schedule, strength=strength, **sampler)

        return self.generate(len(x0), draw=draw, **options)

    def inpaint(self, pictures: Tensor, mask: Tensor, *, resamplings: int = 1, **options) -> Tensor:
        """Uint8 pictures (count, 3, H, W), drawn anew where `mask`, bool (1 or count, 1, H, W), is True, and untouched
        elsewhere. What they hold beneath the mask makes no difference; with everything masked it is `generate`.

        `resamplings`: see `editing.inpaint`. `options` are those of `generate`; noise in each step (method='ddpm') fits
        in better than none. In latent space the mask is that of all latents with a masked pixel, and `editing.pasted`
        puts the known pixels back. ValueError also for pictures of another size, and a mask that does not fit.
        """
        pictures, mask = pictures.cpu(), mask.cpu()
        editing.check_mask(mask, pictures)
        downsample = self.space.size // self.space.shape[-1]
        reach = 2 * downsample
        x0 = self._samples(to_uint8(editing.continued(to_float(pictures), mask, reach)))
        coarse = editing.coarse_mask(mask, downsample).to(self.device).expand(len(x0), -1, -1, -1)

        def draw(predict_x0, noise, rows, **sampler):
            known = x0[rows], coarse[rows]
            return editing.inpaint(predict_x0, *known, noise, self.schedule, resamplings=resamplings, **sampler)

        made = self.generate(len(x0), draw=draw, **options)
        return editing.pasted(made, pictures, mask, reach)

    def invert(
        self,
        pictures: Tensor,
        *,
        label: Label = None,
        prompt: Prompt = None,
        steps: int = 50,
        strength: float = 1.0,
        method: str = "ddim",
        batch_size: int = 64,
        show: bool = False,
    ) -> Tensor:
        """The noise, float (count, *space.shape) on the network's device, from which `sample` draws these uint8
        pictures (count, 3, H, W) under the same condition: nearly, and the more nearly the more steps
        (`editing.invert`). The network computes as in `generate`. ValueError also for pictures of another size."""
        check(Count, batch_size, "batch_size")
        self.model.eval()
        x0 = self._samples(pictures)
        condition = self.condition(len(x0), label=label, prompt=prompt)
        options = {"steps": steps, "strength": strength, "method": method, "progress": show}
        noise = []
        for first in range(0, len(x0), batch_size):
            rows = slice(first, first + batch_size)
            with self._native_precision():
                predict_x0 = self.predictor(condition and condition[rows])
                noise.append(editing.invert(predict_x0, x0[rows], self.schedule, **options))
        return torch.cat(noise)

    def translate(self, pictures: Tensor, source: Label | Prompt, *, strength: float = 1.0, **options) -> Tensor:
        """Uint8 pictures (count, 3, H, W) of `source`, a class or prompt, made into what `options` ask for: inverted
        under the one, drawn again under the other (`editing.translate`). `options` are those of `generate`; the method
        is one without noise of its own. ValueError also for pictures of another size."""
        x0 = self._samples(pictures)
        asked = self.condition(len(x0), **{"prompt" if self.reads else "label": source})

        def draw(predict_x0, noise, rows, **sampler):
            guesses = self.predictor(asked and asked[rows]), predict_x0
            return editing.translate(*guesses, x0[rows], self.schedule, strength=strength, **sampler)

        return self.generate(len(x0), draw=draw, **options)

    def _samples(self, pictures: Tensor, batch_size: int = 64) -> Tensor:
        """Uint8 pictures in the denoiser's space, on its device. ValueError: no tensor of them."""
        if not isinstance(pictures, Tensor):
            raise ValueError(f"got {describe(pictures)}; expected a tensor of pictures, uint8 (B, 3, H, W)")
        return torch.cat([self.space.from_pictures(part.to(self.device)) for part in pictures.split(batch_size)])


def _texts(text: Prompt, count: int) -> list[str]:
    """A text for each of `count` pictures."""
    texts = [text or ""] * count if text is None or isinstance(text, str) else list(text)
    if len(texts) != count:
        raise ValueError(f"{len(texts)} prompts for {count} pictures; expected one for each, or one for all")
    return texts
